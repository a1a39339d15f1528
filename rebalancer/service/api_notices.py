"""What the daemon last came to, policy by policy, for those who ask while it works.

The worker puts finished values up, readers take them down: nobody waits for anybody longer than it
takes to exchange a reference.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import Snapshot, VmId
from rebalancer.cluster.plan import Plan
from rebalancer.service.cycle import Cycle


class CycleResult(StrEnum):
    """What kind of verdict a cycle came to."""

    BALANCED = "balanced"
    BELOW_THRESHOLD = "below threshold"
    NO_GAIN = "no gain"
    WAITING = "waiting"
    RECOMMENDED = "recommended"
    PLAN_ONLY = "plan only"
    """Telemetry is not good enough to act on."""
    PAUSED = "paused"
    MOVED = "moved"
    """All of its plan, or some of it."""
    STOPPED = "stopped"
    BLOCKED = "blocked"
    FAILED = "failed"
    STANDING_BY = "standing by"
    """Another daemon leads."""
    OTHER = "other"

    @classmethod
    def of(cls, verdict: str) -> CycleResult:
        """Tell by the words that a verdict begins with."""
        return next((result for result in cls if verdict.startswith(result.value)), cls.OTHER)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """What a cycle saw and planned."""

    snapshot: Snapshot
    """Without past use, which would be most of it."""
    demand: Demand
    plan: Plan

    @classmethod
    def of(cls, cycle: Cycle) -> Seen:
        """Take what is told from a cycle."""
        return cls(
            snapshot=replace(cycle.snapshot, usage=None), demand=cycle.demand, plan=cycle.plan
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastError:
    """What a cycle foresaw, beside what the next one measured."""

    mean_cores: float
    """Mean absolute error of the VMs' CPU use."""
    exceeded_ratio: float
    """Share of the VMs that used more than the upper quantile foreseen for them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Notice:
    """Where a policy stands."""

    mode: str
    verdict: str = ""
    """Empty: no cycle has ended since the daemon started."""
    result: CycleResult | None = None
    ended_at: datetime | None = None
    took_seconds: float = 0.0
    next_at: datetime | None = None
    """When its next cycle is due."""
    seen: Seen | None = None
    """Of its last cycle that could look at the cluster."""
    forecast_error: ForecastError | None = None
    cycles: Mapping[CycleResult, int] = field(default_factory=dict)
    """How many cycles came to what, since the daemon started."""
    planned_migrations: int = 0
    """Of all its plans together."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Notices:
    """Everything that is put up."""

    policies: Mapping[str, Notice] = MappingProxyType({})
    running: str = ""
    """The policy whose cycle is under way; empty: none."""
    running_since: datetime | None = None
    role: str = ""
    """`leads`, `stands by` or `unsure`; empty: not asked yet."""
    leader: str = ""
    """Who leads the cluster, and since when; or why that is not known."""

    @property
    def newest(self) -> Seen | None:
        """What was seen last, whichever policy looked."""
        seen = [notice.seen for notice in self.policies.values() if notice.seen is not None]
        return max(seen, key=lambda one: one.snapshot.taken_at, default=None)


class Noticeboard:
    """Holds the notices; any thread may read, and any may write."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._notices = Notices()

    def read(self) -> Notices:
        """Return what is put up just now; it does not change any more."""
        return self._notices

    def expect(self, policies: Mapping[str, tuple[str, datetime | None]]) -> None:
        """Have a notice of exactly these policies, each with its mode and its next cycle."""
        with self._lock:
            old = self._notices.policies
            kept = {
                name: replace(old.get(name) or Notice(mode=mode), mode=mode, next_at=next_at)
                for name, (mode, next_at) in policies.items()
            }
            self._notices = replace(self._notices, policies=MappingProxyType(kept))

    def stand(self, role: str, leader: str) -> None:
        """Note whether this daemon leads."""
        with self._lock:
            self._notices = replace(self._notices, role=role, leader=leader)

    def begin(self, policy: str, at: datetime) -> None:
        """Note that a cycle is under way."""
        with self._lock:
            self._notices = replace(self._notices, running=policy, running_since=at)

    def saw(self, policy: str, mode: str, seen: Seen) -> None:
        """Put up what a cycle saw and planned, before it acts."""
        with self._lock:
            old = self._notices.policies.get(policy) or Notice(mode=mode)
            error = forecast_error(old.seen, seen) or old.forecast_error
            planned = old.planned_migrations + len(seen.plan.migrations)
            self._put(
                policy, replace(old, seen=seen, forecast_error=error, planned_migrations=planned)
            )

    def end(
        self,
        policy: str,
        mode: str,
        verdict: str,
        *,
        at: datetime,
        took_seconds: float,
        next_at: datetime | None,
    ) -> None:
        """Put up what a cycle came to."""
        with self._lock:
            old = self._notices.policies.get(policy) or Notice(mode=mode)
            result = CycleResult.of(verdict)
            self._notices = replace(self._notices, running="", running_since=None)
            self._put(
                policy,
                replace(
                    old,
                    mode=mode,
                    verdict=verdict,
                    result=result,
                    ended_at=at,
                    took_seconds=took_seconds,
                    next_at=next_at,
                    cycles={**old.cycles, result: old.cycles.get(result, 0) + 1},
                ),
            )

    def _put(self, policy: str, notice: Notice) -> None:
        policies = {**self._notices.policies, policy: notice}
        self._notices = replace(self._notices, policies=MappingProxyType(policies))


def forecast_error(before: Seen | None, now: Seen) -> ForecastError | None:
    """Compare what was foreseen with what was measured next; `None` if there is nothing to."""
    if before is None or before.snapshot.taken_at >= now.snapshot.taken_at:
        return None
    expected = before.demand.vm_cpu_cores
    measured: dict[VmId, float] = {
        vm.id: vm.cpu_used_cores
        for vm in now.snapshot.vms
        if vm.is_active and vm.id in expected and before.snapshot.vm_by_id[vm.id].is_active
    }
    if not measured:
        return None
    errors = (abs(expected[vm] - used) for vm, used in measured.items())
    exceeded = sum(used > before.demand.upper_cores(vm) for vm, used in measured.items())
    return ForecastError(
        mean_cores=sum(errors) / len(measured), exceeded_ratio=exceeded / len(measured)
    )
