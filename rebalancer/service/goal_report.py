"""Parts of a plan's report that some goals need: tiers that follow, bands not reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rebalancer.cluster.plan import AboveBand, LaterTier, Objective
from rebalancer.service.layout import Column, Line, Table, Tone, abridged
from rebalancer.service.wording import at_most_text, count_text, ratio_text

HOSTS_SHOWN = 10
SAME = 1e-6


def later_lines(objective: Objective) -> Iterator[Line]:
    """For each later tier that costs anything, what it came to, and whether that is least."""
    for tier in objective.later:
        if tier.before > SAME or tier.after > SAME:
            yield Line(text=_later_text(tier), tone=Tone.DIM)


def _later_text(tier: LaterTier) -> str:
    gap = tier.after - tier.bound
    proof = ", proved least" if gap <= SAME else f", gap ≤ {at_most_text(gap / tier.after)}"
    if gap > SAME and tier.bound <= SAME:
        # Without a bound the gap is all there is, which says nothing.
        proof = ""
    goals = " and ".join(tier.goals) or "nothing"
    if abs(tier.after - tier.before) <= SAME:
        # What earlier tiers left as it is: its loose bound would read as if much could be gained.
        proof = proof if gap <= SAME else ""
        return f"then, in tier {tier.tier}, {goals}: {tier.before:.4g}, unchanged{proof}"
    return f"then, in tier {tier.tier}, {goals}: {tier.before:.4g} → {tier.after:.4g}{proof}"


def above_band_table(hosts: Sequence[AboveBand], *, wide: bool = False) -> Table:
    """The hosts that stay above their band, and why."""
    shown, left_out = abridged(hosts, None if wide else HOSTS_SHOWN)
    return Table(
        title="Still above the band",
        columns=(
            Column(title="host"),
            Column(title="load", right=True),
            Column(title="band", right=True),
            Column(title="why", prose=True),
        ),
        rows=tuple(
            (
                host.name,
                f"{ratio_text(host.ratio, 1)} {host.resource}",
                ratio_text(host.band_ratio),
                "; ".join(host.reasons),
            )
            for host in shown
        ),
        more=f"{count_text(left_out, 'host')} more" if left_out else "",
    )
