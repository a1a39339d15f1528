"""Stale copies that only wait for an operator's word, and everything that is shown before it.

All of it comes from the journal: the looks that prove which copy is the older one, and the last
look at all hosts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rebalancer.cluster.plan import MigrationState
from rebalancer.rollout.executor import OpenMigration
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.stale import StaleCopy, stale_copy_of
from rebalancer.service.layout import Block, Line, Tone
from rebalancer.service.wording import count_text, one_line, when_text


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleCopies:
    """What the journal has on the migrations of which nobody knows how they ended."""

    offered: tuple[StaleCopy, ...]
    """Those whose older copy could be ended now."""
    plans: Mapping[int, str]
    """The plan of each rollout."""
    refused: Mapping[str, tuple[str, ...]]
    """VMs of the others, with every reason why nothing of them could be ended."""

    @property
    def named(self) -> frozenset[OpenMigration]:
        """The migrations of what is offered."""
        return frozenset((copy.rollout, copy.migration.id) for copy in self.offered)


def stale_copies(journal: Journal | None, cluster: str) -> StaleCopies:
    """Look through a journal for stale copies; without a journal there are none."""
    offered: list[StaleCopy] = []
    refused: dict[str, tuple[str, ...]] = {}
    rollouts = journal.unfinished(cluster) if journal is not None else ()
    for rollout in rollouts:
        assert journal is not None
        for row in journal.migrations(rollout.id):
            if row.state is not MigrationState.UNKNOWN:
                continue
            records = journal.records(rollout.id, row.migration.id)
            found = stale_copy_of(rollout.id, row.migration, records)
            if isinstance(found, StaleCopy):
                offered.append(found)
            else:
                refused[row.migration.vm_name] = found
    return StaleCopies(
        offered=tuple(offered),
        plans={rollout.id: rollout.plan_id for rollout in rollouts},
        refused=refused,
    )


def stale_copies_blocks(found: StaleCopies, *, also_refused: bool) -> Iterator[Block]:
    """Lay out what is offered with its proof; `also_refused` adds what is not, and why."""
    for copy in found.offered:
        yield from _copy_blocks(copy, found.plans[copy.rollout])
    if also_refused:
        for vm, reasons in found.refused.items():
            yield Line(text=one_line(f"{vm}: no copy can be ended: {'; '.join(reasons)}"))


def _copy_blocks(copy: StaleCopy, plan: str) -> Iterator[Block]:
    migration, proof = copy.migration, copy.proof
    source, target = migration.source, migration.target
    others = count_text(copy.others, "other host")
    yield Line(
        text=one_line(
            f"{migration.vm_name}: an older copy of it stands still on {source}; it runs on "
            f"{target}"
        ),
        tone=Tone.STRONG,
    )
    for what, says in (
        (
            "asked for",
            f"{when_text(proof.asked_at)}: migration {migration.id} of plan {plan}, from {source} "
            f"to {target} (journal, record {proof.asked})",
        ),
        (
            "proof",
            f"{when_text(proof.seen_at)}: {source} {proof.source_was}, {target} "
            f"{proof.target_was}, in two looks in a row (record {proof.seen})",
        ),
        (
            "seen last",
            f"{when_text(copy.looked_at)}: {source} {copy.source_is}, {target} "
            f"{copy.target_is}; {others} answered, without a copy",
        ),
        (
            "to be done",
            f"look twice more at all hosts, end the copy on {source} if nothing has changed, "
            f"remove its definition there; nothing is done to the copy on {target}",
        ),
    ):
        yield Line(text=one_line(f"  {what + ':':11} {says}"))
