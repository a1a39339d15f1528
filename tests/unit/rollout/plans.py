"""Plans as rollout tests need them: a line for each migration, the rest is sensible."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from rebalancer.cluster.inventory import HostId, Mode, VmId
from rebalancer.cluster.plan import Migration, Plan, Priority, Verdict, VerdictKind
from rebalancer.cluster.policy import Limits
from rebalancer.cluster.prediction import Confidence, Prediction
from tests.builders import GIB, MIB, NOON

LIMITS = Limits(per_host_out=2, per_host_in=2, cluster=3, link_share=0.7)


def a_migration(
    vm: str = "vm1", source: str = "h1", target: str = "h2", **changed: Any
) -> Migration:
    """A live migration of 4 GiB at 200 MiB/s that should take 25 s."""
    facts: dict[str, Any] = {
        "id": "m1",
        "vm_name": vm,
        "mode": Mode.LIVE,
        "mode_reason": "it converges",
        "reason": "h1 is hot",
        "priority": Priority.BALANCE,
        "wave": 1,
        "depends_on": (),
        "bytes_per_second": 200.0 * MIB,
        "max_downtime_seconds": 0.5,
        "memory_bytes": 4 * GIB,
        "predicted": Prediction(
            start_seconds=0.0,
            duration_seconds=25.0,
            duration_upper_seconds=40.0,
            downtime_seconds=0.2,
            downtime_upper_seconds=0.5,
            transfer_bytes=4.0 * GIB,
            confidence=Confidence.HIGH,
        ),
    }
    return Migration(vm=VmId(vm), source=HostId(source), target=HostId(target), **(facts | changed))


def a_plan(*migrations: Migration, id: str = "p1", cluster: str = "test") -> Plan:
    """A plan of those migrations, made at noon."""
    return Plan(
        id=id,
        cluster=cluster,
        creator="test",
        created_at=NOON,
        expires_at=NOON + timedelta(days=1),
        policy="test",
        policy_fingerprint="policy",
        snapshot_fingerprint="snapshot",
        snapshot_taken_at=NOON,
        verdict=Verdict(kind=VerdictKind.MOVES, text=f"{len(migrations)} moves"),
        objective=None,
        hosts=(),
        migrations=migrations,
    )
