"""Rules that are about nothing in the cluster: a slip in a label protects no VM.

`doctor` tells them with the policy's file, plans as notes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rebalancer.cluster.inventory import HostState, Snapshot
from rebalancer.cluster.policy import Policy
from rebalancer.cluster.rules import Ban, Fence, Rule
from rebalancer.cluster.selection import HostSelector, VmSelector, members_of
from rebalancer.service.wording import count_text

_ANYTHING = ("*",)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleRule:
    """A rule whose selector means nothing that there is."""

    rule: str
    text: str
    """`no VM matches {labels: {app: db}}`."""
    is_general: bool = False
    """It asks for any value of a label, so it may well be there before the first VM with one."""


def idle_rules(snapshot: Snapshot, policy: Policy) -> Iterator[IdleRule]:
    """Find the rules that are about no VM, or about hosts that do not exist."""
    silent = sum(host.state is HostState.UNKNOWN for host in snapshot.hosts)
    unsure = f" ({count_text(silent, 'host')} did not answer)" if silent else ""
    for rule in policy.rules:
        if not members_of(rule.vms, snapshot):
            text = f"no VM matches {_vms_text(rule.vms)}{unsure}"
            yield IdleRule(rule=rule.name, text=text, is_general=_is_general(rule.vms))
        if (hosts := _hosts_of(rule)) is not None and not any(map(hosts.matches, snapshot.hosts)):
            yield IdleRule(rule=rule.name, text=f"no host matches {_hosts_text(hosts)}")


def _hosts_of(rule: Rule) -> HostSelector | None:
    match rule:
        case Fence():
            return rule.to
        case Ban():
            return rule.hosts
        case _:
            return None


def _is_general(vms: VmSelector) -> bool:
    return vms.names in ((), _ANYTHING) and all(g == _ANYTHING for g in vms.labels.values())


def _vms_text(vms: VmSelector) -> str:
    return _braced({"names": vms.names} | _labels(vms))


def _hosts_text(hosts: HostSelector) -> str:
    given = {"names": hosts.names} | _labels(hosts)
    return _braced(given | {"site": hosts.sites, "rack": hosts.racks})


def _labels(selector: VmSelector | HostSelector) -> dict[str, tuple[str, ...]]:
    written = {name: tuple(globs) for name, globs in selector.labels.items()}
    return {"labels": (_braced(written),)} if written else {}


def _braced(given: dict[str, tuple[str, ...]]) -> str:
    """Write it as the policy may have it: `{labels: {app: [db, web]}}`."""
    parts = (
        f"{key}: {values[0] if len(values) == 1 else f'[{", ".join(values)}]'}"
        for key, values in given.items()
        if values
    )
    return f"{{{', '.join(parts)}}}"
