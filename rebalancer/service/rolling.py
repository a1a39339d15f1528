"""`rebalancer drain HOST… --rolling N`: maintenance of many hosts, one group after the other.

    drain a group → run a command for it, or wait for its `undrain` → its hosts are up again
    → its VMs come home, if that is asked for → the next group

The cluster's lock is held while VMs are moved, and given back while people and machines work on
a group. Each group is planned from what is seen when its turn comes. Whatever goes wrong ends the
round: the hosts of that group stay drained, the ones after it are untouched, and the command that
goes on with them is printed.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from rebalancer.cluster.inventory import HostId, HostState
from rebalancer.errors import ExitCode, LockHeldError, RebalancerError, UsageError
from rebalancer.forecast.demand import forecast_demand
from rebalancer.service.access import (
    ChangeAccess,
    ReadAccess,
    Where,
    open_for_change,
    open_for_reading,
)
from rebalancer.service.emptying import DrainWish, drain_hosts, foreseen, show
from rebalancer.service.maintenance import Group, Grouping, maintenance_groups
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

_AWAY = frozenset({HostState.UNKNOWN, HostState.DOWN, HostState.ASLEEP})


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A round of maintenance, as it was asked for."""

    hosts: tuple[str, ...]
    at_once: int
    """Hosts in a group at most."""
    command: str = ""
    """What is run for each group; empty: somebody runs `undrain` when its maintenance is over."""
    bring_home: bool = False
    back_within_seconds: float = BACK_WITHIN_SECONDS
    """How long hosts may take until they are up after their maintenance."""


def rehearse_round(session: Session, where: Where, asked: Round, wish: DrainWish) -> ExitCode:
    """Show the groups, and what would become of the VMs of each if it were the first."""
    _words_of(asked.command)
    grouping = _grouping(session, where, asked, wish)
    _say_groups(session, grouping)
    read = open_for_reading(session.settings, where)
    codes = [ExitCode.BLOCKED if grouping.needed else ExitCode.SUCCESS]
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
    if where.scenario is not None and not asked.command:
        raise UsageError("a rehearsal of --rolling needs --then: nobody would run undrain in it")
    _words_of(asked.command)
    grouping = _grouping(session, where, asked, wish)
    _say_groups(session, grouping)
    if grouping.needed:
        session.err.print("nothing was changed", highlight=False)
        if wish.output is Format.JSON:
            render_tree({"groups": [], "needed": dict(grouping.needed)}, session.out)
        return ExitCode.BLOCKED
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
                _say_how_to_go_on(session, asked, grouping.groups[number:])
                raise
            if code is not ExitCode.SUCCESS:
                _say_how_to_go_on(session, asked, grouping.groups[number:])
                break
    finally:
        if kept is not None:
            kept.close()
    if wish.output is Format.JSON:
        render_tree({"groups": trees}, session.out)
    return code


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
            if against := _reasons_against(work, self.wish, group):
                self._say(f"{_names(group)}: not drained, as {against}; the round ends here")
                return ExitCode.BLOCKED
            drained = drain_hosts(work, self.wish, group)
            marks = work.journal.drains(work.access.read.cluster)
        trees.append(drained.tree())
        if not drained.is_empty:
            self._say(f"{_names(group)}: not empty, so the round ends here")
            return drained.exit_code
        open_again = [host for host in group if host not in marks]
        if self.asked.command and open_again:
            # VMs may be placed there by now, and the command may well take it down.
            self._say(f"the drain of {_names(open_again)} was taken back, so the round ends here")
            return ExitCode.PARTIAL
        with StopSwitch() as stop:
            code = self._maintained(group, stop)
            if code is ExitCode.SUCCESS:
                code = self._returned(group, stop)
        if stop.exit_code is not None:
            return stop.exit_code
        since = {host: marks[host].since for host in group if host in marks}
        return self._reopened(group, since) if code is ExitCode.SUCCESS else code

    def _maintained(self, group: Group, stop: StopSwitch) -> ExitCode:
        if not self.asked.command:
            return self._awaited(group, stop)
        words = [*_words_of(self.asked.command), *group]
        self._say(f"running: {shlex.join(words)}")
        try:
            # What it prints is for whoever watches, and none of our results.
            ended = subprocess.run(words, stdout=2, stdin=subprocess.DEVNULL, check=False)
        except OSError as error:
            self._say(f"{words[0]} could not be run: {error.strerror}")
            return ExitCode.PARTIAL
        if ended.returncode == 0:
            return ExitCode.SUCCESS
        self._say(f"{words[0]} ended with {ended.returncode}; still drained: {_names(group)}")
        return ExitCode.PARTIAL

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
        """Wait until every host of the group answers again; a reboot takes its time."""
        read = self._read()
        began = read.clock.now()
        while away := _not_back(read, group):
            if stop.request():
                return ExitCode.PARTIAL
            if (read.clock.now() - began).total_seconds() >= self.asked.back_within_seconds:
                limit = seconds_text(self.asked.back_within_seconds)
                self._say(f"{_names(away)} did not come back within {limit}")
                return ExitCode.PARTIAL
            read.clock.sleep(BACK_LOOK_SECONDS)
        return ExitCode.SUCCESS

    def _reopened(self, group: Group, since: Mapping[HostId, datetime]) -> ExitCode:
        with self._lock_taken() as work:
            if self.asked.command:
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


def _not_back(read: ReadAccess, group: Group) -> Group:
    hosts = read.source.observe().host_by_id
    return tuple(host for host in group if host not in hosts or hosts[host].state in _AWAY)


def _words_of(command: str) -> list[str]:
    """Take a command line apart as a shell would; nothing of it is expanded."""
    try:
        return shlex.split(command)
    except ValueError as error:
        raise UsageError(f"--then {command!r} cannot be taken apart: {error}") from error


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


def _say_how_to_go_on(session: Session, asked: Round, groups: Sequence[Group]) -> None:
    hosts = [host for group in groups for host in group]
    words = ["rebalancer", "drain", *hosts, "--rolling", str(asked.at_once)]
    words += ["--then", asked.command] if asked.command else []
    words += ["--bring-home"] if asked.bring_home else []
    _say(session, f"to go on: {shlex.join([*words, '--yes'])}")


def _names(hosts: Sequence[HostId]) -> str:
    return ", ".join(hosts)


def _say(session: Session, text: str) -> None:
    session.err.print(text, highlight=False, markup=False, soft_wrap=True)
