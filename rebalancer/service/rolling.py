"""`rebalancer drain HOST… --rolling N`: maintenance of many hosts, one group after the other.

    drain a group → run a command for it, or wait for its `undrain` → its hosts are up again
    → its VMs come home, if that is asked for → the next group

The cluster's lock is held while VMs are moved, and given back while people and machines work on
a group. Each group is planned from what is seen when its turn comes. Whatever goes wrong ends the
round: the hosts of that group stay drained, the ones after it are untouched, and the command that
goes on with them is printed. A command that was begun for a host is not run for it again before
somebody said so (`maintenance_command`).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from rebalancer.cluster.inventory import HostId, HostState
from rebalancer.errors import ExitCode, JournalError, LockHeldError, RebalancerError, UsageError
from rebalancer.forecast.demand import forecast_demand
from rebalancer.service.access import ReadAccess, Where, open_for_reading
from rebalancer.service.change_access import ChangeAccess, open_for_change
from rebalancer.service.emptying import DrainWish, drain_hosts, foreseen, show
from rebalancer.service.maintenance import Group, Grouping, maintenance_groups
from rebalancer.service.maintenance_command import (
    IfBegun,
    MaintenanceCommand,
    begun_for,
    described,
    refuse_if_begun,
    run_for,
    runs_of,
)
from rebalancer.service.reopening import bring_vms_home, unmark
from rebalancer.service.report import Format, render_tree
from rebalancer.service.session import (
    Session,
    drain_marks,
    hosts_named,
    observe,
    policy_for,
)
from rebalancer.service.signals import StopSwitch
from rebalancer.service.wording import seconds_text
from rebalancer.service.work import Work, at_work, nothing_was_changed

LOOK_SECONDS = 2.0
"""So often it is looked whether an operator has taken a drain back."""
BACK_LOOK_SECONDS = 10.0
"""So often it is looked whether a host is up again, or somebody else's work is over."""
LOCK_PATIENCE_SECONDS = 1800.0
"""So long somebody else may be changing the cluster when a group's turn comes."""
BACK_WITHIN_SECONDS = 1800.0
STEADY_SECONDS = 60.0
"""So long a host has to answer before it counts as back from a command. One that was told to
reboot goes on answering until it has stopped its services, and guests would be sent to it."""

