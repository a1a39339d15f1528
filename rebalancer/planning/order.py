"""Which migration must have completed before which other one may start.

An order is found by admitting migrations one after the other into `Accounts`: first whatever
fits now, then what fits after those have left, and so on. What is left over then waits for
itself, a ring of VMs that must change places on full hosts: one of them is put on a third host
for the time, or the ring stays where it is and the plan says why.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from rebalancer.cluster.inventory import HostId, Vm
from rebalancer.cluster.plan import Priority
from rebalancer.planning.accounts import AccountKey, Accounts, Shortage
from rebalancer.planning.deadlock import why_stuck
from rebalancer.planning.modes import Choice

DETOURS_TRIED = 400
"""Ways round through a third host that are tried for one plan."""

REORDERINGS = 4
"""Whoever was left over is admitted first the next time; more than a few times gains nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One migration that is wanted: a VM, and how it would get there."""

    vm: Vm
    source: HostId
    target: HostId
    choice: Choice
    priority: Priority
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordered:
    """A migration that can be carried out, after those at the positions it depends on."""

    move: Move
    depends_on: frozenset[int]
    depth: int
    """Length of the longest chain that it waits for, plus one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """A migration that cannot be carried out, whatever one waits for."""

    move: Move
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """All that can be carried out, each after everything it depends on, and what cannot."""

    moves: tuple[Ordered, ...]
    stuck: tuple[Stuck, ...] = ()


type Detours = Callable[[Move], Iterator[tuple[Move, Move]]]
"""The ways to make a move in two, through a third host; the best one first."""


def order_moves(moves: Iterable[Move], accounts: Accounts, detours: Detours) -> Order:
    """Find an order in which every instant is within the limits, whatever the pace.

    Moves are admitted as they come: most important first. `accounts` are used up by it.
    """
    admission = _admit_most(list(moves), accounts)
    _take_detours(admission, detours)
    return Order(
        moves=tuple(admission.admitted),
        stuck=_stuck(admission),
    )


def _admit_most(moves: list[Move], accounts: Accounts) -> _Admission:
    """Admit in the given order; where some are left over, see whether they had better go first."""
    start = accounts.mark()
    admission = _Admission(accounts, moves)
    for _ in range(REORDERINGS):
        stuck = admission.stuck_moves()
        if not stuck:
            break
        late = {id(move) for move in stuck}
        first_stuck = [*stuck, *(move for move in admission.came if id(move) not in late)]
        accounts.undo(start)
        again = _Admission(accounts, first_stuck)
        if len(again.blocked) >= len(stuck):
            accounts.undo(start)
            return _Admission(accounts, admission.came)
        admission = again
    return admission


def _take_detours(admission: _Admission, detours: Detours) -> None:
    """Replace a blocked move by two through a third host, as long as that unblocks it."""
    tries = DETOURS_TRIED
    progress = True
    while progress and tries > 0:
        progress = False
        for number in admission.smallest_first():
            if number not in admission.blocked:
                continue
            for first, second in detours(admission.blocked[number][0]):
                tries -= 1
                if admission.detour(number, first, second):
                    progress = True
                    break
                if tries <= 0:
                    return


def _stuck(admission: _Admission) -> tuple[Stuck, ...]:
    accounts = admission.accounts
    moves = {number: move for number, (move, _) in admission.blocked.items()}
    reasons = why_stuck(
        {number: shortage for number, (_, shortage) in admission.blocked.items()},
        {n: accounts.paid_by(move.vm, move.source, move.target) for n, move in moves.items()},
        accounts.paid_into,
    )
    return tuple(Stuck(move=move, reason=reasons[number]) for number, move in moves.items())


class _Admission:
    """One attempt to admit moves; those that do not fit wait for the accounts they lack."""

    def __init__(self, accounts: Accounts, moves: list[Move]) -> None:
        self.accounts = accounts
        self.came = moves
        self.admitted: list[Ordered] = []
        self.blocked: dict[int, tuple[Move, Shortage]] = {}
        self._depths: list[int] = []
        self._waiting: dict[AccountKey, set[int]] = defaultdict(set)
        self._after: dict[int, int] = {}
        """Second half of a detour -> position of the first."""
        self._work_off(deque(enumerate(moves)))

    def _work_off(self, queue: deque[tuple[int, Move]]) -> None:
        while queue:
            number, move = queue.popleft()
            woken = self._admit(number, move)
            queue.extend((other, self._wake(other)) for other in sorted(woken))

    def _admit(self, number: int, move: Move) -> set[int]:
        """Admit a move or note what it lacks; returns the blocked ones that may fit now."""
        wanted = self.accounts.draws(move.vm, move.source, move.target)
        relied = self.accounts.draw(wanted, self._depths)
        if isinstance(relied, Shortage):
            self._block(number, move, relied)
            return set()
        if number in self._after:
            relied |= {self._after[number]}
        position = len(self.admitted)
        depth = 1 + max((self._depths[each] for each in relied), default=0)
        self.admitted.append(Ordered(move=move, depends_on=relied, depth=depth))
        self._depths.append(depth)
        grown = self.accounts.pay(position, move.vm, move.source, move.target)
        return {other for account in grown for other in self._waiting.get(account, ())}

    def _block(self, number: int, move: Move, shortage: Shortage) -> None:
        self.blocked[number] = (move, shortage)
        for account in shortage.payable:
            self._waiting[account].add(number)

    def _wake(self, number: int) -> Move:
        move, shortage = self.blocked.pop(number)
        for account in shortage.payable:
            self._waiting[account].discard(number)
        return move

    def stuck_moves(self) -> list[Move]:
        return [move for move, _ in self.blocked.values()]

    def smallest_first(self) -> list[int]:
        """Blocked moves; the one with the least memory is the cheapest to move twice."""
        return sorted(
            self.blocked, key=lambda number: (self.blocked[number][0].vm.memory_bytes, number)
        )

    def detour(self, number: int, first: Move, second: Move) -> bool:
        """Try two moves in place of a blocked one; without success nothing has changed."""
        mark, admitted, blocked = self.accounts.mark(), len(self.admitted), dict(self.blocked)
        self._wake(number)
        position = len(self.admitted)
        woken = self._admit(-1, first)
        if -1 not in self.blocked:
            self._after[number] = position
            queue = deque((other, self._wake(other)) for other in sorted(woken))
            queue.append((number, second))
            self._work_off(queue)
            if number not in self.blocked:
                return True
            del self._after[number]
        self._restore(mark, admitted, blocked)
        return False

    def _restore(self, mark: int, admitted: int, blocked: dict[int, tuple[Move, Shortage]]) -> None:
        self.accounts.undo(mark)
        del self.admitted[admitted:]
        del self._depths[admitted:]
        self._waiting.clear()
        self.blocked = {}
        for number, (move, shortage) in blocked.items():
            self._block(number, move, shortage)
