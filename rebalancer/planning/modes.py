"""How a VM is moved, and how much bandwidth that takes: one decision.

Every mode is tried with the whole path to itself, mildest first; the first that is permitted
and whose pause and duration stay within the limits is taken. A guest that writes too fast for
half of a path thus gets all of it before it is moved in a harsher way. What would have worked
but is not permitted is kept: the cheapest of it is what the operator is asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from rebalancer.cluster.inventory import Mode, Vm, VmState
from rebalancer.cluster.policy import MigrationPermissions
from rebalancer.planning import cold, cost, disks, saving
from rebalancer.planning.cost import Estimate
from rebalancer.planning.guest import Guest, guest_of, more_active
from rebalancer.planning.network import Path, whole_mib
from rebalancer.planning.safety import DOWNTIME_SAFETY
from rebalancer.planning.wording import MIB, in_bytes, in_bytes_per_second, in_seconds

HOT_RATIO = 1.1
"""A guest that would send more than this many times the bytes on half of the path gets all of
it: one after the other such guests are done sooner than side by side."""

HALVINGS = 5

ROUNDING_SECONDS = 1e-9

THIS_MODE = "{mode}"

LADDER = (Mode.LIVE, Mode.AUTO_CONVERGE, Mode.SUSPEND, Mode.POST_COPY, Mode.COLD)
"""For a VM that runs, mildest first. Post-copy is behind suspend because a failure in the
middle of it loses the guest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The mode a VM is moved in, and what it needs for that."""

    vm: Vm
    path: Path
    mode: Mode
    least_bytes_per_second: float
    """With less the mode would not do; 0 where nothing is transferred."""
    most_bytes_per_second: float
    limit_seconds: float
    """The longest pause that is allowed."""
    alone: bool = False
    """It needs its path for itself."""
    saved_to: str = ""
    """Cold: the storage through which its memory goes; empty: it is shut down."""
    save_bytes_per_second: float = 0.0

    @property
    def transfers(self) -> bool:
        """Whether memory crosses the network."""
        return self.most_bytes_per_second > 0

    def max_downtime_seconds(self, bytes_per_second: float) -> float:
        """What the hypervisor is told; 0 where it is not asked."""
        if not self.transfers:
            return 0.0
        return _max_downtime(self.mode, self.limit_seconds, self.path, bytes_per_second)

    def estimate(self, bytes_per_second: float) -> Estimate:
        """Predict the migration with so much bandwidth."""
        if self.saved_to:
            paces = self.path.parts.of_saving(self.saved_to)
            return saving.saved(guest_of(self.vm), self.save_bytes_per_second, paces)
        return _estimate(self.vm, self.path, self.mode, bytes_per_second, self.limit_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """No permitted mode will do."""

    reasons: tuple[str, ...]
    """One for all modes that it keeps off; the last says which permission would be the cheapest
    to give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """One mode with the whole path: what it would take, and what speaks against it."""

    mode: Mode
    estimate: Estimate
    limit_seconds: float
    hopeless: str | None = None
    """Why it will not do, whatever is permitted."""
    needs: tuple[str, ...] = ()
    """What would have to be permitted; `THIS_MODE` in it stands for the mode."""
    saved_to: str = ""
    """The storage through which memory would go."""

    @property
    def will_do(self) -> bool:
        return self.hopeless is None and not self.needs


def choose(vm: Vm, path: Path, permissions: MigrationPermissions) -> Choice | Refusal:
    """Find the mildest permitted mode for `vm` on `path`, and the least bandwidth for it."""
    if vm.is_active and path.bytes_per_second < MIB:
        return Refusal(reasons=(_no_bandwidth(path),))
    trials = tuple(_trials(vm, path, permissions))
    for trial in _mildest_first(trials):
        if trial.will_do:
            return _choice(vm, path, trial, permissions)
    return Refusal(reasons=tuple(_refusal(trials)))


def _mildest_first(trials: tuple[_Trial, ...]) -> list[_Trial]:
    """The ladder, but of suspend and cold what has the shorter outage comes first."""
    ladder = (Mode.OFFLINE, *LADDER)
    suspended = [t.estimate.downtime_seconds for t in trials if t.mode is Mode.SUSPEND]
    cold = [trial for trial in trials if trial.mode is Mode.COLD]
    sooner = [t for t in cold if suspended and t.estimate.downtime_seconds < suspended[0]]

    def rank(trial: _Trial) -> tuple[float, float]:
        if trial in sooner:
            return ladder.index(Mode.SUSPEND), _harshness(trial)
        if trial.mode is Mode.SUSPEND and sooner:
            return ladder.index(Mode.COLD) - 0.5, 0.0
        return ladder.index(trial.mode), _harshness(trial)

    return sorted(trials, key=rank)


def _harshness(trial: _Trial) -> float:
    """A guest that is saved keeps its memory, which is worth some seconds more."""
    return trial.estimate.downtime_seconds / (saving.WORTH_RATIO if trial.saved_to else 1.0)


