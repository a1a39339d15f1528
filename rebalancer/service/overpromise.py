"""Hosts that have promised their guests more memory than they have, beyond what the policy allows.

That is no matter of taste as uneven load is: once the guests use what they were promised, the
kernel of the host ends one of them. So it is told first, in everything that people read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rebalancer.cluster.inventory import Host, HostState, Snapshot
from rebalancer.cluster.plan import HostOutlook, Plan
from rebalancer.cluster.policy import Policy
from rebalancer.service.wording import count_text, ratio_text

WHAT_THREATENS = (
    "once guests use what they were promised, the kernel ends one of them: move VMs off by hand, "
    "give guests or hosts other memory, or allow it with overcommit: {memory: …}"
)

_NAMED = 5
_SEEN = {HostState.UP, HostState.DRAINING, HostState.MAINTENANCE}
"""States of hosts that are known to run what is said to be on them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overpromise:
    """A host and the memory of its active VMs."""

    host: str
    ratio: float
    """Promised / what guests of the host may use, more than 1."""
    allowed_ratio: float
    """The most that a policy that looks after the host allows; 1 where none does."""

    @property
    def is_allowed(self) -> bool:
        """Whether somebody wanted it so."""
        return self.ratio <= self.allowed_ratio


def left_overpromised(plan: Plan) -> tuple[HostOutlook, ...]:
    """The hosts that a plan leaves with more promised than they have, and than its policy allows.

    The worst comes first. One that is only fuller than `headroom` wants it is not among them.
    """
    broken = {violation.rule for violation in plan.violations_after}
    found = [
        host
        for host in plan.hosts
        if (host.memory_ratio_after or 0.0) > 1 and f"memory of {host.name}" in broken
    ]
    return tuple(sorted(found, key=lambda host: (-(host.memory_ratio_after or 0.0), host.name)))


def overpromised_now(snapshot: Snapshot, policies: Mapping[str, Policy]) -> tuple[Overpromise, ...]:
    """The hosts that have promised more than they have, whoever allows it; the worst first."""
    found = [
        Overpromise(
            host=host.name,
            ratio=ratio,
            allowed_ratio=_allowed_ratio(host, policies.values()),
        )
        for host in snapshot.hosts
        if host.state in _SEEN and (ratio := _promised_ratio(snapshot, host)) > 1
    ]
    return tuple(sorted(found, key=lambda one: (-one.ratio, one.host)))


def named(hosts: Sequence[tuple[str, float]]) -> str:
    """`h1 (225 %), h2 (103 %) and 3 hosts more`."""
    said = ", ".join(f"{name} ({_over_100(ratio)})" for name, ratio in hosts[:_NAMED])
    left = len(hosts) - _NAMED
    return f"{said} and {count_text(left, 'host')} more" if left > 0 else said


def _over_100(ratio: float) -> str:
    # 100.2 % is not to be read as 100 %.
    return ratio_text(ratio) if ratio >= 1.005 else ratio_text(ratio, 2)


def _promised_ratio(snapshot: Snapshot, host: Host) -> float:
    promised = sum(vm.memory_bytes for vm in snapshot.vms_by_host[host.id] if vm.is_active)
    return promised / host.guest_memory_bytes if host.guest_memory_bytes > 0 else 0.0


def _allowed_ratio(host: Host, policies: Iterable[Policy]) -> float:
    return max(
        (policy.overcommit.memory for policy in policies if policy.applies.matches(host)),
        default=1.0,
    )
