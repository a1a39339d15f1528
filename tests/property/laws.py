"""How hard the laws are tried, for all files of this folder.

    HYPOTHESIS_PROFILE=laws pytest tests/property        500 examples of each

The laws, by the number in the names of their tests (`pytest tests/property -k law_7`):

    1  Every answer keeps every rule, or breaks it no further, by an oracle without a solver.
    2  An answer is never worse than doing nothing.
    3  Placing again what was placed moves nothing.
    4  Every prefix of a plan keeps capacities and rules, with VMs in flight on both hosts.
    5  No link, host or slot ever carries more than it may.
    6  A controller may die after any record: no VM is lost, doubled or started twice.
    7  Names and order do not change the objective.
    8  Brute force on tiny clusters finds nothing better than the bound.
    9  What is written to the journal is read back as it was.

Laws 1 and 8 are asked of every kind of rule, cap and pool in `test_constraint_laws` as well, law 2
of packing in `test_power_laws`, and law 6 of switching hosts in `test_power_switching_laws`.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

SAME = 1e-5
"""Costs closer than this are the same: the solver's tolerance and the least gain of a move."""

THOROUGH = 500
"""Examples of a profile from which on every law gets all of them, whatever it costs."""


def law(share: float = 1.0, *, same_every_time: bool = False) -> settings:
    """Return the settings of a law that gets `share` of the examples of the profile."""
    default = settings.get_profile(settings.get_current_profile_name())
    examples = default.max_examples
    return settings(
        default,
        max_examples=examples if examples >= THOROUGH else max(1, round(share * examples)),
        derandomize=default.derandomize or same_every_time,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
