"""What `history --accuracy` shows of the parts of migrations."""

from __future__ import annotations

from rebalancer.cluster.prediction import Part
from rebalancer.planning.accuracy import Errors, PartAccuracy
from rebalancer.planning.parts import LearnedPart
from rebalancer.service.accuracy_report import learned_part_blocks, part_accuracy_blocks
from rebalancer.service.layout import Table


def test_nothing_is_shown_where_nothing_was_measured() -> None:
    assert list(part_accuracy_blocks(())) == list(learned_part_blocks(())) == []


def test_parts_are_shown_with_those_that_were_given_up() -> None:
    errors = Errors(count=3, median_ratio=0.5, p90_ratio=0.667, in_band_ratio=2 / 3)
    row = PartAccuracy(part=Part.SHUT_DOWN, migrations=3, given_up=1, duration=errors)

    (table,) = part_accuracy_blocks([row])

    assert isinstance(table, Table)
    assert table.rows == (("shut down", "3", "1", "50.0 % / 66.7 % / 67 %"),)


def test_what_was_learned_says_of_what_and_in_its_unit() -> None:
    rows = (
        LearnedPart(
            part=Part.SHUT_DOWN, of="db1", migrations=2, seconds=3.0, upper_seconds=10.0, given_up=1
        ),
        LearnedPart(
            part=Part.SAVE,
            of="vmstore",
            migrations=8,
            seconds=2.0,
            upper_seconds=2.6,
            efficiency_ratio=0.5,
        ),
        LearnedPart(part=Part.DISKS, of="h2:/srv", migrations=3, bytes_per_second=100.0 * 2**20),
        LearnedPart(part=Part.DISKS, of="h3:/srv", migrations=3),
        LearnedPart(part=Part.START, of="", migrations=4, seconds=2.5, upper_seconds=9.0),
    )

    (table,) = learned_part_blocks(rows)

    assert isinstance(table, Table)
    assert [(cells[1], cells[3], cells[4], cells[6]) for cells in table.rows] == [
        ("db1", "1", "3.0 s", "–"),
        ("vmstore", "–", "2.0 s", "50 % of the stated rate"),
        ("h2:/srv", "–", "–", "100 MiB/s"),
        ("h3:/srv", "–", "–", "the granted rate"),
        ("others", "–", "2.5 s", "–"),
    ]