_AWAY = frozenset({HostState.UNKNOWN, HostState.DOWN, HostState.ASLEEP})


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A round of maintenance, as it was asked for."""

    hosts: tuple[str, ...]
    at_once: int
    """Hosts in a group at most."""
    command: MaintenanceCommand
    """What is run for each group; if none, somebody runs `undrain` when its maintenance is over."""
    bring_home: bool = False
    back_within_seconds: float = BACK_WITHIN_SECONDS
    """How long hosts may take until they are up after their maintenance."""


def rehearse_round(session: Session, where: Where, asked: Round, wish: DrainWish) -> ExitCode:
    """Show the groups, and what would become of the VMs of each if it were the first."""
    _ = asked.command.words
    grouping = _grouping(session, where, asked, wish)
    _say_groups(session, grouping)
    read = open_for_reading(session.settings, where)
    codes = [ExitCode.BLOCKED if grouping.needed else ExitCode.SUCCESS]
    try:
        refuse_if_begun(session, read.cluster, _hosts_of(grouping.groups), asked.command)
    except RebalancerError as error:
        _say(session, str(error))
        codes.append(error.exit_code)
    trees = []
    for group in grouping.groups:
        prospect = foreseen(session, read, wish, group)
        codes.append(prospect.exit_code)
        trees.append(prospect.tree())
        if wish.output is not Format.JSON:
            show(session, prospect, wish.output)
    if wish.output is Format.JSON:
        render_tree({"groups": trees, "needed": dict(grouping.needed)}, session.out)
    return nothing_was_changed(session, max(codes))


def carry_out_round(session: Session, where: Where, asked: Round, wish: DrainWish) -> ExitCode:
    """Go through the groups; end with the first that does not become empty or does not return."""
    if where.scenario is not None and not asked.command.text:
        raise UsageError("a rehearsal of --rolling needs --then: nobody would run undrain in it")
    _ = asked.command.words
    grouping = _grouping(session, where, asked, wish)
    _say_groups(session, grouping)
    if grouping.needed:
        session.err.print("nothing was changed", highlight=False)
        if wish.output is Format.JSON:
            render_tree({"groups": [], "needed": dict(grouping.needed)}, session.out)
        return ExitCode.BLOCKED
    cluster = open_for_reading(session.settings, where).cluster
    refuse_if_begun(session, cluster, _hosts_of(grouping.groups), asked.command)
    # A simulated datacentre is built once, or every group would find it as it was at the start.
    kept = open_for_change(session.settings, where) if where.scenario is not None else None
    trees: list[dict[str, Any]] = []
    code = ExitCode.SUCCESS
    try:
        for number, group in enumerate(grouping.groups):
            turn = _Turn(session=session, where=where, asked=asked, wish=wish, access=kept)
            try:
                code = turn.take(group, trees)
            except RebalancerError:
                _say_how_to_go_on(session, cluster, asked, grouping.groups[number:])
                raise
            if code is not ExitCode.SUCCESS:
                _say_how_to_go_on(session, cluster, asked, grouping.groups[number:])
                break
    finally:
        if kept is not None:
            kept.close()
    if wish.output is Format.JSON:
        render_tree({"groups": trees}, session.out)
    return code


type Groups = Sequence[Group]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Due:
    """A command that is going to be run, as the journal has it."""

    hosts: tuple[HostId, ...]
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """What is done for one group."""

    session: Session
    where: Where
    asked: Round
    wish: DrainWish
    access: ChangeAccess | None

    def take(self, group: Group, trees: list[dict[str, Any]]) -> ExitCode:
        with self._lock_taken() as work:
            cluster = work.access.read.cluster
            refuse_if_begun(self.session, cluster, group, self.asked.command)
            if against := _reasons_against(work, self.wish, group):
                self._say(f"{_names(group)}: not drained, as {against}; the round ends here")
                return ExitCode.BLOCKED
            drained = drain_hosts(work, self.wish, group)
            marks = work.journal.drains(cluster)
            trees.append(drained.tree())
            if not drained.is_empty:
                self._say(f"{_names(group)}: not empty, so the round ends here")
                return drained.exit_code
            open_again = [host for host in group if host not in marks]
            if self.asked.command.text and open_again:
                # VMs may be placed there by now, and the command may well take it down.
                names = _names(open_again)
                self._say(f"the drain of {names} was taken back, so the round ends here")
                return ExitCode.PARTIAL
            due = self._written_down(work, group)
        with StopSwitch() as stop:
            code = self._maintained(group, due, stop)
            if code is ExitCode.SUCCESS:
                code = self._returned(group, stop)
        if stop.exit_code is not None:
            return stop.exit_code
        since = {host: marks[host].since for host in group if host in marks}
        return self._reopened(group, since) if code is ExitCode.SUCCESS else code

    def _written_down(self, work: Work, group: Group) -> _Due | None:
        """Note in the journal for which hosts the command is going to be run, if for any."""
        command = self.asked.command
        if not command.text:
            return None
        runs = runs_of(self.session, work.access.read.cluster, group)
        skipped = command.skipped_among(group, runs)
        for run in (run for run in runs if run.command == command.text):
            again = "it is not run again" if set(run.hosts) & set(skipped) else "now it is run"
            self._say(f"{described(run)}; {again}")
        hosts = tuple(host for host in group if host not in skipped)
        if not hosts:
            return None
        return _Due(hosts=hosts, name=begun_for(self.session, hosts, command, work.lease))

    def _maintained(self, group: Group, due: _Due | None, stop: StopSwitch) -> ExitCode:
        if not self.asked.command.text:
            return self._awaited(group, stop)
        if due is None:
            return ExitCode.SUCCESS
        if stop.request():
            return ExitCode.PARTIAL
        went = run_for(self.session, due.name, due.hosts, self.asked.command, self._say)
        return ExitCode.SUCCESS if went else ExitCode.PARTIAL

    def _awaited(self, group: Group, stop: StopSwitch) -> ExitCode:
        """Wait until an operator has taken every drain of the group back."""
        read = self._read()
        then = shlex.join(["rebalancer", "undrain", *group])
        self._say(f"{_names(group)} can be worked on; when that is over: {then}")
        while drain_marks(self.session, read.cluster).keys() & set(group):
            if stop.request():
                return ExitCode.PARTIAL
            read.clock.sleep(LOOK_SECONDS)
        return ExitCode.SUCCESS

    def _returned(self, group: Group, stop: StopSwitch) -> ExitCode:
        """Wait until every host of the group is back; who runs `undrain` has looked."""
        within = self.asked.back_within_seconds
        away = not_back_in_time(
            self._read(),
            group,
            within_seconds=within,
            steady_seconds=STEADY_SECONDS if self.asked.command.text else 0.0,
            is_stopped=lambda: bool(stop.request()),
        )
        if away:
            self._say(f"{_names(away)} did not come back within {seconds_text(within)}")
        return ExitCode.PARTIAL if away or stop.request() else ExitCode.SUCCESS

    def _reopened(self, group: Group, since: Mapping[HostId, datetime]) -> ExitCode:
        with self._lock_taken() as work:
            if self.asked.command.text:
                unmark(work.journal, work.access.read.cluster, group, self.session.err)
            if not self.asked.bring_home:
                return ExitCode.SUCCESS
            output = Format.TABLE if self.wish.output is Format.JSON else self.wish.output
            console = self.session.err if self.wish.output is Format.JSON else self.session.out
            shown = replace(work, session=replace(self.session, out=console))
            code = bring_vms_home(shown, group, self.wish.policy, output, since)
        # VMs that are better off where they are do not keep the next group waiting.
        return ExitCode.SUCCESS if code is ExitCode.BLOCKED else code

    @contextmanager
    def _lock_taken(self) -> Iterator[Work]:
        """Take the cluster's lock; a daemon that moves VMs between two groups is waited for."""
        read = self._read()
        began = read.clock.now()
        with ExitStack() as held:
            while True:
                try:
                    work = held.enter_context(at_work(self.session, self.where, access=self.access))
                    break
                except LockHeldError as error:
                    waited = (read.clock.now() - began).total_seconds()
                    if waited >= LOCK_PATIENCE_SECONDS:
                        raise
                    self._say(f"waiting: {error}")
                    read.clock.sleep(BACK_LOOK_SECONDS)
            yield work

    def _read(self) -> ReadAccess:
        if self.access is not None:
            return self.access.read
        return open_for_reading(self.session.settings, self.where)

    def _say(self, text: str) -> None:
        _say(self.session, text)


