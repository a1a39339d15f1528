"""Plans, and parts of them, as reports and files need them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from rebalancer.cluster.inventory import HostId, HostState, Mode, VmId
from rebalancer.cluster.plan import (
    HostOutlook,
    Migration,
    Objective,
    Plan,
    Priority,
    SolveStatus,
    Verdict,
    VerdictKind,
)
from rebalancer.cluster.prediction import Confidence, Prediction
from rebalancer.service.config import Settings, load_settings
from tests.builders import GIB, MIB, NOON


def a_prediction(**changed: Any) -> Prediction:
    """Forty seconds, a fifth of a second of downtime."""
    facts: dict[str, Any] = {
        "start_seconds": 0.0,
        "duration_seconds": 40.0,
        "duration_upper_seconds": 52.0,
        "downtime_seconds": 0.2,
        "downtime_upper_seconds": 0.3,
        "transfer_bytes": 4.4 * GIB,
        "confidence": Confidence.HIGH,
    }
    return Prediction(**(facts | changed))


def a_migration(number: int = 1, **changed: Any) -> Migration:
    """The `number`-th migration of a plan, live from h1 to h2."""
    facts: dict[str, Any] = {
        "id": f"m{number}",
        "vm": VmId(f"uuid-{number}"),
        "vm_name": f"vm{number}",
        "source": HostId("h1"),
        "target": HostId("h2"),
        "mode": Mode.LIVE,
        "mode_reason": "converges in 3 rounds",
        "reason": "h1 is at 0.94 CPU",
        "priority": Priority.BALANCE,
        "wave": 1,
        "depends_on": (),
        "bytes_per_second": 112.0 * MIB,
        "max_downtime_seconds": 0.5,
        "memory_bytes": 4 * GIB,
        "predicted": a_prediction(),
    }
    return Migration(**(facts | changed))


def an_outlook(name: str = "h1", **changed: Any) -> HostOutlook:
    """A host that the plan does not touch."""
    facts: dict[str, Any] = {
        "host": HostId(name),
        "name": name,
        "state": HostState.UP,
        "cpu_ratio_before": 0.5,
        "cpu_ratio_after": 0.5,
        "memory_ratio_before": 0.4,
        "memory_ratio_after": 0.4,
        "vms_before": 4,
        "vms_after": 4,
    }
    return HostOutlook(**(facts | changed))


def an_objective(**changed: Any) -> Objective:
    """From 4 to 2, where 1.9 would be the best that can be hoped for."""
    facts: dict[str, Any] = {
        "before": 4.0,
        "after": 2.0,
        "bound": 1.9,
        "status": SolveStatus.TIME_LIMIT,
        "solve_seconds": 1.25,
        "terms_before": {"balance": 4.0, "movement": 0.0},
        "terms_after": {"balance": 1.8, "movement": 0.2},
    }
    return Objective(**(facts | changed))


def a_plan(**changed: Any) -> Plan:
    """One migration that takes load off h1."""
    facts: dict[str, Any] = {
        "id": "plan-1",
        "cluster": "test",
        "creator": "admin",
        "created_at": NOON,
        "expires_at": NOON + timedelta(days=1),
        "policy": "balance",
        "policy_fingerprint": "0123456789abcdef",
        "snapshot_fingerprint": "fedcba9876543210",
        "snapshot_taken_at": NOON - timedelta(seconds=3),
        "verdict": Verdict(
            kind=VerdictKind.MOVES, text="move 1 VM (4.0 GiB), peak CPU 94 % → 61 %"
        ),
        "objective": an_objective(),
        "hosts": (
            an_outlook("h1", cpu_ratio_before=0.94, cpu_ratio_after=0.61, vms_after=3),
            an_outlook("h2", cpu_ratio_before=0.3, cpu_ratio_after=0.6, vms_after=5),
            an_outlook("h3", state=HostState.DRAINING),
        ),
        "migrations": (a_migration(),),
        "makespan_seconds": 40.0,
        "makespan_lower_bound_seconds": 38.5,
        "commands": {"m1": ("virsh -c qemu+ssh://h1/system migrate --live --p2p uuid-1",)},
    }
    return Plan(**(facts | changed))


def settings_without_file(**flags: object) -> Settings:
    """The defaults, whatever this machine is set up with."""
    nowhere = Path("/nonexistent/rebalancer.yaml")
    return load_settings(flags=flags, system_config=nowhere)
