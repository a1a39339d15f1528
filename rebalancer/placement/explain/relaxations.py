"""What an administrator could give up to make possible what is not, the least sacrifice first.

Only what touches a minimal conflict can resolve it, so only that is tried, each by itself, on
the case with everything else in force.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from rebalancer.cluster.explanation import Relaxation
from rebalancer.cluster.inventory import HostState
from rebalancer.cluster.policy import Policy
from rebalancer.placement.explain.case import Case
from rebalancer.placement.explain.restrictions import Kind, Restriction
from rebalancer.placement.explain.wishes import Leave, Wish

RELAXATIONS_SHOWN = 4
PERCENT = 0.01
VCPUS_STEP, VCPUS_MOST = 0.5, 16.0
MEMORY_STEP, MEMORY_MOST = 0.05, 1.5
"""More memory than that is not to be promised: guests would be killed for want of it."""

_EASE = (
    Kind.STATE,
    Kind.CPU,
    Kind.VCPUS,
    Kind.MEMORY,
    Kind.RULE,
    Kind.FAILURES,
    Kind.SCOPE,
    Kind.VM,
)
"""What is given up most easily comes first: a host is woken, a share of headroom is lent."""
LAST = len(_EASE)

_HAVING_UP = {
    HostState.ASLEEP: "waking {}",
    HostState.MAINTENANCE: "ending the maintenance of {}",
    HostState.DRAINING: "draining {} another time",
    HostState.DOWN: "having {} back, which is down,",
    HostState.UNKNOWN: "having {} back, which did not answer,",
}

type Judge = Callable[[Case], Verdict]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a case makes possible."""

    unlocks: bool
    """Whether all that is wished is possible."""
    met: int
    """How many more of the wishes could be met than now."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Offer:
    """Something that could be given up: in several sizes, the smallest first, or as a whole."""

    case: Case
    sizes: tuple[tuple[str, Callable[[Case], Case]], ...]
    rank: int


def relaxations_for(
    case: Case, wishes: Sequence[Wish], against: Iterable[Restriction], judge: Judge
) -> tuple[Relaxation, ...]:
    """Find what would help, and how little of it is enough."""
    offers = sorted(_offers(case, wishes, against), key=lambda offer: offer.rank)
    found = [_smallest(wishes, offer, judge) for offer in offers]
    useful = [relaxation for relaxation in found if relaxation is not None]
    return tuple(sorted(useful, key=lambda one: not one.unlocks))[:RELAXATIONS_SHOWN]


def _smallest(wishes: Sequence[Wish], offer: _Offer, judge: Judge) -> Relaxation | None:
    """The smallest size that does what the largest one does for the conflict."""
    found = judge(offer.sizes[-1][1](offer.case))
    if not found.unlocks and found.met <= 0:
        return None
    low, high = 0, len(offer.sizes) - 1
    while low < high:
        middle = (low + high) // 2
        smaller = judge(offer.sizes[middle][1](offer.case))
        if smaller.unlocks if found.unlocks else smaller.met >= found.met:
            high, found = middle, smaller
        else:
            low = middle + 1
    text = f"{offer.sizes[low][0]} {_effect(wishes, found)}"
    return Relaxation(text=text, met=max(0, found.met), unlocks=found.unlocks)


def _effect(wishes: Sequence[Wish], verdict: Verdict) -> str:
    if verdict.met <= 0:
        return "would resolve this conflict, but not the others"
    if all(isinstance(wish, Leave) for wish in wishes):
        return f"would free {verdict.met} VM{'s' if verdict.met > 1 else ''}"
    return "would make it possible" if verdict.unlocks else "would help in part"


def _offers(case: Case, wishes: Sequence[Wish], against: Iterable[Restriction]) -> Iterator[_Offer]:
    by_kind: dict[Kind, list[Restriction]] = {}
    for one in against:
        by_kind.setdefault(one.kind, []).append(one)
    for kind, those in by_kind.items():
        if kind in (Kind.MACHINE, Kind.POOLS):
            continue
        rank = _EASE.index(kind)
        if kind is Kind.MEMORY:
            yield from _offered(case, _headrooms(case, "memory"), rank)
            yield from _offered(case, _promises(case, "memory", MEMORY_STEP, MEMORY_MOST), LAST)
        elif kind is Kind.CPU:
            yield from _offered(case, _headrooms(case, "cpu"), rank)
        elif kind is Kind.VCPUS:
            yield from _offered(case, _promises(case, "cpu", VCPUS_STEP, VCPUS_MOST), rank)
        else:
            leaving = {wish.host for wish in wishes if isinstance(wish, Leave)}
            yield from (
                _Offer(case=case, sizes=((_sentence(one), one.lift),), rank=rank)
                for one in those
                if kind is not Kind.STATE or one.subject not in leaving
            )


def _offered(
    case: Case, sizes: Iterable[tuple[str, Callable[[Case], Case]]], rank: int
) -> Iterator[_Offer]:
    if listed := tuple(sizes):
        yield _Offer(case=case, sizes=listed, rank=rank)


def _sentence(one: Restriction) -> str:
    match one.kind:
        case Kind.STATE:
            return _HAVING_UP[HostState(one.tail.strip(" ()"))].format(one.subject)
        case Kind.RULE:
            return f"making rule {one.subject} soft"
        case Kind.FAILURES:
            return "giving up host_failures"
        case Kind.SCOPE:
            return "a policy that looks after all hosts"
        case _:
            return f"letting {one.subject} be moved"


def _headrooms(case: Case, which: str) -> Iterator[tuple[str, Callable[[Case], Case]]]:
    """Less headroom, a per cent at a time."""
    headroom = case.policy.headroom
    now = headroom.cpu_ratio if which == "cpu" else headroom.memory_ratio
    steps = math.ceil(now / PERCENT - 1e-9)
    for step in range(1, steps + 1):
        ratio = max(0.0, round(now - PERCENT * step, 6))
        less = (
            replace(headroom, cpu_ratio=ratio)
            if which == "cpu"
            else replace(headroom, memory_ratio=ratio)
        )
        text = f"lowering headroom.{which} from {100 * now:g} % to {100 * ratio:g} %"
        yield text, _with_policy(replace(case.policy, headroom=less))


def _promises(
    case: Case, which: str, step: float, most: float
) -> Iterator[tuple[str, Callable[[Case], Case]]]:
    """More overcommit, a step at a time."""
    overcommit = case.policy.overcommit
    now = overcommit.cpu if which == "cpu" else overcommit.memory
    for count in range(1, int((most - now) / step + 1e-9) + 1):
        ratio = round(now + step * count, 6)
        more = (
            replace(overcommit, cpu=ratio) if which == "cpu" else replace(overcommit, memory=ratio)
        )
        text = f"raising overcommit.{which} from {now:g} to {ratio:g}"
        yield text, _with_policy(replace(case.policy, overcommit=more))


def _with_policy(policy: Policy) -> Callable[[Case], Case]:
    return lambda case: replace(case, policy=policy)
