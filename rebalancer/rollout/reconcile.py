"""How a migration ended, judged by what the hosts say and never by an error.

`reconcile` is a pure function of what was asked for and what was seen. The table, for a VM that
ran on `source` and was to go to `target`:

    source            target            other     decision
    ----------------  ----------------  --------  -------------------------------------------------
    unreachable       any               any       look again; then unknown
    any               unreachable       any       look again; then unknown
    active, job out   any               -         still moving: adopt it and wait
    active            active, job in    -         still moving: adopt it and wait
    post-copy         post-copy         -         still moving: nothing may be called off any more
    post-copy failed  any               -         look again; then unknown, with the way to resume
    running,          running,          -         pause the source's copy (it can be undone), then
      canceled          migrated                    unknown: two copies ran
    paused            running,          -         unknown: the target owns it, a stale copy remains;
                        migrated                    ended if the operator wants that and the
                                                    journal proves which copy is the older one
    running           paused            -         look again (the target gives up by itself)
    paused            paused            -         look again; then unknown
    running           running           -         unknown: split brain, nothing is touched
    running           not active        -         failed-safe (or aborted, if that was asked)
    paused by us      not active        -         resume it, then failed-safe
    paused            not active        -         look again; then failed-down
    not active        running           -         complete, after mending what is left to mend
    gone              paused, migration -         resume it there, then complete
    not active        paused            -         look again; then failed-down
    not active        not active        active    skipped: somebody moved it there
    active            any               active    unknown: split brain
    not active        not active        -         failed-down; cold mode starts it on the source
                                                    (or, where its memory was saved, reads that
                                                    back: `saved_ends` has that mode's own rows)

A decision to change something, or one that alarms people, has to be reached in two looks one
after the other (`steps` sees to that): two hosts are never asked at quite the same instant.
"""

from __future__ import annotations

from dataclasses import dataclass

from rebalancer.cluster.inventory import HostId, Mode, VmState
from rebalancer.cluster.plan import MigrationState
from rebalancer.rollout import saved_ends
from rebalancer.rollout.attempt import Attempt
from rebalancer.rollout.decisions import (
    Decision,
    LookAgain,
    Repair,
    StillMoving,
    when_all_answer,
)
from rebalancer.rollout.disk_files import removal
from rebalancer.rollout.driver import (
    CopyDefinition,
    MoveDefinition,
    Resume,
    SetAutostart,
    ShutDown,
    Start,
    Undefine,
)
from rebalancer.rollout.endings import Ended, Endings, UriOf, default_uri
from rebalancer.rollout.sightings import (
    Absent,
    DomainView,
    HostView,
    Sighting,
    StateReason,
    Unreachable,
)
from rebalancer.rollout.two_copies import active_on_both, moves, post_copy_broken


