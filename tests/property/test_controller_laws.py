"""Law 6 over a whole life: controllers that die, their successors that die too, and silent hosts.

A machine of rules: hypothesis chooses which plans are applied, when a controller dies, how often
the ones that take its place do, how long nobody looks after anything, and which hosts do not
answer meanwhile.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping

from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from rebalancer.cluster.inventory import Host, HostId, VmId
from rebalancer.cluster.plan import Migration, MigrationState
from rebalancer.rollout.executor import Settings, execute, recover
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.sightings import DomainView
from rebalancer.simulation.clock import VirtualClock
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.faults import Fault, FaultKind
from rebalancer.simulation.simulated_source import SimulatedSource
from tests.builders import GIB, MIB, a_host, a_snapshot, a_vm
from tests.property.laws import law
from tests.unit.rollout.crashes import (
    IN_MEMORY,
    Death,
    KilledError,
    MortalDriver,
    MortalJournal,
    a_dead_owner,
)
from tests.unit.rollout.plans import LIMITS, a_migration, a_plan
from tests.unit.rollout.ways import FACTS, STORAGE, Way

S = MigrationState
PLACE = {S.COMPLETE: "target", S.SKIPPED: "source", S.FAILED_SAFE: "source", S.ABORTED: "source"}
HOSTS = tuple(
    a_host(f"h{n}", memory_bytes=32 * GIB, storage=frozenset({STORAGE})) for n in range(1, 4)
)
LONGEST_SILENCE_SECONDS = 90.0

deaths = (
    st.just(Death())
    | st.integers(1, 20).map(lambda n: Death(after_record=n))
    | st.integers(1, 20).map(lambda n: Death(before_record=n))
    | st.integers(1, 6).map(lambda n: Death(after_command=n))
)


class Controllers(RuleBasedStateMachine):
    """One datacentre, one journal, and whoever is in charge at the time."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(dir=IN_MEMORY)
        self.plans: list[tuple[Migration, ...]] = []
        self.is_open = False
        self.died = 0

    @initialize(
        ways=st.lists(st.sampled_from(Way), min_size=1, max_size=3),
        homes=st.lists(st.sampled_from(HOSTS), min_size=3, max_size=3),
        autostart=st.booleans(),
        data=st.data(),
        death=deaths,
    )
    def build(
        self,
        ways: list[Way],
        homes: list[Host],
        autostart: bool,
        data: st.DataObject,
        death: Death,
    ) -> None:
        """A datacentre, and a first plan for it."""
        self.ways = {VmId(f"v{n}"): way for n, way in enumerate(ways, start=1)}
        vms = [
            a_vm(
                vm,
                on=home.id,
                autostart=autostart,
                memory_bytes=GIB * (1 + number % 2),
                **FACTS[way],
            )
            for number, ((vm, way), home) in enumerate(zip(self.ways.items(), homes, strict=False))
        ]
        self.vms = {vm.id: vm for vm in vms}
        self.world = Datacentre.of(a_snapshot(HOSTS, vms))
        self.clock = VirtualClock(self.world)
        self.source = SimulatedSource(self.world)
        self.apply_a_plan(data, death, 400.0)

    def seen(self, vm: VmId) -> Mapping[HostId, DomainView]:
        """What each host itself would say of a VM, whether it answers or not."""
        found = {host.id: host.view(vm) for host in self.world.hosts.values()}
        return {host: view for host, view in found.items() if isinstance(view, DomainView)}

    @precondition(lambda self: not self.is_open)
    @rule(
        data=st.data(),
        death=deaths,
        speed=st.sampled_from([100.0, 400.0, 5000.0]),
    )
    def apply_a_plan(self, data: st.DataObject, death: Death, speed: float) -> None:
        """Send some VMs elsewhere; whoever does it may die on the way."""
        # Where a definition was left behind, an operator removes it before the VM moves again.
        tidy = [vm for vm in self.ways if len(self.seen(vm)) == 1]
        if not tidy:
            return
        moving = data.draw(st.lists(st.sampled_from(tidy), min_size=1, unique=True))
        migrations = []
        for number, vm in enumerate(moving, start=1):
            (source,) = self.seen(vm)
            others = [host.id for host in HOSTS if host.id != source]
            migrations.append(
                a_migration(
                    vm,
                    source,
                    data.draw(st.sampled_from(others)),
                    id=f"m{number}",
                    memory_bytes=self.vms[vm].memory_bytes,
                    bytes_per_second=speed * MIB,
                    **self.ways[vm].plan,
                )
            )
        plan = a_plan(*migrations, id=f"p{len(self.plans) + 1}")
        self.plans.append(plan.migrations)
        with MortalJournal.open(self.url, self.clock) as journal:
            driver = self.driver_and_journal_die(journal, death)
            try:
                execute(
                    plan,
                    driver=driver,
                    clock=self.clock,
                    journal=journal,
                    snapshot=self.source.recent,
                    settings=Settings(limits=LIMITS),
                    lease=journal.acquire(plan.cluster, owner=a_dead_owner()),
                )
            except KilledError:
                self.died += 1
            driver.close()
        self.look()

    @precondition(lambda self: self.is_open)
    @rule(death=deaths)
    def recover_from_it(self, death: Death) -> None:
        """Somebody takes over, and may die as well."""
        with MortalJournal.open(self.url, self.clock) as journal:
            driver = self.driver_and_journal_die(journal, death)
            try:
                recover(
                    cluster="test",
                    driver=driver,
                    clock=self.clock,
                    journal=journal,
                    snapshot=self.source.recent,
                    settings=Settings(limits=LIMITS),
                    lease=journal.acquire("test", owner=a_dead_owner()),
                )
            except KilledError:
                self.died += 1
            driver.close()
        self.look()

    @rule(seconds=st.sampled_from([1.0, 7.0, 60.0]))
    def nobody_looks(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule(
        host=st.sampled_from([host.id for host in HOSTS]),
        seconds=st.sampled_from([5.0, LONGEST_SILENCE_SECONDS]),
    )
    def a_host_falls_silent(self, host: HostId, seconds: float) -> None:
        """Its VMs and migrations know nothing of it."""
        if all(self.world.answers(other.id) for other in HOSTS):
            fault = Fault(
                kind=FaultKind.HOST_UNREACHABLE, host=host, at_seconds=0, duration_seconds=seconds
            )
            self.world.let_strike(fault, None)

    @property
    def url(self) -> str:
        return f"sqlite:///{self.folder}/journal.db"

    def driver_and_journal_die(self, journal: MortalJournal, death: Death) -> MortalDriver:
        driver = MortalDriver(self.world)
        journal.death = driver.death = death
        return driver

    def look(self) -> None:
        with Journal.open(self.url, self.clock) as journal:
            self.is_open = bool(journal.unfinished("test"))

    @invariant()
    def no_vm_runs_twice_and_no_budget_is_passed(self) -> None:
        record = self.world.record
        assert record.doubled() == ()
        assert record.violations() == ()
        assert record.peak_migrations <= LIMITS.cluster
        assert max(record.peak_out.values(), default=0) <= LIMITS.per_host_out
        assert max(record.peak_in.values(), default=0) <= LIMITS.per_host_in

    def teardown(self) -> None:
        """Let somebody end what is left, and see that each VM is where the journal says."""
        try:
            if hasattr(self, "world"):
                self.end()
        finally:
            shutil.rmtree(self.folder)

    def end(self) -> None:
        self.world.advance(LONGEST_SILENCE_SECONDS + 600.0)
        event(f"plans: {min(len(self.plans), 3)}, controllers that died: {min(self.died, 3)}")
        self.look()
        if self.is_open:
            self.recover_from_it(Death())
        assert not self.is_open
        self.assert_each_vm_is_where_the_journal_says()
        self.no_vm_runs_twice_and_no_budget_is_passed()

    def assert_each_vm_is_where_the_journal_says(self) -> None:
        """There and nowhere else, but for definitions that an outcome tells the operator of."""
        with Journal.open(self.url, self.clock) as journal:
            rollouts = sorted(row.id for row in journal.rollouts("test"))
            ended = [row for rollout in rollouts for row in journal.migrations(rollout)]
        # A controller that dies before its first record has applied nothing.
        assert len(rollouts) <= len(self.plans)
        places = {vm.id: vm.host for vm in self.vms.values()}
        said = dict.fromkeys(self.vms, "")
        for row in ended:
            vm = row.migration.vm
            assert row.migration.source == places[vm]
            assert row.outcome is not None
            places[vm] = getattr(row.migration, PLACE[row.state])
            said[vm] = row.outcome.text
        for vm, place in places.items():
            found = self.seen(vm)
            assert found[place].persistent
            assert self.world.record.running_on(vm) == (place,) * self.vms[vm].is_active
            for host in found.keys() - {place}:
                assert not found[host].is_active
                assert f"definition is left on {host}" in said[vm]


test_law_6_a_controller_and_its_successors_may_die_at_any_record = Controllers.TestCase
test_law_6_a_controller_and_its_successors_may_die_at_any_record.settings = settings(
    law(0.4), stateful_step_count=8
)
