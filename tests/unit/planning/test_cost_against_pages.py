"""Two models that share no formula: predictions, and pages sent one by one in simulation."""

import numpy as np
import pytest

from rebalancer.planning.guest import Guest
from rebalancer.planning.precopy import precopy
from rebalancer.simulation.memory import GuestMemory, MemoryUse, Writes
from rebalancer.simulation.transfer import MemoryTransfer, Phase
from tests.builders import GIB, MIB

RATE = 400.0 * MIB
MAX_DOWNTIME = 0.25


PLACES = range(12)
"""Seeds: with each the working set lies elsewhere in memory, and the next write in it."""


def pages_sent(
    memory: float, dirty: float, working_set: float, writes: Writes, seed: int = 1
) -> MemoryTransfer:
    use = MemoryUse(
        memory_bytes=int(memory),
        resident_bytes=int(memory),
        dirty_bytes_per_second=dirty,
        working_set_bytes=int(working_set),
        writes=writes,
    )
    transfer = MemoryTransfer(GuestMemory(use, np.random.default_rng(seed)), MAX_DOWNTIME)
    while transfer.phase is Phase.PRE_COPY and transfer.elapsed_seconds < 600:
        transfer.advance(transfer.longest_step_seconds(RATE), RATE)
    return transfer


@pytest.mark.parametrize(
    ("memory_gib", "dirty_mib", "working_set_gib"),
    [
        (4, 0, 0.06),
        (4, 100, 0.5),
        (16, 150, 1),
        (8, 600, 0.08),
        (16, 300, 4),
        (32, 100, 20),
        (1, 100, 1),
    ],
)
def test_prediction_and_pages_agree_on_a_guest_that_goes_round_its_working_set(
    memory_gib: float, dirty_mib: float, working_set_gib: float
) -> None:
    guest = Guest(
        memory_bytes=memory_gib * GIB,
        dirty_bytes_per_second=dirty_mib * MIB,
        working_set_bytes=working_set_gib * GIB,
    )
    expected = precopy(guest, RATE, MAX_DOWNTIME)
    at_most = precopy(guest, RATE, MAX_DOWNTIME, is_written_first=True)
    actual = [
        pages_sent(
            guest.memory_bytes,
            guest.dirty_bytes_per_second,
            guest.working_set_bytes,
            Writes.CYCLIC,
            seed,
        )
        for seed in PLACES
    ]
    seconds = [transfer.elapsed_seconds for transfer in actual]

    assert expected.converges
    assert all(transfer.phase is not Phase.PRE_COPY for transfer in actual)
    assert expected.seconds == pytest.approx(np.mean(seconds), rel=0.1)
    sent = np.mean([transfer.sent_bytes for transfer in actual])
    assert expected.sent_bytes == pytest.approx(sent, rel=0.1)
    assert 0.95 * min(seconds) <= expected.seconds <= 1.05 * max(seconds)
    assert max(seconds) <= 1.01 * at_most.seconds


def test_a_guest_that_writes_at_random_is_not_slower_than_predicted() -> None:
    guest = Guest(
        memory_bytes=4.0 * GIB,
        dirty_bytes_per_second=300.0 * MIB,
        working_set_bytes=2.0 * GIB,
    )
    expected = precopy(guest, RATE, MAX_DOWNTIME)
    actual = pages_sent(4 * GIB, 300 * MIB, 2 * GIB, Writes.RANDOM)

    assert actual.elapsed_seconds <= expected.seconds


def test_neither_ends_with_a_guest_that_writes_too_fast() -> None:
    guest = Guest(memory_bytes=2.0 * GIB, dirty_bytes_per_second=500.0 * MIB, working_set_bytes=GIB)
    actual = pages_sent(2 * GIB, 500 * MIB, GIB, Writes.CYCLIC)

    assert not precopy(guest, RATE, MAX_DOWNTIME).converges
    assert actual.phase is Phase.PRE_COPY