def reconcile(attempt: Attempt, sighting: Sighting, uri_of: UriOf = default_uri) -> Decision:
    """Decide how `attempt` stands, or what has to be done next to bring it to an end."""
    return _Case(attempt=attempt, sighting=sighting, uri_of=uri_of).decide()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    attempt: Attempt
    sighting: Sighting
    uri_of: UriOf

    # What was seen -------------------------------------------------------------------------

    @property
    def source(self) -> HostView:
        return _view(self.sighting, self.attempt.source)

    @property
    def target(self) -> HostView:
        return _view(self.sighting, self.attempt.target)

    @property
    def elsewhere(self) -> tuple[HostId, ...]:
        ends = (self.attempt.source, self.attempt.target)
        return tuple(host for host in self.sighting.active_on if host not in ends)

    @property
    def end(self) -> Endings:
        return Endings(attempt=self.attempt, sighting=self.sighting, uri_of=self.uri_of)

    @property
    def name(self) -> str:
        return self.attempt.migration.vm_name

    # The decision --------------------------------------------------------------------------

    def decide(self) -> Decision:
        if self.attempt.image is None:
            return self.by_table()
        if special := saved_ends.decide(self.attempt, self.sighting, self.end):
            return special
        return saved_ends.tidied(self.attempt, self.by_table(), self.end)

    def by_table(self) -> Decision:
        source, target = self.source, self.target
        if isinstance(source, Unreachable) or isinstance(target, Unreachable):
            return self.unreachable()
        if self.elsewhere:
            return self.active_elsewhere(_active(source), _active(target))
        match _active(source), _active(target):
            case DomainView() as here, DomainView() as there:
                return active_on_both(self.end, here, there)
            case DomainView() as here, None:
                return self.active_on_source(here)
            case None, DomainView() as there:
                return self.active_on_target(there)
        return self.active_nowhere()

    def unreachable(self) -> Decision:
        silent = "; ".join(
            f"{host} does not answer ({view.why})"
            for host, view in self.sighting.views.items()
            if isinstance(view, Unreachable)
        )
        missing = [h for h in (self.attempt.source, self.attempt.target) if not self.saw(h)]
        if not silent:
            silent = f"{', '.join(missing)} was not asked"
        return LookAgain(
            text=silent,
            then=self.end.unknown(
                f"{silent}, so nobody knows where it runs. Do not start it anywhere; bring the "
                "host back, then run `rebalancer recover`"
            ),
        )

    def saw(self, host: HostId) -> bool:
        return not isinstance(_view(self.sighting, host), Unreachable)

    def active_elsewhere(self, source: DomainView | None, target: DomainView | None) -> Decision:
        others = ", ".join(self.elsewhere)
        views = [_view(self.sighting, host) for host in self.elsewhere]
        if any(moves(view) for view in (source, target, *views)):
            return StillMoving(text=f"somebody else is migrating it, {others} takes part")
        if source or target or len(self.elsewhere) > 1:
            return self.end.split_brain()
        return Ended(
            state=MigrationState.SKIPPED,
            text=f"{self.name} is on {others}: somebody else moved it there meanwhile",
        )

    def active_on_source(self, source: DomainView) -> Decision:
        if source.reason is StateReason.POST_COPY_FAILED:
            return post_copy_broken(self.end)
        if source.reason is StateReason.POST_COPY or moves(source):
            return StillMoving(text="the migration job still runs on the source")
        if source.state is not VmState.PAUSED or not self.attempt.before.was_running:
            return self.back_to_normal(source)
        if self.attempt.stale_on_source:
            return LookAgain(
                text=f"only the older copy is left, on {self.attempt.source}",
                then=self.end.stale_copy_alone(),
            )
        if self.attempt.paused_by_us:
            return Repair(
                command=Resume(vm=self.attempt.vm, host=self.attempt.source),
                text="we paused it to finish the migration, which failed: it is resumed",
                then=self.end.paused_for_good(self.attempt.source, source),
            )
        return LookAgain(
            text=f"it is paused on {self.attempt.source} ({source.reason})",
            then=self.end.paused_for_good(self.attempt.source, source),
        )

    def back_to_normal(self, source: DomainView) -> Decision:
        """It runs on the source; undo what a cold move prepared."""
        attempt = self.attempt
        if (file := removal(attempt.migration, attempt.disk_files)) and (
            isinstance(self.target, Absent)
        ):
            return when_all_answer(
                self.sighting,
                Repair(
                    command=file,
                    text=f"{file.path}, made on {file.host} for a copy, is removed again",
                    then=self.end.failed_safe(),
                ),
            )
        copied = attempt.has_issued(CopyDefinition) and not attempt.before.target_had_definition
        target = self.target
        failed = self.end.failed_safe()
        if copied and isinstance(target, DomainView) and target.persistent:
            left = (
                f"; a definition is left on {attempt.target}: {self.end.undefine(attempt.target)}"
            )
            return when_all_answer(
                self.sighting,
                Repair(
                    command=Undefine(vm=attempt.vm, host=attempt.target),
                    text=f"the definition copied to {attempt.target} is removed again",
                    then=Ended(state=failed.state, text=failed.text + left),
                ),
            )
        if attempt.before.autostart and not source.autostart and source.persistent:
            return Repair(
                command=SetAutostart(vm=attempt.vm, host=attempt.source, enabled=True),
                text="its autostart is set again",
                then=Ended(state=failed.state, text=f"{failed.text}; its autostart is off"),
            )
        return failed

    def active_on_target(self, target: DomainView) -> Decision:
        if target.reason is StateReason.POST_COPY_FAILED:
            return post_copy_broken(self.end)
        if target.reason is StateReason.POST_COPY or moves(target):
            return StillMoving(text=f"{self.attempt.target} is still taking it over")
        if target.state is VmState.PAUSED and self.attempt.before.was_running:
            return self.paused_on_target(target)
        return self.arrived(target)

    def paused_on_target(self, target: DomainView) -> Decision:
        then = self.end.paused_for_good(self.attempt.target, target)
        ours = target.reason is StateReason.USER and self.attempt.paused_by_us
        if (ours or target.reason is StateReason.MIGRATION) and self.source_handed_over():
            return Repair(
                command=Resume(vm=self.attempt.vm, host=self.attempt.target),
                text=f"it arrived on {self.attempt.target} paused; the source has let go of it",
                then=then,
            )
        return LookAgain(text=f"it is paused on {self.attempt.target} ({target.reason})", then=then)

    def source_handed_over(self) -> bool:
        """Whether the source says that the whole memory left.

        A transient VM that is merely absent proves nothing: its QEMU may have died half-way,
        and the copy on the target may be half a memory.
        """
        if isinstance(self.source, DomainView):
            return self.source.reason is StateReason.MIGRATED
        return self.attempt.before.persistent

    def arrived(self, target: DomainView) -> Decision:
        """It is on the target, and only there; mend what is not as it was."""
        attempt, source = self.attempt, self.source
        done = self.end.complete()
        if attempt.before.persistent and not target.persistent:
            kept_on = attempt.source if isinstance(source, DomainView) else attempt.target
            return Repair(
                command=CopyDefinition(vm=attempt.vm, host=kept_on, target=attempt.target),
                text=f"{attempt.target} would forget it when it stops: it is defined there",
                then=self.end.complete(
                    f"; but {attempt.target} has no definition of it, so it is gone once it stops"
                ),
            )
        if isinstance(source, DomainView) and source.persistent and attempt.before.persistent:
            return when_all_answer(
                self.sighting,
                Repair(
                    command=Undefine(vm=attempt.vm, host=attempt.source),
                    text=f"its old definition on {attempt.source} is removed",
                    then=self.end.complete(
                        f"; its old definition is left on {attempt.source}, where it could be "
                        f"started a second time: {self.end.undefine(attempt.source)}"
                    ),
                ),
            )
        if attempt.before.autostart and target.persistent and not target.autostart:
            return Repair(
                command=SetAutostart(vm=attempt.vm, host=attempt.target, enabled=True),
                text="its autostart is set on the target as it was on the source",
                then=self.end.complete("; but its autostart is off there"),
            )
        return done

    def active_nowhere(self) -> Decision:
        if silent := self.sighting.unreachable:
            return LookAgain(
                text=f"it runs on no host that answers; {', '.join(silent)} does not",
                then=self.end.unknown(
                    f"it runs on no host that answers, and {', '.join(silent)} does not answer. "
                    "Do not start it before that is known"
                ),
            )
        if not self.attempt.before.was_running and not self.attempt.has_issued(ShutDown):
            return self.definition_only()
        if self.attempt.has_issued(ShutDown) and _defined(self.source):
            return self.start_on_source()
        return self.end.down()

    def start_on_source(self) -> Decision:
        return Repair(
            command=Start(vm=self.attempt.vm, host=self.attempt.source),
            text=f"the cold move did not succeed: it is started on {self.attempt.source} again",
            then=self.end.down(),
        )

    def definition_only(self) -> Decision:
        """It did not run before: where its definition is, is where it is."""
        attempt = self.attempt
        if attempt.migration.mode is not Mode.OFFLINE and _defined(self.source):
            return self.end.failed_safe()
        match _defined(self.source), _defined(self.target):
            case True, False:
                return self.end.failed_safe()
            case False, True:
                return self.offline_arrived()
            case True, True if attempt.before.target_had_definition:
                return self.end.failed_safe()
            case True, True:
                return self.defined_twice()
        return self.end.down()

    def offline_arrived(self) -> Decision:
        target = self.target
        assert isinstance(target, DomainView)
        if self.attempt.before.autostart and not target.autostart:
            return Repair(
                command=SetAutostart(vm=self.attempt.vm, host=self.attempt.target, enabled=True),
                text="its autostart is set on the target as it was on the source",
                then=self.end.complete("; but its autostart is off there"),
            )
        return self.end.complete()

    def defined_twice(self) -> Decision:
        """Forward when the call succeeded, back when it did not."""
        attempt = self.attempt
        moved = attempt.has_issued(MoveDefinition) and not attempt.error and not attempt.open_call
        surplus = attempt.source if moved else attempt.target
        left = f"; it is also defined on {surplus}: {self.end.undefine(surplus)}"
        outcome = self.end.complete(left) if moved else self.end.failed_safe()
        return Repair(
            command=Undefine(vm=attempt.vm, host=surplus),
            text=f"its second definition, on {surplus}, is removed",
            then=outcome if moved else Ended(state=outcome.state, text=outcome.text + left),
        )


def _view(sighting: Sighting, host: HostId) -> HostView:
    return sighting.views.get(host, Unreachable(why="it was not asked"))


def _active(view: HostView) -> DomainView | None:
    return view if isinstance(view, DomainView) and view.is_active else None


def _defined(view: HostView) -> bool:
    return isinstance(view, DomainView) and view.persistent


__all__ = [
    "Absent",
    "Decision",
    "Ended",
    "LookAgain",
    "Repair",
    "StillMoving",
    "UriOf",
    "default_uri",
    "reconcile",
]
