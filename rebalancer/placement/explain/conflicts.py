"""Why something that must be done cannot be: minimal sets of wishes and of what is against them.

A set is minimal when together it is impossible, and without any one of its parts the rest is
possible (an irreducible infeasible subset, over what an administrator has names for and not over
rows). It is found by halving (QuickXplain: Junker, AAAI 2004), and each part is checked again at
the end. What is possible is asked of the same program that places VMs: the empty plan breaks no
restriction, so that it only has to tell how little must be left undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial, reduce

from rebalancer.cluster.explanation import Conflict
from rebalancer.cluster.inventory import Assignment
from rebalancer.placement.arrays import Ints
from rebalancer.placement.budget import Budget
from rebalancer.placement.explain.case import Case
from rebalancer.placement.explain.insoluble import NOWHERE_ELSE, why_never
from rebalancer.placement.explain.possibility import (
    best_possible,
    can_all,
    can_alone,
    can_be_tried_as_a_whole,
)
from rebalancer.placement.explain.relaxations import Judge, Verdict, relaxations_for
from rebalancer.placement.explain.restrictions import (
    Restriction,
    restrictions_of,
    texts_of,
    without_wish,
)
from rebalancer.placement.explain.wishes import (
    Hold,
    Leave,
    Wish,
    refusals_of,
    texts_of_wishes,
    unmet,
    wishes_of,
)
from rebalancer.placement.problem import PlacementProblem

CONFLICTS_SHOWN, CONFLICTS_TRIED = 3, 6
OTHERS_STAY = "every other VM is where the plan has it"

type Part = Wish | Restriction
type Question = Callable[[Sequence[Part]], bool | None]
"""Whether wishes can be met under restrictions; `None` if that could not be found out."""


def find_conflicts(problem: PlacementProblem, x: Ints, budget: Budget) -> tuple[Conflict, ...]:
    """Explain what placement `x` leaves undone of what must be done, in a few minimal sets."""
    wishes = wishes_of(problem, x)
    missed = unmet(problem, wishes, x)
    if not missed:
        return ()
    case = Case.of(problem)
    if can_be_tried_as_a_whole(problem):
        return tuple(_as_a_whole(case, wishes, budget))
    leaves = [wish for wish in missed if isinstance(wish, Leave)]
    return tuple(_one_by_one(case, leaves, problem.assignment(x), budget))


def possible_all_the_same(problem: PlacementProblem, x: Ints, budget: Budget) -> str:
    """Say that what `x` leaves undone contradicts nothing; empty where that is not so, or unknown.

    Where VMs ought to be may be clear and the way there barred: two that would change places need
    room for one of them on the way.
    """
    wishes = wishes_of(problem, x)
    missed = unmet(problem, wishes, x)
    if not missed or not can_be_tried_as_a_whole(problem) or budget.is_spent:
        return ""
    if can_all(Case.of(problem), wishes, budget) is not True:
        return ""
    return (
        f"with other VMs elsewhere this would be possible: {', '.join(texts_of_wishes(missed))}; "
        "but that was not found in the time given, or no order of moves leads there"
    )


def _one_by_one(
    case: Case, wishes: Sequence[Leave], assignment: Assignment, budget: Budget
) -> Iterator[Conflict]:
    """Conflicts of single VMs, the others being as assigned; alike ones once."""
    told: set[tuple[str, ...]] = set()
    for wish in wishes[:CONFLICTS_TRIED]:
        conflict = _alone(case, wish, assignment, budget)
        if conflict is not None and conflict.members not in told and len(told) < CONFLICTS_SHOWN:
            told.add(conflict.members)
            yield conflict


def _as_a_whole(case: Case, wishes: Sequence[Wish], budget: Budget) -> Iterator[Conflict]:
    """Conflicts in which any VM may be moved; each is about other wishes than those before."""
    left, told = list(wishes), set[tuple[str, ...]]()
    for _ in range(CONFLICTS_TRIED):
        restrictions = restrictions_of(case, left)
        question = Whole(case, (*left, *restrictions), budget).is_possible
        parts = smallest_impossible((*left, *restrictions), question)
        against = _wishes_in(parts)
        if not against or len(told) == CONFLICTS_SHOWN:
            return
        judge = partial(_judged, wishes, _undone(case, wishes, budget), against, budget)
        # Of many VMs that find no room in the same places a few are enough to tell.
        members = tuple(part.text for part in parts if isinstance(part, Restriction))
        if members not in told:
            yield _conflict(case, parts, question, judge)
        told.add(members)
        left = [wish for wish in left if wish not in against]


def _undone(case: Case, wishes: Sequence[Wish], budget: Budget) -> int:
    """How many of the wishes at least have to be left undone."""
    problem = case.problem()
    best, _ = best_possible(problem, wishes, budget)
    return len(unmet(problem, wishes, best))


def _judged(
    wishes: Sequence[Wish], before: int, against: Sequence[Wish], budget: Budget, case: Case
) -> Verdict:
    if budget.is_spent:
        return Verdict(unlocks=False, met=0)
    unlocks = can_all(case, against, budget) is True
    return Verdict(unlocks=unlocks, met=before - _undone(case, wishes, budget))


def _alone(case: Case, wish: Leave, assignment: Assignment, budget: Budget) -> Conflict | None:
    """What keeps one VM on its host, the others being as assigned."""
    restrictions = restrictions_of(case, (wish,))
    every: tuple[Part, ...] = (wish, *restrictions)
    question = _Alone(case, every, wish, assignment, budget).is_possible
    parts = smallest_impossible(every, question)
    if not parts:
        return None

    def judge(relaxed: Case) -> Verdict:
        is_free = not budget.is_spent and can_alone(relaxed, wish, assignment) is True
        return Verdict(unlocks=is_free, met=int(is_free))

    return _conflict(case, parts, question, judge, assumption=OTHERS_STAY)


def smallest_impossible(parts: Sequence[Part], question: Question) -> tuple[Part, ...]:
    """A minimal set of parts that are impossible together; empty if all of them are possible.

    Earlier parts are preferred. It takes about 2·k·log2(n/k) questions for k of n parts.
    """
    if question(parts) is not False:
        return ()

    def reduced(given: tuple[Part, ...], grew: bool, among: Sequence[Part]) -> tuple[Part, ...]:
        if grew and question(given) is False:
            return ()
        if len(among) == 1:
            return tuple(among)
        first, second = among[: len(among) // 2], among[len(among) // 2 :]
        of_second = reduced((*given, *first), True, second)
        of_first = reduced((*given, *of_second), bool(of_second), first)
        return (*of_first, *of_second)

    return reduced((), False, tuple(parts))


def is_minimal(parts: Sequence[Part], question: Question) -> bool:
    """Whether parts are impossible together, and possible without any single one of them."""
    return question(parts) is False and all(
        question([other for other in parts if other is not part]) is True for part in parts
    )


class Whole:
    """Asks about all VMs of a small cluster, and remembers the answers."""

    def __init__(self, case: Case, every: Sequence[Part], budget: Budget) -> None:
        """Take all the parts that questions will be about."""
        self._case, self._every, self._budget = case, every, budget
        self._known: dict[frozenset[int], bool | None] = {}

    def is_possible(self, parts: Sequence[Part]) -> bool | None:
        """Whether the wishes among the parts can be met under the restrictions among them."""
        key = frozenset(map(id, parts))
        if key not in self._known:
            self._known[key] = self._ask(parts)
        return self._known[key]

    def _ask(self, parts: Sequence[Part]) -> bool | None:
        if self._budget.is_spent:
            return None
        wishes = [part for part in parts if not isinstance(part, Restriction)]
        return can_all(_without_others(self._case, self._every, parts), wishes, self._budget)


class _Alone:
    """Asks about one VM of a large cluster."""

    def __init__(
        self,
        case: Case,
        every: Sequence[Part],
        wish: Leave,
        assignment: Assignment,
        budget: Budget,
    ) -> None:
        self._case, self._every, self._wish = case, every, wish
        self._assignment, self._budget = assignment, budget

    def is_possible(self, parts: Sequence[Part]) -> bool | None:
        if self._wish not in parts:
            return True
        if self._budget.is_spent:
            return None
        case = _without_others(self._case, self._every, parts)
        return can_alone(case, self._wish, self._assignment)


def _without_others(case: Case, every: Sequence[Part], kept: Sequence[Part]) -> Case:
    """The case with only the kept ones of all parts in force."""
    those = {id(part) for part in kept}
    return reduce(_without, (part for part in every if id(part) not in those), case)


def _without(case: Case, part: Part) -> Case:
    return part.lift(case) if isinstance(part, Restriction) else without_wish(case, part)


def _conflict(
    case: Case, parts: Sequence[Part], question: Question, judge: Judge, assumption: str = ""
) -> Conflict:
    wishes = _wishes_in(parts)
    against = [part for part in parts if isinstance(part, Restriction)]
    return Conflict(
        text=_text(case, wishes, against, assumption),
        wishes=tuple(wish.text for wish in wishes),
        members=tuple(one.text for one in against),
        is_minimal=is_minimal(parts, question),
        assumption=assumption,
        relaxations=relaxations_for(case, wishes, against, judge),
    )


def _wishes_in(parts: Sequence[Part]) -> list[Wish]:
    return [part for part in parts if not isinstance(part, Restriction)]


def _text(
    case: Case, wishes: Sequence[Wish], against: Sequence[Restriction], assumption: str
) -> str:
    """One sentence: what cannot be had, and what all of stands against it."""
    why = [*texts_of(against), *([assumption] if assumption else [])]
    against_it = "; ".join(why)
    refusals = refusals_of(wishes)
    if len(refusals) == 1:
        return f"{refusals[0]}: {against_it or _by_itself(case, wishes)}"
    wanted = ", ".join(texts_of_wishes(wishes))
    return f"these cannot all be had: {wanted}{': ' if why else ''}{against_it}"


def _by_itself(case: Case, wishes: Sequence[Wish]) -> str:
    """Why something cannot be had that nothing stands against."""
    rules = {rule.name: rule for rule in case.policy.rules}
    holding = [wish for wish in wishes if isinstance(wish, Hold)]
    return why_never(rules[holding[0].rule], case.snapshot) if holding else NOWHERE_ELSE
