"""What failed lately, and what follows from it: a rest that gets longer, hosts that are left alone.

A migration that failed is no reason to try the same again five minutes later, and the third that
fails on its way to one host says more about that host than about the VMs. All of it is worked
out from the journal, so it holds across restarts, and all of it ends by itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from rebalancer.cluster.inventory import Host, HostId, HostState, Snapshot, Vm, VmId
from rebalancer.rollout.records import Move, Setback
from rebalancer.service.wording import count_text, seconds_text

FIRST_REST_SECONDS = 600.0
LONGEST_REST_SECONDS = 86400.0
"""A VM whose migration failed rests for ten minutes, then twice as long each time, up to a day;
one that comes through ends that. (Other systems begin with 20 s; they do not measure again.)"""

LOOK_BACK_SECONDS = 2 * LONGEST_REST_SECONDS
"""How far back failures matter: as long as the longest rest, and the one before it."""

QUARANTINE_SECONDS = 3600.0
"""So long after the last failure a host is left alone."""
VMS_TO_BLAME_A_HOST = 2
"""Different VMs that must have failed on a host before it is blamed and not they."""


def with_rests(
    snapshot: Snapshot,
    setbacks: Sequence[Setback],
    moves: Sequence[Move],
    now: datetime,
    *,
    urgent: Collection[VmId] = (),
) -> Snapshot:
    """The cluster with everything held still that has just failed.

    `urgent` VMs, of draining hosts and broken rules, are tried again at once.
    """
    if not setbacks:
        return snapshot
    resting = resting_vms(setbacks, moves, now)
    suspects = suspect_hosts(setbacks, moves, now)
    return replace(
        snapshot,
        hosts=tuple(_left_alone(host, suspects) for host in snapshot.hosts),
        vms=tuple(
            _held(vm, resting[vm.id]) if vm.id in resting and vm.id not in urgent else vm
            for vm in snapshot.vms
        ),
    )


def resting_vms(
    setbacks: Iterable[Setback], moves: Iterable[Move], now: datetime
) -> Mapping[VmId, str]:
    """VMs whose last migrations failed too lately to try again, each with the reason."""
    came_through = _latest(moves)
    failures: dict[VmId, list[Setback]] = defaultdict(list)
    for setback in sorted(setbacks, key=lambda each: each.at):
        if setback.at > came_through.get(setback.vm, setback.at - timedelta(1)):
            failures[setback.vm].append(setback)
    found = {}
    for vm, failed in failures.items():
        rest = timedelta(
            seconds=min(FIRST_REST_SECONDS * 2 ** (len(failed) - 1), LONGEST_REST_SECONDS)
        )
        if now - failed[-1].at < rest:
            found[vm] = (
                f"its migration failed {_ago(now - failed[-1].at)} ago ({failed[-1].text}); "
                f"it is tried again {_ago(rest)} after that"
            )
    return found


def _latest(moves: Iterable[Move]) -> Mapping[VmId, datetime]:
    return {move.vm: move.at for move in sorted(moves, key=lambda move: move.at)}


def suspect_hosts(
    setbacks: Iterable[Setback], moves: Iterable[Move], now: datetime
) -> Mapping[HostId, str]:
    """Hosts on which migrations of several VMs failed lately and none came through since.

    It is the target that is blamed; the source only where several targets failed from it.
    """
    recent = [s for s in setbacks if now - s.at < timedelta(seconds=QUARANTINE_SECONDS)]
    done = tuple(moves)
    into: dict[HostId, list[Setback]] = defaultdict(list)
    out_of: dict[HostId, list[Setback]] = defaultdict(list)
    for setback in recent:
        if not any(m.target == setback.target and m.at > setback.at for m in done):
            into[setback.target].append(setback)
        if not any(m.source == setback.source and m.at > setback.at for m in done):
            out_of[setback.source].append(setback)
    blamed = {host: _why(failed, "to", now) for host, failed in into.items() if _is_telling(failed)}
    for host, failed in out_of.items():
        if _is_telling(failed) and len({each.target for each in failed}) > 1:
            blamed[host] = _why(failed, "off", now)
    return blamed


def _is_telling(failed: Sequence[Setback]) -> bool:
    return len({each.vm for each in failed}) >= VMS_TO_BLAME_A_HOST


def _why(failed: Sequence[Setback], way: str, now: datetime) -> str:
    last = max(failed, key=lambda each: each.at)
    until = timedelta(seconds=QUARANTINE_SECONDS) - (now - last.at)
    return (
        f"{count_text(len(failed), 'migration')} {way} it failed lately, the last one with: "
        f"{last.text}; left alone for {_ago(until)} more"
    )


def _left_alone(host: Host, suspects: Mapping[HostId, str]) -> Host:
    # A host that is to be emptied is emptied, whatever it takes.
    if host.id not in suspects or host.state is not HostState.UP:
        return host
    return replace(host, state=HostState.MAINTENANCE, state_reason=suspects[host.id])


def _held(vm: Vm, why: str) -> Vm:
    return replace(vm, blockers=(*vm.blockers, why))


def _ago(span: timedelta) -> str:
    return seconds_text(max(0.0, span.total_seconds()))
