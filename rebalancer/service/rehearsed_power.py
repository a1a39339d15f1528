"""The power steps of a plan in a rehearsal: simulated hosts are really switched, by the real code.

With a journal that is gone afterwards, and made only for plans that switch anything.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rebalancer.cluster.plan import Outcome, Plan
from rebalancer.cluster.policy import Policy
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.lease import Lease
from rebalancer.rollout.power_executor import PowerOutcome, size_of
from rebalancer.rollout.power_journal import PowerJournal
from rebalancer.rollout.power_steps import Phase, PowerMark
from rebalancer.rollout.steps import StopRequest
from rebalancer.service.access import ReadAccess
from rebalancer.service.change_access import ChangeAccess
from rebalancer.service.power_rollout import sleep_last, wake_first
from rebalancer.service.session import Session
from rebalancer.service.work import Work
from rebalancer.simulation.clock import VirtualClock
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.simulated_driver import SimulatedDriver
from rebalancer.simulation.simulated_power import SimulatedPower


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsedPower:
    """Wakes hosts of a simulated datacentre before its migrations, puts them to sleep after."""

    session: Session
    access: ReadAccess
    datacentre: Datacentre

    def wake(self, plan: Plan, policy: Policy) -> tuple[PowerOutcome, ...]:
        """Wake what the plan wants awake."""
        with self._at_work(plan) as work:
            return wake_first(work, plan, policy, _never) if work is not None else ()

    def sleep(
        self, plan: Plan, policy: Policy, outcomes: Sequence[Outcome]
    ) -> tuple[PowerOutcome, ...]:
        """Put to sleep what the plan has emptied."""
        with self._at_work(plan) as work:
            return sleep_last(work, plan, policy, outcomes, _never) if work is not None else ()

    @contextmanager
    def _at_work(self, plan: Plan) -> Iterator[Work | None]:
        if not plan.power:
            yield None
            return
        power = SimulatedPower(self.datacentre)
        access = ChangeAccess(
            read=self.access,
            driver=SimulatedDriver(self.datacentre),
            power=power,
            census=power.census,
            switchable=frozenset(self.datacentre.hosts),
        )
        with tempfile.TemporaryDirectory(prefix="rebalancer-rehearsal-") as folder:
            url = f"sqlite:///{Path(folder) / 'journal.db'}"
            settings = self.session.settings.model_copy(update={"journal": url})
            inside = replace(self.session, settings=settings)
            with (
                Journal.open(url, self.access.clock) as journal,
                journal.hold(self.access.cluster) as lease,
            ):
                note_sleepers(url, lease, self.datacentre)
                yield Work(session=inside, access=access, journal=journal, lease=lease)


def note_sleepers(url: str, lease: Lease, datacentre: Datacentre) -> None:
    """Let hosts that a scenario begins with asleep be known as ones that may be woken."""
    clock = VirtualClock(datacentre)
    with PowerJournal.open(url, clock) as journal:
        for host in datacentre.hosts.values():
            if host.asleep:
                size = size_of(host.facts)
                mark = PowerMark(host=host.id, phase=Phase.ASLEEP, since=clock.now(), size=size)
                journal.keep(host.id, mark, "the scenario begins with it asleep", lease)


def _never() -> StopRequest:
    return StopRequest.NO
