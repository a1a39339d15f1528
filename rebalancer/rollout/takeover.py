"""Where a dead process left its migrations, read back from its journal.

Nothing is believed of what the journal says of places: a migration that something was asked for
goes on in the finish stage, which looks at the hosts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from rebalancer.cluster.inventory import Snapshot
from rebalancer.cluster.plan import MigrationState, Outcome
from rebalancer.rollout.attempt import Attempt
from rebalancer.rollout.chronicle import attempt_from
from rebalancer.rollout.driver import Migrate, SwitchToPostCopy
from rebalancer.rollout.precopy import Watch
from rebalancer.rollout.records import MigrationRow, Record, RecordKind
from rebalancer.rollout.settings import Settings
from rebalancer.rollout.track import Track, mandate_for


def is_left_open(row: MigrationRow) -> bool:
    """Whether it did not end, or nobody knows how it did."""
    return row.outcome is None or row.state is MigrationState.UNKNOWN


def taken_up(
    row: MigrationRow,
    records: Sequence[Record],
    snapshot: Snapshot,
    settings: Settings,
    now: datetime,
) -> Track | Outcome:
    """Return where to go on with a migration that was left open, or that it never began."""
    attempt = attempt_from(row.migration, records)
    if attempt is None:
        return _never_begun(row)
    requested_at = next(r.at for r in records if r.kind is RecordKind.INTENT)
    mandate = mandate_for(row.migration, snapshot, settings.permissions, settings.times)
    track = Track(
        migration=row.migration,
        mandate=mandate,
        state=MigrationState.FINISH,
        entered_at=now,
        attempt=attempt,
        requested_at=requested_at,
        watch=_watch_again(attempt, now),
    )
    return _sharing_no_more(track, attempt)


def _sharing_no_more(track: Track, attempt: Attempt) -> Track:
    """Remember what its disks were told to share, so that its memory gets all of it."""
    asked = [command for command in attempt.issued if isinstance(command, Migrate)]
    if not asked or len(asked[-1].disks) < 2:
        return track
    each = asked[-1].bytes_per_second
    return replace(
        track,
        granted_bytes_per_second=each * len(asked[-1].disks),
        slowed_to_bytes_per_second=each,
    )


def _never_begun(row: MigrationRow) -> Outcome:
    """Nothing was asked of any hypervisor; the next plan will take it in again."""
    return Outcome(
        migration=row.migration.id,
        state=MigrationState.SKIPPED,
        text="nothing had been asked of its hosts; the next plan looks at it again",
    )


def _watch_again(attempt: Attempt, now: datetime) -> Watch:
    """Watch what a dead process asked for: what it may have done to the guest still holds."""
    begun = Watch.begun(now, attempt.migration.max_downtime_seconds)
    switched = attempt.has_issued(SwitchToPostCopy)
    return replace(
        begun,
        paused_at=now if attempt.paused_by_us else None,
        switched=switched,
        is_switch_doubtful=switched,
    )