def _trials(vm: Vm, path: Path, permissions: MigrationPermissions) -> Iterator[_Trial]:
    modes = LADDER if vm.is_active else (Mode.OFFLINE,)
    for mode in modes:
        limit = _limit_seconds(mode, vm, permissions)
        estimate = _estimate(vm, path, mode, path.bytes_per_second, limit)
        hopeless = _hopeless(vm, path, mode, estimate, limit)
        yield _Trial(
            mode=mode,
            estimate=estimate,
            limit_seconds=limit,
            hopeless=hopeless,
            needs=() if hopeless else tuple(_needs(vm, mode, estimate, limit, permissions)),
        )
    if not vm.local_disks and (storage := saving.storage_for(vm, path, permissions)):
        limit = _limit_seconds(Mode.COLD, vm, permissions)
        paces = path.parts.of_saving(storage)
        estimate = saving.saved(guest_of(vm), permissions.save_bytes_per_second, paces)
        yield _Trial(
            mode=Mode.COLD,
            estimate=estimate,
            limit_seconds=limit,
            needs=tuple(_needs(vm, Mode.COLD, estimate, limit, permissions)),
            saved_to=storage,
        )


def _limit_seconds(mode: Mode, vm: Vm, permissions: MigrationPermissions) -> float:
    """The longest pause in this mode: the policy's, or the owner's where that is shorter."""
    own = float("inf") if vm.max_downtime_seconds is None else vm.max_downtime_seconds
    if mode is Mode.SUSPEND:
        return min(own, permissions.max_suspend_seconds)
    if mode is Mode.COLD:
        return own
    if mode is Mode.POST_COPY:
        # Its pause does not depend on the guest; the policy's say is whether to allow it.
        return own
    return min(own, permissions.max_downtime_seconds)


def _needs(
    vm: Vm, mode: Mode, estimate: Estimate, limit: float, permissions: MigrationPermissions
) -> Iterator[str]:
    """What would have to be permitted for the mode to do."""
    if vm.allowed_modes is not None and mode not in vm.allowed_modes:
        yield f"the VM's owner to allow {THIS_MODE}"
    if mode not in permissions.allow:
        yield f"allow {THIS_MODE}"
    too_long = estimate.downtime_upper_seconds > limit + ROUNDING_SECONDS
    if too_long and mode in (Mode.SUSPEND, Mode.COLD):
        yield (
            f"a pause of {in_seconds(estimate.downtime_upper_seconds)} "
            f"instead of at most {in_seconds(limit)}"
        )
    if estimate.duration_upper_seconds > permissions.max_duration_seconds:
        yield (
            f"a duration of {in_seconds(estimate.duration_upper_seconds)} "
            f"instead of at most {in_seconds(permissions.max_duration_seconds)}"
        )


def _hopeless(vm: Vm, path: Path, mode: Mode, estimate: Estimate, limit: float) -> str | None:
    """What keeps the mode from working however much is permitted."""
    line, pace = path.line(path.bytes_per_second), path.parts.of_disks(vm, path.target.id)
    if stays := disks.why_they_stay(vm, line, mode, pace):
        return stays
    if mode in (Mode.LIVE, Mode.AUTO_CONVERGE):
        if cost.max_downtime_for(limit, line) <= 0:
            return f"the switch-over alone takes longer than {in_seconds(limit)}"
        if not estimate.converges:
            return _does_not_converge(vm, path, mode, limit)
    if mode is Mode.POST_COPY and vm.max_downtime_seconds is not None:
        pause = estimate.downtime_upper_seconds
        if pause > vm.max_downtime_seconds:
            return f"pauses of {in_seconds(pause)} are more than its owner allows"
    if mode is Mode.COLD and not vm.persistent:
        return "it is transient, its definition would be gone with it"
    if mode is Mode.COLD and vm.state is not VmState.RUNNING:
        return f"it is {vm.state}, so it cannot be asked to shut down"
    return None


def _does_not_converge(vm: Vm, path: Path, mode: Mode, limit: float) -> str:
    guest = more_active(guest_of(vm))
    line = path.line(path.bytes_per_second)
    floor = cost.downtime_floor_seconds(guest, line, cost.max_downtime_for(limit, line))
    slowed = " even at half its speed" if mode is Mode.AUTO_CONVERGE else ""
    return (
        f"it {writes_text(vm)}, so that with all of "
        f"{in_bytes_per_second(path.bytes_per_second)} the pause would not get below "
        f"{in_seconds(floor)}{slowed}, {in_seconds(limit)} is allowed"
    )


def writes_text(vm: Vm) -> str:
    """Say how fast a VM writes to its memory, and where."""
    guest = guest_of(vm)
    assumed = " (assumed)" if vm.is_active and vm.dirty_bytes_per_second is None else ""
    return (
        f"writes {in_bytes_per_second(guest.dirty_bytes_per_second)}{assumed} "
        f"in {in_bytes(guest.working_set_bytes)}"
    )


def _no_bandwidth(path: Path) -> str:
    lane = min(path.lanes, key=lambda each: each.budget_bytes_per_second)
    return (
        f"migrations may use {in_bytes_per_second(lane.budget_bytes_per_second)} of "
        f"{lane.name}, and 1 MiB/s is the least that can be granted"
    )


