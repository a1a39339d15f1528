"""The part of a plan's report that explains it: what is impossible, what was not done, hosts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rebalancer.cluster.explanation import Conflict, Explanation, RejectedMove
from rebalancer.cluster.inventory import HostId
from rebalancer.service.layout import Block, Column, Line, Table, Tone, abridged
from rebalancer.service.wording import count_text

HOSTS_SHOWN = 10


def explanation_blocks(
    explanation: Explanation, names: Mapping[HostId, str], *, wide: bool = False
) -> Iterator[Block]:
    """Lay an explanation out: conflicts first, as somebody has to decide something about them."""
    for note in explanation.notes:
        yield Line(text=f"note: {note}", tone=Tone.WARN)
    for conflict in explanation.conflicts:
        yield from _conflict_lines(conflict)
    yield from _rejected_blocks(explanation.rejected_moves, names, wide=wide)
    if wide and explanation.rejected_hosts:
        yield _hosts_table(explanation)
    if explanation.capacity is not None:
        yield Line(text=f"capacity: {explanation.capacity.text}")


def _conflict_lines(conflict: Conflict) -> Iterator[Block]:
    """What cannot be had together, then what would help, one line for each."""
    minimal = "" if conflict.is_minimal else " (there may be less to it: time ran out)"
    yield Line(text=f"conflict: {conflict.text}{minimal}", tone=Tone.BAD)
    for relaxation in conflict.relaxations:
        yield Line(text=f"  what would help: {relaxation.text}")
    if not conflict.relaxations:
        yield Line(text="  nothing that could be given up by itself would help")


def _rejected_blocks(
    moves: Sequence[RejectedMove], names: Mapping[HostId, str], *, wide: bool
) -> Iterator[Block]:
    """The moves that something else than their price speaks against; where there are none, that."""
    shown = [move for move in moves if wide or move.benefit > move.price]
    if shown:
        yield _rejected_table(shown, names)
    elif moves:
        best = moves[0]
        yield Line(
            text=f"no other single move pays: {best.vm_name} to "
            f"{names.get(best.target, best.target)}, the best, would gain {best.benefit:.2g} "
            f"and costs {best.price:.2g}",
            tone=Tone.DIM,
        )


def _rejected_table(moves: Sequence[RejectedMove], names: Mapping[HostId, str]) -> Table:
    return Table(
        title="Best moves not made",
        columns=(
            Column(title="VM"),
            Column(title="from → to"),
            Column(title="gain", right=True),
            Column(title="price", right=True),
            Column(title="why not", prose=True),
        ),
        rows=tuple(
            (
                move.vm_name,
                f"{names.get(move.source, move.source)} → {names.get(move.target, move.target)}",
                f"{move.benefit:.2g}",
                f"{move.price:.2g}",
                "; ".join(move.reasons),
            )
            for move in moves
        ),
    )


def _hosts_table(explanation: Explanation) -> Table:
    shown, left_out = abridged(explanation.rejected_hosts, HOSTS_SHOWN * 10)
    return Table(
        title="Hosts that take no VM",
        columns=(Column(title="host"), Column(title="why", prose=True)),
        rows=tuple((host.name, "; ".join(host.reasons)) for host in shown),
        more=f"{count_text(left_out, 'host')} more" if left_out else "",
    )
