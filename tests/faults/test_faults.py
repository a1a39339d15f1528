"""A slice of `make faults`, and proof that the judge would notice."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice

import pytest

from tests.faults.judge import judge
from tests.faults.planted import PLANTED
from tests.faults.play import play
from tests.faults.run import try_out
from tests.faults.scripts import (
    ALONE,
    MOST_RECORDS,
    POINTS,
    WAYS,
    Deaths,
    Script,
    script,
)
from tests.faults.troubles import ALL
from tests.unit.rollout.ways import Way

SLICE = 2000 if os.environ.get("CI") == "true" else 300
"""So many scripts in every test run; `make faults` plays as many as it is asked to."""
AT_ONCE = 10

CAUGHT_BY: Mapping[str, tuple[str | tuple[int, ...], str]] = {
    "trusts-errors": ((47, 49), "I25 tidy"),
    "starts-blindly": ((460,), "I6 looked first"),
    "forgets-intents": ((0,), "I2 written first"),
    "uses-images-twice": ((1674,), "I9 image used once"),
    "reserves-nothing": ((191,), "I16 budgets"),
    "ends-the-wrong-copy": ("two copies run", "I7 ended with proof"),
    "ends-unasked": ("two copies run", "I7 ended with proof"),
    "deletes-old-disks": ((803,), "disks are kept"),
    "forgets-left-overs": ((803,), "disks are kept"),
    "waits-for-nothing": ("a start comes late", "I8 never doubled"),
}
"""For each planted bug: scripts that bring it to light, or the trouble that they have, and the
promise that it breaks."""
OF_A_TROUBLE = 6
"""So many scripts of a trouble are played."""


@pytest.mark.parametrize("first", range(0, SLICE, AT_ONCE))
def test_whatever_the_script_no_promise_is_broken(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        verdict = try_out(seed)

        assert not verdict.findings, "\n".join([verdict.story, *map(str, verdict.findings)])


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_caught(bug: str) -> None:
    where, promise = CAUGHT_BY[bug]
    seeds = _first_with(where) if isinstance(where, str) else where

    broken = {finding.promise for seed in seeds for finding in try_out(seed, bug).findings}

    assert promise in broken
    assert not [finding for seed in seeds for finding in try_out(seed).findings]


def _first_with(trouble: str) -> list[int]:
    has_it = (n for n in range(2000) if trouble in [one.name for one in script(n).troubles])
    return list(islice(has_it, OF_A_TROUBLE))


@pytest.mark.parametrize("way", WAYS)
def test_a_crash_after_every_record_is_among_the_scripts(way: Way) -> None:
    crashes = [found for n in range(3, 2000, 8) if (found := script(n)).family == "crash"]
    of_way = [found for found in crashes if found.way is way]
    whole = max(_commits(found) for found in of_way[:2])

    assert {found.deaths.after_record for found in of_way} >= set(range(1, MOST_RECORDS + 1))
    assert whole <= MOST_RECORDS


def _commits(found: Script) -> int:
    """How often a controller that lives writes; commits of one instant count as one."""
    whole = play(replace(found, deaths=Deaths()))
    return len({line.at_seconds for line in whole.written})


def test_every_trouble_at_every_point_is_among_the_scripts() -> None:
    seen = {
        (found.way, found.points[0].name, found.troubles[0].name)
        for n in range(2000)
        if (found := script(n)).family == "alone"
    }

    assert seen == {(way, point.name, trouble.name) for way, point, trouble in ALONE}
    assert {trouble.name for trouble in ALL} == {trouble.name for _, _, trouble in ALONE}
    assert set(POINTS) == set(WAYS)


def test_the_same_number_is_the_same_script_with_the_same_end() -> None:
    first, second = (play(script(7)) for _ in range(2))

    assert first.script.describe() == second.script.describe()
    assert [row.outcome for row in first.rows] == [row.outcome for row in second.rows]
    assert judge(first) == judge(second)