def _refusal(trials: tuple[_Trial, ...]) -> Iterator[str]:
    modes: dict[tuple[str | None, tuple[str, ...]], list[Mode]] = defaultdict(list)
    for trial in trials:
        if not trial.will_do and trial.mode not in modes[trial.hopeless, trial.needs]:
            modes[trial.hopeless, trial.needs].append(trial.mode)
    for (hopeless, needs), alike in modes.items():
        yield f"{_listed(alike)}: {hopeless}" if hopeless else _would_need(alike, needs)
    open_to = [trial for trial in trials if trial.needs]
    if open_to:
        # Post-copy is short but can lose the guest, so it is not cheap.
        cheapest = min(
            open_to,
            key=lambda t: (t.mode is Mode.POST_COPY, t.estimate.downtime_seconds),
        )
        unlock = " and ".join(cheapest.needs).replace(THIS_MODE, cheapest.mode)
        yield f"cheapest way out: {unlock}: {_price(cheapest)}"


def _would_need(modes: Sequence[Mode], needs: Sequence[str]) -> str:
    these = modes[0] if len(modes) == 1 else "them"
    return f"{_listed(modes)} would need: {' and '.join(needs).replace(THIS_MODE, these)}"


def _listed(modes: Sequence[Mode]) -> str:
    *most, last = modes
    return f"{', '.join(most)} and {last}" if most else f"{last}"


def _price(trial: _Trial) -> str:
    down = in_seconds(trial.estimate.downtime_seconds)
    return "no downtime" if trial.mode is Mode.OFFLINE else f"about {down} down"


def _choice(vm: Vm, path: Path, trial: _Trial, permissions: MigrationPermissions) -> Choice:
    most = 0.0 if trial.mode in (Mode.OFFLINE, Mode.COLD) else path.bytes_per_second
    choice = Choice(
        vm=vm,
        path=path,
        mode=trial.mode,
        least_bytes_per_second=most,
        most_bytes_per_second=most,
        limit_seconds=trial.limit_seconds,
    )
    least = _least_bandwidth(choice, trial.estimate, permissions) if most else 0.0
    return Choice(
        vm=vm,
        path=path,
        mode=trial.mode,
        least_bytes_per_second=least,
        most_bytes_per_second=most,
        limit_seconds=trial.limit_seconds,
        saved_to=trial.saved_to,
        save_bytes_per_second=permissions.save_bytes_per_second if trial.saved_to else 0.0,
        alone=most > 0
        and least == most > path.least_bytes_per_second
        and path.is_filled_with(most),
    )


def _least_bandwidth(choice: Choice, best: Estimate, permissions: MigrationPermissions) -> float:
    """Halve the bandwidth as long as that changes neither the mode's success nor its price."""
    least = choice.most_bytes_per_second
    for _ in range(HALVINGS):
        rate = max(whole_mib(least / 2), choice.path.least_bytes_per_second)
        if rate >= least or not _still_good(choice, rate, best, permissions):
            break
        least = rate
    return least


def _still_good(
    choice: Choice, rate: float, best: Estimate, permissions: MigrationPermissions
) -> bool:
    slower = choice.estimate(rate)
    return (
        slower.converges >= best.converges
        and slower.throttle_ratio <= best.throttle_ratio
        and slower.downtime_upper_seconds <= choice.limit_seconds + ROUNDING_SECONDS
        and slower.duration_upper_seconds <= permissions.max_duration_seconds
        and slower.transfer_bytes <= HOT_RATIO * best.transfer_bytes
    )


def _max_downtime(mode: Mode, limit: float, path: Path, bytes_per_second: float) -> float:
    """What QEMU may plan for; with suspend and post-copy the pause is ours, so just a floor."""
    if mode in (Mode.SUSPEND, Mode.POST_COPY):
        limit = min(limit, DOWNTIME_SAFETY)
    return max(0.001, cost.max_downtime_for(limit, path.line(bytes_per_second)))


@lru_cache(maxsize=65536)
def _estimated(guest: Guest, line: cost.Line, mode: Mode, max_downtime_seconds: float) -> Estimate:
    kinds = {
        Mode.LIVE: cost.live_for_certain,
        Mode.AUTO_CONVERGE: cost.auto_converged,
        Mode.SUSPEND: cost.suspended,
        Mode.POST_COPY: cost.post_copied,
    }
    return kinds[mode](guest, line, max_downtime_seconds)


def _estimate(vm: Vm, path: Path, mode: Mode, bytes_per_second: float, limit: float) -> Estimate:
    if mode is Mode.OFFLINE:
        return cold.offline()
    if mode is Mode.COLD:
        return cold.cold(vm.id, path.target.id, path.parts)
    line = path.line(bytes_per_second)
    downtime = _max_downtime(mode, limit, path, bytes_per_second)
    memory = _estimated(guest_of(vm), line, mode, downtime)
    copied = disks.copy_of(vm, line, path.parts.of_disks(vm, path.target.id))
    return memory if copied is None else disks.with_disks(memory, copied, line)
