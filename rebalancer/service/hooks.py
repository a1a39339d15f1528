"""The operator's hooks as the settings have them, and those around a drain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rebalancer.cluster.inventory import HostId, HostState, Snapshot
from rebalancer.errors import HookObjectionError
from rebalancer.rollout.driver import Clock
from rebalancer.rollout.hook_journal import DrainPhase, HookJournal
from rebalancer.rollout.hook_processes import HookCommand, HookProcesses
from rebalancer.rollout.hooks import HookCall, Hooks, Moment, Objected, about_drain
from rebalancer.rollout.lease import Lease
from rebalancer.service.config import journal_url
from rebalancer.service.config_format import Settings

_LOOK_SECONDS = 0.1

UNSEEN = "? (the host does not answer)"
"""Stands for the VMs of a host of which nobody knows what is on it."""


def hooks_of(settings: Settings) -> HookProcesses:
    """Make the port to the hooks that are configured; close it when the work is done."""
    return HookProcesses(
        {
            moment: [
                HookCommand(words=entry.command, timeout_seconds=entry.timeout_seconds)
                for entry in getattr(settings.hooks, moment)
            ]
            for moment in Moment
        }
    )


@contextmanager
def drain_desk(settings: Settings, hooks: Hooks, lease: Lease, clock: Clock) -> Iterator[DrainDesk]:
    """Ask hooks around drains, and keep book of it in the journal."""
    with HookJournal.open(journal_url(settings), clock) as journal:
        yield DrainDesk(hooks=hooks, journal=journal, lease=lease, clock=clock)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainDesk:
    """Asks the hooks around drains on behalf of who holds the cluster's lock.

    While hooks run, the lock is kept.
    """

    hooks: Hooks
    journal: HookJournal
    lease: Lease
    clock: Clock

    def ask(self, hosts: Sequence[HostId]) -> int | None:
        """Ask whether hosts may be drained; raise `HookObjectionError` if not.

        Returns the number under which the journal keeps it; `None`: there are no such hooks.
        """
        if not any(map(self.hooks.has, (Moment.BEFORE_DRAIN, Moment.AFTER_DRAIN))):
            return None
        number = self.journal.ask(hosts, self.lease)
        if why := self._run(Moment.BEFORE_DRAIN, about_drain(hosts, None)):
            self.journal.note(number, DrainPhase.REFUSED, self.lease, why)
            raise HookObjectionError(f"{', '.join(hosts)} not drained, nothing was changed: {why}")
        self.journal.note(number, DrainPhase.ALLOWED, self.lease)
        return number

    def tell(self, number: int | None, left: Mapping[HostId, Sequence[str]]) -> str:
        """Tell what is left on which host; return what went wrong with the hooks, if it did."""
        if number is None:
            return ""
        self.journal.note(number, DrainPhase.TELLING, self.lease)
        about = about_drain(list(left), {str(host): vms for host, vms in left.items()})
        wrong = self._run(Moment.AFTER_DRAIN, about)
        self.journal.note(number, DrainPhase.TOLD, self.lease, wrong)
        return wrong

    def tell_for_the_dead(self, look: Callable[[], Snapshot]) -> tuple[str, ...]:
        """Run the `after_drain` hooks that dead processes owe; return a sentence about each."""
        calls = self.journal.owed(self.lease.cluster)
        if not calls:
            return ()
        snapshot = look()
        said = []
        for call in calls:
            wrong = self.tell(call.number, left_on(snapshot, call.hosts))
            hosts = ", ".join(call.hosts)
            how = f": {wrong}" if wrong else ""
            said.append(
                f"after_drain hooks of {hosts} were owed by {call.owner}, and were run{how}"
            )
        return tuple(said)

    def _run(self, moment: Moment, about: Mapping[str, object]) -> str:
        """Run the hooks of a moment; return what went wrong."""
        if not self.hooks.has(moment):
            return ""
        at = self.clock.now()
        call = HookCall(moment=moment, cluster=self.lease.cluster, at=at, about=about)
        ticket = self.hooks.start(call)
        while (reply := self.hooks.poll(ticket)) is None:
            self.journal.stay_alive(self.lease)
            self.clock.sleep(_LOOK_SECONDS)
        return reply.why if isinstance(reply, Objected) else ""


def left_on(snapshot: Snapshot, hosts: Sequence[HostId]) -> dict[HostId, tuple[str, ...]]:
    """Name the VMs that are on hosts; of a host that is not there any more, none.

    Of one that does not answer it is `UNSEEN`: nobody must take it for empty.
    """
    silent = silent_among(snapshot, hosts)
    return {
        host: (UNSEEN,)
        if host in silent
        else tuple(sorted(vm.name for vm in snapshot.vms_by_host.get(host, ())))
        for host in hosts
    }


def silent_among(snapshot: Snapshot, hosts: Sequence[HostId]) -> tuple[HostId, ...]:
    """Name the hosts that do not answer, so that nobody knows what is on them."""
    away = {host.id for host in snapshot.hosts if host.state is HostState.UNKNOWN}
    return tuple(host for host in hosts if host in away)


def owed_texts(settings: Settings, cluster: str, clock: Clock) -> tuple[str, ...]:
    """Say which `after_drain` hooks nobody has run; for those who only look."""
    with HookJournal.open(journal_url(settings), clock) as journal:
        return tuple(
            f"after_drain hooks of {', '.join(call.hosts)}, drained by {call.owner}: to be run"
            for call in journal.owed(cluster)
        )
