"""Plan files that were edited since they were made: found by a digest, told, recounted.

To edit a plan is the operator's right, and no secret guards the digest: it is there so that
nobody is shown the totals and reasons of one plan over the steps of another.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from rebalancer.cluster.plan import Plan
from rebalancer.files.tree import Tree
from rebalancer.service.verdict import amount_text

STEPS = ("migrations", "power")
"""What is carried out; the rest of a plan tells of it."""

AS_MADE = "its reasons and totals are those of the plan that was made"


def digest(tree: object) -> str:
    """Return a digest of the steps in a plan's JSON, whatever its layout and order of keys."""
    steps = {key: tree.get(key) for key in STEPS} if isinstance(tree, dict) else None
    text = json.dumps(_canonical(steps), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def with_edits_told(plan: Plan, tree: Tree) -> Plan:
    """Return a plan that was read from `tree`, its verdict recounted if its steps were edited."""
    if plan.made_as in ("", digest(tree)):
        return replace(plan, made_as="")
    text = f"edited since it was made: {AS_MADE}; now: {amount_text(plan)}"
    return replace(plan, verdict=replace(plan.verdict, text=text))


def _canonical(value: object) -> object:
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    # Tools that rewrite JSON make 3.0 of 3, or 3 of 3.0.
    try:
        return repr(float(value))
    except OverflowError:
        return str(value)
