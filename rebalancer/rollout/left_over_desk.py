"""Asking hosts about old disks, and having one deleted: the effects around `left_overs`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.rollout.driver import (
    Clock,
    Command,
    Failed,
    HypervisorDriver,
    Look,
    Pending,
    Returned,
)
from rebalancer.rollout.lease import Lease
from rebalancer.rollout.left_over_commands import (
    DiskFile,
    LookAtFile,
    NoDiskFile,
    RemoveLeftOver,
)
from rebalancer.rollout.left_over_journal import LeftOverJournal
from rebalancer.rollout.left_overs import Findings, LeftOver, why_it_stays
from rebalancer.rollout.sightings import Sighting, Unreachable

POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOverDesk:
    """Hypervisors, as far as their old disks go."""

    driver: HypervisorDriver
    clock: Clock
    hosts: Sequence[HostId]
    """All that may have a VM."""

    def look(self, left: LeftOver) -> Findings:
        """Ask every host for the VM, and both ends for the file."""
        said = self._wait(Look(vm=left.vm, hosts=tuple(dict.fromkeys((left.host, *self.hosts)))))
        if isinstance(said, Returned) and isinstance(said.value, Sighting):
            sighting = said.value
        else:
            why = said.text if isinstance(said, Failed) else "no answer"
            silent = {host: Unreachable(why=why) for host in (left.host, *self.hosts)}
            sighting = Sighting(vm=left.vm, views=silent, seen_at=self.clock.now())
        file = self._file(left.vm, left.host, left.disk.path)
        found = Findings(sighting=sighting, file=file, kept=None)
        if found.runs_on is None:
            return found
        kept = self._file(left.vm, found.runs_on, left.disk.path)
        return Findings(sighting=sighting, file=file, kept=kept)

    def remove(self, left: LeftOver, journal: LeftOverJournal, lease: Lease) -> tuple[str, ...]:
        """Delete it if all is proved, with the journal around it; return why not."""
        found = self.look(left)
        if against := why_it_stays(left, found):
            return against
        if isinstance(found.file, NoDiskFile):
            journal.found_gone(left, lease)
            return ()
        assert isinstance(found.file, DiskFile)
        assert found.runs_on is not None
        command = RemoveLeftOver(
            vm=left.vm,
            host=left.host,
            path=left.disk.path,
            keep=found.runs_on,
            seen=found.file,
        )
        number = journal.begin(left, found.runs_on, found.file, lease)
        reply = self._wait(command)
        # An answer that got lost says nothing: what counts is whether the file is there.
        after = self._file(left.vm, left.host, left.disk.path)
        if isinstance(after, NoDiskFile):
            journal.ended(number, "deleted", lease, is_gone=True)
            return ()
        why = reply.text if isinstance(reply, Failed) else "it is still there"
        journal.ended(number, why, lease, is_gone=False)
        return (why,)

    def _file(self, vm: VmId, host: HostId, path: str) -> DiskFile | NoDiskFile | str:
        reply = self._wait(LookAtFile(vm=vm, host=host, path=path))
        if isinstance(reply, Failed):
            return reply.text
        if isinstance(reply.value, DiskFile | NoDiskFile):
            return reply.value
        return "no answer"

    def _wait(self, command: Command) -> Returned | Failed:
        ticket = self.driver.issue(command)
        while isinstance(reply := self.driver.poll(ticket), Pending):
            self.clock.sleep(POLL_SECONDS)
        return reply
