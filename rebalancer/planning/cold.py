"""Moving a VM whose memory is not sent: it is off already, or is shut down and started anew."""

from __future__ import annotations

from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.cluster.prediction import Confidence, Part
from rebalancer.planning.cost import Estimate
from rebalancer.planning.parts import BOOT_SECONDS, START_SECONDS, PartHabits, Span
from rebalancer.planning.safety import DOWNTIME_SAFETY, SETUP_SAFETY
from rebalancer.planning.wording import in_seconds


def cold(vm: VmId, target: HostId, habits: PartHabits) -> Estimate:
    """Shut down on the source, define, start on the target: down all the while.

    Disks are on storage that both hosts reach, so nothing but the definition is transferred. The
    migration is over when the VM is started; that its services are back takes until it has
    booted, which nobody sees: it is assumed, whatever was learned of the rest.
    """
    shutdown, start = habits.of_shutdown(vm), habits.of_start(target)
    moved = shutdown.seconds + start.seconds
    outage = shutdown.outage_upper_seconds + start.outage_upper_seconds
    return Estimate(
        duration_seconds=moved,
        duration_upper_seconds=shutdown.upper_seconds + start.upper_seconds,
        downtime_seconds=moved + BOOT_SECONDS,
        downtime_upper_seconds=outage + DOWNTIME_SAFETY * BOOT_SECONDS,
        transfer_bytes=0.0,
        confidence=Confidence.MEDIUM if vm in habits.shutdowns else Confidence.LOW,
        parts=(shutdown.predicted(Part.SHUT_DOWN), start.predicted(Part.START)),
    )


def told(vm: VmId, target: HostId, habits: PartHabits) -> str:
    """Say what is done with a VM that is shut down, and where the numbers are from."""
    shutdown, start = habits.of_shutdown(vm), habits.of_start(target)
    whose = "its own" if vm in habits.shutdowns else "other VMs'"
    how = f"shut down in {in_seconds(shutdown.seconds)} ({_source(shutdown, f'{whose} last')})"
    if ignored := shutdown.given_up if vm in habits.shutdowns else 0:
        how += (
            f", though it ignored {ignored} of {shutdown.learned_from} requests, and then stays "
            f"where it is after {in_seconds(shutdown.upper_seconds)}"
        )
    down = cold(vm, target, habits).downtime_seconds
    return (
        f"{how}, defined and started in {in_seconds(start.seconds)} "
        f"({_source(start, 'the last')}), about {in_seconds(down)} down with "
        f"{in_seconds(BOOT_SECONDS)} (assumed) until it has booted"
    )


def _source(span: Span, which: str) -> str:
    return f"learned from {which} {span.learned_from}" if span.learned_from else "assumed"


def offline() -> Estimate:
    """Move the definition of a VM that does not run."""
    return Estimate(
        duration_seconds=START_SECONDS,
        duration_upper_seconds=SETUP_SAFETY * START_SECONDS,
        downtime_seconds=0.0,
        downtime_upper_seconds=0.0,
        transfer_bytes=0.0,
        confidence=Confidence.HIGH,
    )
