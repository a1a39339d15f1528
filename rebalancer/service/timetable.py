"""When policies are due: at their hours, else every so often, whatever happens to the clock."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from rebalancer.service.clock import SystemClock
from rebalancer.service.config import Settings
from rebalancer.service.duty import Duty

log = logging.getLogger(__name__)


class Timetable:
    """Tells `is_due` of each policy when its time has come, from a thread of its own."""

    def __init__(self, is_due: Callable[[str], None]) -> None:
        """Know no policy yet."""
        self._is_due = is_due
        self._scheduler = BackgroundScheduler(
            timezone=None, job_defaults={"coalesce": True, "max_instances": 1}
        )
        self._duties: Mapping[str, Duty] = {}
        self._interval_seconds = 0.0

    @property
    def is_alive(self) -> bool:
        """Whether its thread is."""
        thread = getattr(self._scheduler, "_thread", None)
        return thread is not None and thread.is_alive()

    def start(self) -> None:
        """Begin to tell."""
        self._scheduler.start()

    def stop(self) -> None:
        """Tell no more."""
        self._scheduler.shutdown(wait=False)

    def plan(self, duties: Mapping[str, Duty], settings: Settings) -> None:
        """Give every policy its hours; one that is kept keeps the instant of its next cycle."""
        daemon = settings.daemon
        known = {job.id: getattr(job, "next_run_time", None) for job in self._scheduler.get_jobs()}
        for name in known.keys() - duties.keys():
            self._scheduler.remove_job(name)
        for name, duty in duties.items():
            options = {}
            if duty.policy.active.cron is None:
                latest = _now() + timedelta(seconds=daemon.interval_seconds)
                before = known.get(name)
                options["next_run_time"] = _now() if before is None else min(before, latest)
            self._scheduler.add_job(
                self._is_due,
                trigger_of(duty, daemon.interval_seconds, daemon.jitter_share),
                args=[name],
                id=name,
                replace_existing=True,
                misfire_grace_time=None,
                **options,
            )
        self._duties, self._interval_seconds = duties, daemon.interval_seconds

    def next_of(self, duty: Duty, settings: Settings) -> datetime | None:
        """Say when a policy is due next: when it was told that it is, or as the settings are."""
        due: datetime | None = getattr(self._scheduler.get_job(duty.name), "next_run_time", None)
        return due if due is not None and due > _now() else next_cycle(duty, settings)

    def mend_after_a_clock_jump(self) -> None:
        """Put off no cycle for hours because the machine's clock was set back."""
        latest = _now() + timedelta(seconds=self._interval_seconds * 2 + 60)
        for job in self._scheduler.get_jobs():
            duty = self._duties.get(job.id)
            is_paced = duty is not None and duty.policy.active.cron is None
            if is_paced and job.next_run_time > latest:
                log.warning("clock_jumped", extra={"policy": job.id})
                job.modify(next_run_time=_now())


def trigger_of(duty: Duty, interval_seconds: float, jitter_share: float) -> BaseTrigger:
    """When a policy is due: at its hours, else every so often, not always at the same second."""
    if duty.policy.active.cron is not None:
        return CronTrigger.from_crontab(duty.policy.active.cron)
    jitter = int(interval_seconds * jitter_share)
    return IntervalTrigger(seconds=interval_seconds, jitter=jitter or None)


def next_cycle(duty: Duty, settings: Settings) -> datetime | None:
    """Say when a policy is due again if nothing gets in its way."""
    daemon = settings.daemon
    trigger = trigger_of(duty, daemon.interval_seconds, daemon.jitter_share)
    due: datetime | None = trigger.get_next_fire_time(None, _now())
    return due


def _now() -> datetime:
    return SystemClock().now()