def not_back_in_time(
    read: ReadAccess,
    group: Group,
    *,
    within_seconds: float,
    steady_seconds: float,
    is_stopped: Callable[[], bool],
) -> Group:
    """Wait until all hosts have answered for a while; return those that do not answer in time.

    A command may have ended before a host that it told to reboot was down. One that falls silent
    has `within_seconds` to come back, and its while begins anew. Empty if `is_stopped`, too.
    """
    began = read.clock.now()
    answers_since: datetime | None = None
    while not is_stopped():
        away, now = _not_back(read, group), read.clock.now()
        if away:
            answers_since = None
            if (now - began).total_seconds() >= within_seconds:
                return away
        else:
            answers_since = answers_since or now
            if (now - answers_since).total_seconds() >= steady_seconds:
                break
        read.clock.sleep(BACK_LOOK_SECONDS)
    return ()


def _not_back(read: ReadAccess, group: Group) -> Group:
    hosts = read.source.observe().host_by_id
    return tuple(host for host in group if host not in hosts or hosts[host].state in _AWAY)


def _reasons_against(work: Work, wish: DrainWish, group: Group) -> str:
    """Why a group must not be drained now: others may have failed since the groups were formed."""
    read = work.access.read
    policy = policy_for(work.session, read, wish.policy)
    seen = observe(work.session, read)
    now = maintenance_groups(seen, group, len(group), policy, forecast_demand(seen, policy))
    if now.needed:
        return "; ".join(
            f"without {host} too little is left for {s}" for host, s in now.needed.items()
        )
    return (
        "" if len(now.groups) == 1 else "by now the cluster cannot do without all of them at once"
    )


def _grouping(session: Session, where: Where, asked: Round, wish: DrainWish) -> Grouping:
    read = open_for_reading(session.settings, where)
    policy = policy_for(session, read, wish.policy)
    seen = observe(session, read)
    hosts = hosts_named(seen, asked.hosts)
    return maintenance_groups(seen, hosts, asked.at_once, policy, forecast_demand(seen, policy))


def _say_groups(session: Session, grouping: Grouping) -> None:
    for number, group in enumerate(grouping.groups, start=1):
        _say(session, f"group {number}: {_names(group)}")
    for host, short in grouping.needed.items():
        _say(session, f"{host} cannot be drained: without it too few hosts are left for {short}")


def _say_how_to_go_on(session: Session, cluster: str, asked: Round, groups: Groups) -> None:
    hosts, command = _hosts_of(groups), asked.command
    words = ["rebalancer", "drain", *hosts, "--rolling", str(asked.at_once)]
    words += ["--then", command.text] if command.text else []
    with suppress(JournalError):  # it may be why the round ended; then it is asked next time
        ended = [run for run in runs_of(session, cluster, hosts) if run.ended_at is not None]
        done = replace(command, if_begun=IfBegun.SKIP).skipped_among(hosts, ended)
        words += ["--if-begun", IfBegun.SKIP] if done else []
    words += ["--bring-home"] if asked.bring_home else []
    _say(session, f"to go on: {shlex.join([*words, '--yes'])}")


def _hosts_of(groups: Groups) -> tuple[HostId, ...]:
    return tuple(host for group in groups for host in group)


def _names(hosts: Sequence[HostId]) -> str:
    return ", ".join(hosts)


def _say(session: Session, text: str) -> None:
    session.err.print(text, highlight=False, markup=False, soft_wrap=True)
