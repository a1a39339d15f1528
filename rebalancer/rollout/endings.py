"""How a migration can end, in words: what happened, and exactly what a human should type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rebalancer.cluster.inventory import HostId
from rebalancer.cluster.plan import MigrationState
from rebalancer.rollout.attempt import Attempt
from rebalancer.rollout.driver import IMAGE_FOLDER, EndStaleCopy, Start
from rebalancer.rollout.sightings import DomainView, Sighting

type UriOf = Callable[[HostId], str]


def default_uri(host: HostId) -> str:
    """Where `virsh` would usually reach a host, for advice when nothing better is known."""
    return f"qemu+ssh://{host}/system"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """It is known how the migration ended (`UNKNOWN` is: that nobody can know)."""

    state: MigrationState
    text: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Endings:
    """The ends that one attempt can come to, by what was seen of it."""

    attempt: Attempt
    sighting: Sighting
    uri_of: UriOf

    @property
    def name(self) -> str:
        """What people call the VM."""
        return self.attempt.migration.vm_name

    def complete(self, but: str = "") -> Ended:
        """It is where it should be."""
        return Ended(
            state=MigrationState.COMPLETE,
            text=f"{self.name} is on {self.attempt.target}{self._stale_note()}{but}",
        )

    def failed_safe(self) -> Ended:
        """It is where it was, as it was."""
        still = "runs" if self.attempt.before.was_running else "is as before"
        return Ended(
            state=MigrationState.FAILED_SAFE,
            text=f"{self.name} {still} on {self.attempt.source}. {self._why_not_moved()}".rstrip(),
        )

    def _why_not_moved(self) -> str:
        attempt = self.attempt
        again = attempt.has_issued(Start, attempt.source)
        restarted = "It was shut down for the move and started again. " if again else ""
        if attempt.error or not attempt.open_call:
            return restarted + self._error_note()
        return f"{restarted}Nobody saw how the call that moves it ended; nothing came of it"

    def paused_for_good(self, host: HostId, view: DomainView) -> Ended:
        """It ran before and stands still now, not because of us."""
        return Ended(
            state=MigrationState.FAILED_DOWN,
            text=f"{self.name} ran before and is paused on {host} ({view.reason}). When you know "
            f"why: {self.virsh(host, 'resume')}. {self._error_note()}".rstrip(),
        )

    def down(self) -> Ended:
        """It ran before, and no host has it active."""
        where = [
            h
            for h, view in self.sighting.views.items()
            if isinstance(view, DomainView) and view.persistent
        ]
        how = (
            f"start it on ONE host: {' or '.join(self.virsh(h, 'start') for h in where)}"
            if where
            else "no host has its definition: restore it from your backup of definitions"
        )
        return Ended(
            state=MigrationState.FAILED_DOWN,
            text=f"{self.name} ran before and runs nowhere now; {how}. "
            f"{self._error_note()}".rstrip(),
        )

    def saved_and_down(self) -> Ended:
        """Its memory is in a file, and nothing proves any more that it did not run since."""
        source = self.attempt.source
        return Ended(
            state=MigrationState.FAILED_DOWN,
            text=f"{self.name} was saved and runs nowhere now; {self._image()}. If you know that "
            f"nobody has started it since, restore it on ONE host: virsh -c {self.uri_of(source)} "
            f"restore PATH. Otherwise the file would ruin its disks: delete it, then "
            f"{self.virsh(source, 'start')}. {self._error_note()}".rstrip(),
        )

    def down_and_image_spent(self) -> Ended:
        """It ran on after it was saved, or was never saved, and runs nowhere now."""
        down = self.down()
        return Ended(
            state=down.state,
            text=f"{down.text} Never restore its saved memory, which is older than its disks; "
            f"{self.image_left()}",
        )

    def loaded_too_late(self) -> Ended:
        """Its saved memory was loaded, and it may have run elsewhere since it was saved."""
        target = self.attempt.target
        return Ended(
            state=MigrationState.FAILED_DOWN,
            text=f"{self.name} stands still on {target}, loaded from its saved memory, and may "
            f"have run on {self.attempt.source} since. If it has not: "
            f"{self.virsh(target, 'resume')}. If it has, that would ruin its disks: "
            f"{self.virsh(target, 'destroy')}, and start it on ONE host; {self.image_left()}",
        )

    def loaded_unseen(self, host: HostId, silent: Sequence[HostId]) -> Ended:
        """Its memory is there, and a host that might run it does not say that it does not."""
        return self.unknown(
            f"it stands still on {host}, loaded from its saved memory, and {', '.join(silent)} "
            "does not answer. Bring that back and run `rebalancer recover`, which lets it run; or, "
            f"if you know that it runs nowhere else: {self.virsh(host, 'resume')}"
        )

    def not_resumed(self, host: HostId) -> Ended:
        """Its memory is there, and its CPUs would not run."""
        return Ended(
            state=MigrationState.FAILED_DOWN,
            text=f"{self.name} stands still on {host}, loaded from its saved memory: "
            f"{self.virsh(host, 'resume')}. Once it has run never restore that memory again; "
            f"{self.image_left()}. {self._error_note()}".rstrip(),
        )

    def image_left(self) -> str:
        """Say which file is to be deleted."""
        return f"{self._image()}: delete it once it runs"

    def _image(self) -> str:
        image = self.attempt.image
        assert image is not None
        return f"its memory is left in {IMAGE_FOLDER}/{image.file} on storage {image.storage}"

    def stale_copy_alone(self) -> Ended:
        """We paused the source's copy because the target ran, and now the target's is gone."""
        source = self.attempt.source
        return Ended(
            state=MigrationState.FAILED_DOWN,
            text=f"{self.name} went on on {self.attempt.target} and ended there; what stands still "
            f"on {source} is older. Do not resume it. Start it from its disks: "
            f"{self.virsh(source, 'destroy')} && {self.virsh(source, 'start')}",
        )

    def split_brain(self) -> Ended:
        """It may run more than once, and nothing proves which copy is right."""
        hosts = self.sighting.active_on
        silenced = "; ".join(self.virsh(host, "suspend") for host in hosts)
        return self.unknown(
            f"SPLIT BRAIN: it is active on {' and '.join(hosts)}. Nothing was touched. Decide "
            f"which copy is right and pause the other one at once (one of: {silenced}), then "
            "destroy it and run `rebalancer recover`"
        )

    def stale_copy(self, *against: str) -> Ended:
        """The target owns it, and the source kept a copy that stands still.

        `against`: why that copy was not ended although the operator wanted it.
        """
        source, target = self.attempt.source, self.attempt.target
        both = "both copies ran for a while; " if self.attempt.stale_on_source else ""
        return self.unknown(
            f"{both}it runs on {target}, and a stale copy of it stands still on {source}. Keep "
            f"the one on {target}; never resume the other. When you have seen that it works there: "
            f"{self._how_to_end(against)}{self.virsh(source, 'destroy')} && {self.undefine(source)}"
        )

    def _how_to_end(self, against: tuple[str, ...]) -> str:
        if against:
            return f"by hand, as `recover` does not end it ({'; '.join(against)}): "
        return "`rebalancer recover --yes --end-stale-copies`, or by hand: "

    def _stale_note(self) -> str:
        """Tell of a copy that was ended; of two that ran for a while."""
        if not self.attempt.has_issued(EndStaleCopy):
            return ""
        source, ran = self.attempt.source, self.attempt.stale_on_source
        what = f"ran on {source} as well until it was paused" if ran else f"stood still on {source}"
        return (
            f"; the link broke just as it arrived: an older copy {what}, and was ended on the "
            "operator's word"
        )

    def incoming_copy_left(self) -> Ended:
        """The target did not give its half-filled copy up."""
        target = self.attempt.target
        return self.unknown(
            f"it runs on {self.attempt.source}, and {target} keeps a paused copy of it that "
            f"never ran. Never resume that one; remove it: {self.virsh(target, 'destroy')}"
        )

    def paused_on_both(self) -> Ended:
        """Neither end of the migration went on."""
        source, target = self.attempt.source, self.attempt.target
        return self.unknown(
            f"it stands still on {source} and on {target}. Repair the network between them and "
            f"wait; if {target} then lost its copy: {self.virsh(source, 'resume')}"
        )

    def post_copy_broken(self) -> Ended:
        """Its memory is on two hosts, and neither has all of it."""
        source, target = self.attempt.source, self.attempt.target
        return self.unknown(
            f"its memory is on {source} and {target} at once. Never destroy either copy. "
            f"Repair the network, then: virsh -c {self.uri_of(source)} migrate "
            f"--postcopy-resume --live --p2p --postcopy {self.name} {self.uri_of(target)}"
        )

    def unknown(self, text: str) -> Ended:
        """Nobody knows, or nobody may decide but a human."""
        return Ended(state=MigrationState.UNKNOWN, text=f"{self.name}: {text}")

    def virsh(self, host: HostId, verb: str) -> str:
        """Word a command that a human would type."""
        return f"virsh -c {self.uri_of(host)} {verb} {self.name}"

    def undefine(self, host: HostId) -> str:
        """Word the command that removes a definition, and loses nothing else."""
        return f"virsh -c {self.uri_of(host)} undefine --keep-nvram {self.name}"

    def _error_note(self) -> str:
        return f"The hypervisor said: {self.attempt.error}" if self.attempt.error else ""
