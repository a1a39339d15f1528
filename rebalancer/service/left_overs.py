"""`rebalancer leftovers`: old disks that VMs left behind, and deleting what is proved to be old.

Without `--yes` only the journal is read. With it every file's hosts are asked first, and what is
not proved stays, with every reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from rebalancer.cluster.inventory import HostState
from rebalancer.errors import ExitCode, UsageError
from rebalancer.rollout.left_over_desk import LeftOverDesk
from rebalancer.rollout.left_over_journal import LeftOverJournal
from rebalancer.rollout.left_overs import LeftOver
from rebalancer.service import options
from rebalancer.service.access import Where
from rebalancer.service.clock import SystemClock
from rebalancer.service.config import journal_url
from rebalancer.service.layout import Block, Cell, Column, Line, Table, Tone, print_blocks
from rebalancer.service.old_disks import known_left_overs
from rebalancer.service.report import Format, render_tree
from rebalancer.service.session import Session, observe, open_session
from rebalancer.service.wording import bytes_text, one_line, when_text
from rebalancer.service.work import Work, at_work, nothing_was_changed

VmNames = Annotated[
    list[str] | None,
    typer.Argument(metavar="[VM]...", help="Only those of these VMs; default: all."),
]
Remove = Annotated[
    bool,
    typer.Option(
        "--remove",
        help="With --yes: delete each file that is proved to be old. What its hosts say against "
        "it keeps it.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What was found out about one left-over when it was to be deleted."""

    left: LeftOver
    reasons: tuple[str, ...]
    """Why it stays; empty: it is gone."""


def leftovers(
    vms: VmNames = None,
    config: options.Config = None,
    remove: Remove = False,
    yes: options.Yes = False,
    output: options.Output = Format.TABLE,
) -> ExitCode:
    """List the old disks that VMs left on the hosts they came from; delete them with --remove."""
    session = open_session(config)
    if yes and not remove:
        raise UsageError("--yes says that it is really to be done: say --remove as well")
    if not remove or not yes:
        _show(session, _named(_known(session), vms), output)
        if not remove:
            return ExitCode.SUCCESS
        return nothing_was_changed(session, ExitCode.SUCCESS)
    with at_work(session, Where()) as work:
        results = _remove(work, vms)
    _tell(session, results, output)
    stay = sum(bool(result.reasons) for result in results)
    if not stay:
        return ExitCode.SUCCESS
    return ExitCode.BLOCKED if stay == len(results) else ExitCode.PARTIAL


def _known(session: Session) -> tuple[LeftOver, ...]:
    settings = session.settings
    return known_left_overs(journal_url(settings), settings.cluster) if session.has_journal else ()


def _named(found: Sequence[LeftOver], vms: Sequence[str] | None) -> tuple[LeftOver, ...]:
    names = {left.vm_name for left in found}
    if missing := sorted(set(vms or ()) - names):
        raise UsageError(
            f"the journal knows of no old disk of {', '.join(missing)}; it does of "
            f"{', '.join(sorted(names)) or 'no VM at all'}"
        )
    return tuple(left for left in found if not vms or left.vm_name in vms)


def _remove(work: Work, vms: Sequence[str] | None) -> tuple[Kept, ...]:
    """Look at each file and delete it if all is proved, under the cluster's lock."""
    session, read = work.session, work.access.read.for_a_rollout()
    seen = observe(session, read)
    off = (HostState.DOWN, HostState.ASLEEP)
    desk = LeftOverDesk(
        driver=work.access.driver,
        clock=read.clock,
        hosts=tuple(host.id for host in seen.hosts if host.state not in off),
    )
    results = []
    with LeftOverJournal.open(journal_url(session.settings), SystemClock()) as journal:
        for left in _named(journal.left_overs(read.cluster), vms):
            results.append(Kept(left=left, reasons=desk.remove(left, journal, work.lease)))
    return tuple(results)


def _show(session: Session, found: Sequence[LeftOver], output: Format) -> None:
    if output is Format.JSON:
        render_tree({"left_overs": [_tree(left) for left in found]}, session.out)
        return
    print_blocks(_blocks(found), session.out)


def _tell(session: Session, results: Sequence[Kept], output: Format) -> None:
    if output is Format.JSON:
        trees = [
            {
                **_tree(result.left),
                "outcome": "stays" if result.reasons else "gone",
                "reasons": list(result.reasons),
            }
            for result in results
        ]
        render_tree({"left_overs": trees}, session.out)
        return
    print_blocks(_result_blocks(results), session.out)


def _tree(left: LeftOver) -> Mapping[str, object]:
    return {
        "host": left.host,
        "path": left.disk.path,
        "format": left.disk.format,
        "capacity_bytes": left.disk.capacity_bytes,
        "vm": left.vm,
        "vm_name": left.vm_name,
        "moved_to": left.moved_to,
        "left_at": left.left_at.isoformat(),
        "rollout": left.rollout,
        "migration": left.migration,
    }


def _blocks(found: Sequence[LeftOver]) -> Iterator[Block]:
    if not found:
        yield Line(text="the journal knows of no old disks that VMs left behind")
        return
    yield Table(
        title="Old disks, as the journal has it",
        columns=(
            Column(title="host"),
            Column(title="VM"),
            Column(title="moved to"),
            Column(title="at"),
            Column(title="size", right=True),
            Column(title="file", prose=True),
        ),
        rows=tuple(_row(left) for left in found),
    )
    yield Line(
        text="Nothing deletes them unasked. Each VM's hosts are asked once more before: "
        "rebalancer leftovers --remove --yes"
    )


def _row(left: LeftOver) -> tuple[Cell, ...]:
    return (
        left.host,
        left.vm_name,
        left.moved_to,
        when_text(left.left_at),
        bytes_text(left.disk.capacity_bytes),
        left.disk.path,
    )


def _result_blocks(results: Sequence[Kept]) -> Iterator[Block]:
    if not results:
        yield Line(text="the journal knows of no old disks that VMs left behind")
    for result in results:
        left = result.left
        what = f"{left.host}: {left.disk.path} of {left.vm_name}"
        size = bytes_text(left.disk.capacity_bytes)
        if result.reasons:
            stays = f"{what} stays: {'; '.join(result.reasons)}"
            yield Line(text=one_line(stays), tone=Tone.WARN)
        else:
            yield Line(text=one_line(f"{what} is gone ({size})"), tone=Tone.GOOD)
