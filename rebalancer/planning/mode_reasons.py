"""Why a VM is moved in the mode that was chosen, in one sentence with numbers."""

from __future__ import annotations

from rebalancer.cluster.inventory import Mode
from rebalancer.planning import cold, disks
from rebalancer.planning.cost import Estimate
from rebalancer.planning.guest import guest_of
from rebalancer.planning.modes import Choice, writes_text
from rebalancer.planning.wording import in_bytes, in_bytes_per_second, in_seconds


def reason_for(choice: Choice, bytes_per_second: float) -> str:
    """Say in one sentence with numbers why the VM is moved in this mode."""
    estimate = choice.estimate(bytes_per_second)
    if choice.mode is Mode.OFFLINE:
        return f"it is {choice.vm.state}, so only its definition moves"
    if choice.saved_to:
        return f"no milder mode will do: {_saved(choice, estimate)}"
    if choice.mode is Mode.COLD:
        told = cold.told(choice.vm.id, choice.path.target.id, choice.path.parts)
        return f"no milder mode will do: {told}"
    return _live(choice, estimate, bytes_per_second)


def _saved(choice: Choice, estimate: Estimate) -> str:
    memory = in_bytes(guest_of(choice.vm).memory_bytes)
    rate = in_bytes_per_second(choice.save_bytes_per_second)
    seen = min(part.learned_from for part in estimate.parts)
    learned = f" (learned from the last {seen} there)" if seen else ""
    return (
        f"its memory, {memory}, is written to {choice.saved_to} and read back at {rate}, a pause "
        f"of about {in_seconds(estimate.downtime_seconds)}{learned}; it does not boot anew"
    )


def _live(choice: Choice, estimate: Estimate, bytes_per_second: float) -> str:
    rate = in_bytes_per_second(bytes_per_second)
    alone = "alone on its path with " if choice.alone else "with "
    pause = f"a pause of about {in_seconds(estimate.downtime_seconds)}"
    allowed = f"{in_seconds(choice.limit_seconds)} is allowed"
    pace = choice.path.parts.of_disks(choice.vm, choice.path.target.id)
    first = disks.told_first(choice.vm, choice.path.line(bytes_per_second), pace)
    head = f"{first}it {writes_text(choice.vm)}; {alone}{rate} "
    match choice.mode:
        case Mode.AUTO_CONVERGE:
            return (
                f"{head}it converges only if slowed by {estimate.throttle_ratio:.0%}, "
                f"then {pause}, {allowed}"
            )
        case Mode.SUSPEND:
            return f"{head}it does not converge: suspended for the rest, {pause}, {allowed}"
        case Mode.POST_COPY:
            return f"{head}it does not converge: switched to post-copy, {pause}"
        case _:
            return f"{head}it converges in {estimate.rounds} rounds, {pause}, {allowed}"
