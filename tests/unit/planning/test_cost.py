import pytest

from rebalancer.cluster.inventory import VmState
from rebalancer.cluster.prediction import Confidence
from rebalancer.planning import cost
from rebalancer.planning.cost import Line
from rebalancer.planning.guest import Guest, guest_of
from rebalancer.planning.habits import SETUP_SECONDS, SWITCHOVER_SECONDS
from rebalancer.planning.precopy import cycling_writes, random_writes
from tests.builders import GIB, MIB, a_vm


def a_guest(memory: float = 4 * GIB, dirty: float = 0.0, working_set: float = 64 * MIB) -> Guest:
    return Guest(memory_bytes=memory, dirty_bytes_per_second=dirty, working_set_bytes=working_set)


def live(guest: Guest, rate: float, max_downtime: float = 0.3) -> cost.Estimate:
    return cost.live(guest, Line.of(rate), max_downtime)


def test_an_idle_guest_is_sent_once_and_takes_its_bytes_over_the_bandwidth() -> None:
    estimate = live(a_guest(), rate=400 * MIB)

    assert estimate.converges
    assert estimate.transfer_bytes == pytest.approx(4 * GIB, rel=0.003)
    assert estimate.duration_seconds == pytest.approx(
        4 * GIB / (400 * MIB) + SETUP_SECONDS + SWITCHOVER_SECONDS, rel=0.02
    )


def test_a_guest_that_writes_more_slowly_than_the_link_converges_and_sends_more() -> None:
    idle, busy = live(a_guest(), 400 * MIB), live(a_guest(dirty=200 * MIB), 400 * MIB)

    assert busy.converges
    assert busy.transfer_bytes > idle.transfer_bytes
    assert busy.rounds > idle.rounds


def test_a_guest_that_writes_faster_than_the_link_never_gets_below_its_working_set() -> None:
    guest = a_guest(dirty=800 * MIB, working_set=2 * GIB)
    line = Line.of(400 * MIB)

    assert not live(guest, 400 * MIB).converges
    assert cost.downtime_floor_seconds(guest, line, 0.3) == pytest.approx(
        2 * GIB / (400 * MIB), rel=0.05
    )


def test_what_is_certain_to_converge_does_so_with_a_tenth_more_writes() -> None:
    near_the_edge = a_guest(dirty=380 * MIB, working_set=2 * GIB)
    line = Line.of(400 * MIB)

    assert cost.live(near_the_edge, line, 0.3).converges
    assert not cost.live_for_certain(near_the_edge, line, 0.3).converges


def test_a_small_hot_set_converges_although_it_is_written_faster_than_the_link() -> None:
    estimate = live(a_guest(dirty=600 * MIB, working_set=100 * MIB), rate=400 * MIB)

    assert estimate.converges
    assert estimate.downtime_seconds < 0.5


def test_the_pause_stays_within_its_band_and_the_band_within_the_limit() -> None:
    line = Line.of(400 * MIB)
    max_downtime = cost.max_downtime_for(0.5, line)
    estimate = cost.live(a_guest(dirty=100 * MIB, working_set=GIB), line, max_downtime)

    assert 0 < estimate.downtime_seconds <= estimate.downtime_upper_seconds
    assert estimate.downtime_upper_seconds == pytest.approx(0.5)


def test_a_long_way_makes_the_switch_over_longer() -> None:
    near = Line.of(400 * MIB)
    far = Line(
        bytes_per_second=400 * MIB,
        switchover_bytes_per_second=400 * MIB,
        round_trip_seconds=0.1,
    )

    assert cost.live(a_guest(), far, 0.3).downtime_seconds == pytest.approx(
        cost.live(a_guest(), near, 0.3).downtime_seconds + 0.2
    )


def test_suspending_pauses_for_what_is_left_again_and_again() -> None:
    guest = a_guest(dirty=800 * MIB, working_set=GIB)
    estimate = cost.suspended(guest, Line.of(400 * MIB), 0.3)

    assert estimate.downtime_seconds == pytest.approx(GIB / (400 * MIB), rel=0.1)
    assert estimate.duration_seconds > 4 * GIB / (400 * MIB)


def test_throttling_takes_the_mildest_step_that_converges() -> None:
    guest = a_guest(dirty=500 * MIB, working_set=2 * GIB)
    estimate = cost.auto_converged(guest, Line.of(400 * MIB), 0.3)

    assert estimate.converges
    assert estimate.throttle_ratio == 0.3  # 0.8 * 500 is the bandwidth, too near


def test_throttling_by_half_is_not_enough_for_every_guest() -> None:
    guest = a_guest(dirty=2000 * MIB, working_set=2 * GIB)

    assert not cost.auto_converged(guest, Line.of(400 * MIB), 0.3).converges


def test_an_unknown_dirty_rate_is_that_of_a_busy_guest_and_trusted_little() -> None:
    guest = guest_of(a_vm(dirty_bytes_per_second=None, vcpus=2, memory_bytes=64 * GIB))

    assert guest.dirty_bytes_per_second == 50 * MIB
    assert guest.confidence is Confidence.LOW


def test_an_unknown_dirty_rate_of_a_small_guest_is_at_most_a_hundredth_of_its_memory() -> None:
    guest = guest_of(a_vm(dirty_bytes_per_second=None, vcpus=2, memory_bytes=GIB))

    assert guest.dirty_bytes_per_second == pytest.approx(GIB / 100)


def test_an_unknown_working_set_is_all_that_is_resident() -> None:
    guest = guest_of(a_vm(working_set_bytes=None, resident_bytes=3 * GIB))

    assert guest.working_set_bytes == guest.memory_bytes == 3 * GIB
    assert guest.confidence is Confidence.MEDIUM


def test_a_probe_that_found_the_whole_working_set_dirty_is_trusted_little() -> None:
    saturated = a_vm(dirty_bytes_per_second=95.0 * MIB, working_set_bytes=100 * MIB)

    assert guest_of(saturated).confidence is Confidence.LOW


def test_a_guest_that_stands_still_writes_nothing() -> None:
    guest = guest_of(a_vm(state=VmState.PAUSED, dirty_bytes_per_second=None))

    assert guest.dirty_bytes_per_second == 0


def test_writes_at_random_touch_less_memory_than_writes_in_turn() -> None:
    for seconds in (0.1, 1.0, 10.0, 1000.0):
        at_random = random_writes(50 * MIB, GIB, seconds)

        assert at_random <= cycling_writes(50 * MIB, GIB, seconds) <= GIB
    assert random_writes(50 * MIB, 0, 1.0) == 0


@pytest.mark.parametrize("dirty_mib", [0, 10, 100, 399, 400, 401, 10_000])
@pytest.mark.parametrize("memory", [0, 4096, GIB, 1024 * GIB])
def test_every_estimate_is_finite_and_its_band_is_in_order(memory: int, dirty_mib: int) -> None:
    guest = a_guest(memory=memory, dirty=dirty_mib * MIB, working_set=memory)
    line = Line.of(400 * MIB)
    for kind in (cost.live, cost.suspended, cost.auto_converged, cost.post_copied):
        estimate = kind(guest, line, 0.3)

        assert 0 < estimate.duration_seconds <= estimate.duration_upper_seconds < 1e7
        assert 0 < estimate.downtime_seconds <= estimate.downtime_upper_seconds < 1e7
        assert estimate.transfer_bytes >= memory
