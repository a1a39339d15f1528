"""Whether the policy in force lets a migration be done in the way that its plan says.

A plan is a file that anybody can edit, and a policy may change after a plan was made; so this is
asked when the plan is read, and again of each migration right before it starts. What a migration
may fall back to once it runs is not decided here, but by its mandate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from rebalancer.cluster.inventory import Mode, Vm
from rebalancer.cluster.plan import Migration
from rebalancer.cluster.policy import MigrationPermissions
from rebalancer.rollout.admission import uses_the_network

LONGEST_HAND_OVER_SECONDS = 1.5
"""The most that the hypervisor is told as a pause before it switches to post-copy; planners aim
for less. How long the guest waits for single pages afterwards, nobody can promise."""

LEAST_PAUSE_SECONDS = 0.001
"""libvirt takes milliseconds, so that nobody can be held to less."""

COPYING_MODES = frozenset({Mode.LIVE, Mode.AUTO_CONVERGE, Mode.SUSPEND})
"""In these a migration that fails leaves the disks of the source as they are."""

_ROUNDING = 1 + 1e-9


def objections(
    migration: Migration, vm: Vm | None, permissions: MigrationPermissions
) -> Iterator[str]:
    """Yield what speaks against the mode and the pause of a migration, by policy and owner.

    `vm` is `None` where nobody knows the VM; only the policy is asked then.
    """
    if migration.mode not in permissions.allow:
        allowed = ", ".join(sorted(permissions.allow)) or "none"
        yield f"the policy does not allow mode {migration.mode} (migration.allow: {allowed})"
    if migration.saved_to and migration.mode is not Mode.COLD:
        yield f"a migration in mode {migration.mode} saves nothing (saved_to)"
    if migration.saved_to and migration.saved_to != permissions.save_to:
        allowed = permissions.save_to or "none"
        yield (
            f"the policy does not let memory be saved to storage {migration.saved_to} "
            f"(migration.save_to: {allowed})"
        )
    if migration.disks and not permissions.local_disks:
        yield "the policy does not let local disks be copied (migration.local_disks: false)"
    if migration.disks and migration.mode not in COPYING_MODES:
        yield f"a migration in mode {migration.mode} copies no disks (disks)"
    if not uses_the_network(migration.mode):
        return
    limit = longest_pause_seconds(migration.mode, vm, permissions)
    if not migration.max_downtime_seconds <= limit * _ROUNDING:
        yield (
            f"a pause of up to {migration.max_downtime_seconds:g} s is longer than the "
            f"{limit:g} s that policy and owner allow in mode {migration.mode}"
        )


def longest_pause_seconds(mode: Mode, vm: Vm | None, permissions: MigrationPermissions) -> float:
    """Return the longest pause that a hypervisor may be told in this mode."""
    by_policy = {
        Mode.SUSPEND: permissions.max_suspend_seconds,
        Mode.POST_COPY: max(permissions.max_downtime_seconds, LONGEST_HAND_OVER_SECONDS),
    }.get(mode, permissions.max_downtime_seconds)
    by_owner = vm.max_downtime_seconds if vm is not None else None
    return max(min(by_policy, math.inf if by_owner is None else by_owner), LEAST_PAUSE_SECONDS)
