"""Why migrations could not be admitted: no room at all, or room only behind each other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Set

from rebalancer.planning.accounts import AccountKey, Shortage


def why_stuck(
    shortages: Mapping[int, Shortage],
    payments: Mapping[int, Set[AccountKey]],
    paid: Set[AccountKey],
) -> dict[int, str]:
    """Say of each blocked migration what is missing and why nobody makes room for it.

    `payments` are the accounts into which each blocked one would pay if it could leave, `paid`
    those into which admitted ones do.
    """
    waiting = _waiting_for_each_other(shortages, payments)
    payers = _payers(payments)
    return {
        number: f"{shortage.text}{_why(number, shortage, number in waiting, payers, paid)}"
        for number, shortage in shortages.items()
    }


def _why(
    number: int,
    shortage: Shortage,
    is_in_circle: bool,
    payers: Mapping[AccountKey, Set[int]],
    paid: Set[AccountKey],
) -> str:
    if is_in_circle:
        return (
            " until others have left, which wait for it in turn, "
            "and no third host can take one of them for the time"
        )
    if any(payers.get(account, frozenset()) - {number} for account in shortage.payable):
        return " until others have left, which cannot leave either"
    if not paid.isdisjoint(shortage.payable):
        return ", even after all other migrations"
    return ", and no other migration makes room"


def _waiting_for_each_other(
    shortages: Mapping[int, Shortage], payments: Mapping[int, Set[AccountKey]]
) -> set[int]:
    """Those in a circle, or behind one: what is left when all that wait for nobody are gone."""
    payers = _payers(payments)
    live = Counter({account: len(numbers) for account, numbers in payers.items()})
    waiters: dict[AccountKey, set[int]] = defaultdict(set)
    for number, shortage in shortages.items():
        for account in shortage.payable:
            waiters[account].add(number)

    def waits(number: int) -> bool:
        own = payments[number]
        return any(live[a] - (a in own) > 0 for a in shortages[number].payable)

    left = set(shortages)
    doubtful = set(shortages)
    while doubtful:
        number = doubtful.pop()
        if number not in left or waits(number):
            continue
        left.discard(number)
        for account in payments[number]:
            live[account] -= 1
            doubtful |= waiters[account] & left
    return left


def _payers(payments: Mapping[int, Set[AccountKey]]) -> dict[AccountKey, set[int]]:
    payers: dict[AccountKey, set[int]] = defaultdict(set)
    for number, accounts in payments.items():
        for account in accounts:
            payers[account].add(number)
    return dict(payers)
