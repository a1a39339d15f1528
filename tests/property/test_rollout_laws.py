"""Laws of rollouts: whenever the controller dies and whatever breaks, no VM is lost or doubled."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.cluster.inventory import HostId, Snapshot
from rebalancer.cluster.plan import Migration, MigrationState, Outcome, Plan
from rebalancer.rollout.executor import Settings
from rebalancer.rollout.sightings import DomainView
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.faults import Fault, FaultKind, Stage, random_faults
from tests.builders import GIB, IMAGES, MIB, a_disk, a_host, a_snapshot, a_vm, with_disks
from tests.property.laws import law
from tests.unit.rollout.crashes import IN_MEMORY, Death, Story, live_through
from tests.unit.rollout.plans import LIMITS, a_migration, a_plan
from tests.unit.rollout.ways import FACTS, STORAGE, Way

S = MigrationState
SHARED = frozenset({STORAGE})
HOSTS = tuple(a_host(f"h{n}", memory_bytes=32 * GIB, storage=SHARED) for n in range(1, 5))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A plan for a small datacentre, drawn from a seed."""

    plan: Plan
    snapshot: Snapshot

    @classmethod
    def drawn(cls, seed: int, vms: int = 4) -> Case:
        random = Random(seed)
        migrations: list[Migration] = []
        found = []
        for n in range(1, vms + 1):
            way = random.choice(list(Way))
            facts = {"persistent": random.random() < 0.8, "autostart": random.random() < 0.5}
            facts["memory_bytes"] = random.choice([1, 2, 4]) * GIB  # type: ignore[assignment]
            vm = a_vm(f"v{n}", on=f"h{random.randint(1, 2)}", **(facts | FACTS[way]))
            found.append(vm)
            earlier = tuple(m.id for m in migrations if random.random() < 0.15)
            migrations.append(
                a_migration(
                    vm.name,
                    vm.host,
                    f"h{random.randint(3, 4)}",
                    id=f"m{n}",
                    **way.plan,
                    memory_bytes=vm.memory_bytes,
                    depends_on=earlier,
                    bytes_per_second=random.choice([100.0, 400.0, 5000.0]) * MIB,
                )
            )
        return cls(plan=a_plan(*migrations), snapshot=a_snapshot(HOSTS, found))

    def run(
        self, death: Death, faults: tuple[Fault, ...] = (), dead_for_seconds: float = 0.0
    ) -> tuple[Story, Datacentre]:
        datacentre = Datacentre.of(self.snapshot, faults=faults)
        with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
            story = live_through(
                self.plan,
                self.snapshot,
                datacentre,
                Path(folder),
                death,
                settings=Settings(limits=LIMITS),
                dead_for_seconds=dead_for_seconds,
            )
        datacentre.advance(600)
        return story, datacentre

    def outcomes(self, story: Story) -> dict[str, Outcome]:
        results = [*([story.first] if story.first else []), *story.recovered]
        return {o.migration: o for result in results for o in result.outcomes}


def assert_splits_were_ended(
    case: Case, outcomes: dict[str, Outcome], datacentre: Datacentre
) -> None:
    """Only libvirt itself may double a VM: then one copy was paused, and the alarm raised."""
    by_vm = {migration.vm: migration.id for migration in case.plan.migrations}
    for span in datacentre.record.doubled():
        assert outcomes[by_vm[span.vm]].state is S.UNKNOWN
        assert span.end_seconds is not None
        assert len(datacentre.record.running_on(span.vm)) == 1


PLACE = {S.COMPLETE: "target", S.SKIPPED: "source", S.FAILED_SAFE: "source", S.ABORTED: "source"}


def assert_budgets_kept(datacentre: Datacentre) -> None:
    record = datacentre.record
    assert record.violations() == ()
    assert max(record.peak_out.values(), default=0) <= LIMITS.per_host_out
    assert max(record.peak_in.values(), default=0) <= LIMITS.per_host_in
    assert record.peak_migrations <= LIMITS.cluster
    for granted in record.peak_granted_bytes_per_second.values():
        assert granted <= LIMITS.link_share * HOSTS[0].nic_bytes_per_second * (1 + 1e-9)


def views(datacentre: Datacentre, migration: Migration) -> dict[HostId, DomainView]:
    found = {host.id: host.view(migration.vm) for host in datacentre.hosts.values()}
    return {host: view for host, view in found.items() if isinstance(view, DomainView)}


def assert_world_agrees(case: Case, story: Story, datacentre: Datacentre) -> None:
    """Each VM is where its outcome says, once, with its definition and autostart."""
    outcomes = case.outcomes(story)
    for migration in case.plan.migrations:
        vm = case.snapshot.vm_by_id[migration.vm]
        outcome = outcomes.get(migration.id)
        place = getattr(migration, PLACE[outcome.state] if outcome else "source")
        seen = views(datacentre, migration)
        assert [h for h, view in seen.items() if view.is_active] == [place] * vm.is_active, outcome
        assert datacentre.record.running_on(vm.id) == (place,) * vm.is_active, outcome
        assert [h for h, view in seen.items() if view.persistent] == [place] * vm.persistent
        kept = vm.persistent and vm.autostart
        assert [h for h, view in seen.items() if view.autostart] == [place] * kept


@pytest.mark.parametrize("way", list(Way))
def test_law_6_a_controller_may_die_after_any_record_and_any_command(way: Way) -> None:
    vm = a_vm("v1", autostart=True, memory_bytes=GIB, **FACTS[way])
    move = a_migration("v1", memory_bytes=GIB, **way.plan)
    case = Case(plan=a_plan(move), snapshot=a_snapshot(HOSTS[:2], [vm]))
    whole, _ = case.run(Death())
    deaths = [
        *(Death(after_record=k) for k in range(1, whole.records + 1)),
        *(Death(after_command=k) for k in range(1, whole.commands + 1)),
    ]

    for death in deaths:
        story, datacentre = case.run(death)

        assert story.died
        assert_budgets_kept(datacentre)
        assert_world_agrees(case, story, datacentre)


@pytest.mark.parametrize("breaks", [False, True])
def test_law_6_a_controller_may_die_after_any_record_of_a_vm_with_local_disks(
    breaks: bool,
) -> None:
    disks = (a_disk("vda", 2 * GIB), a_disk("vdb", GIB))
    vm = a_vm("v1", memory_bytes=GIB, **with_disks(*disks, writes=5.0 * MIB))
    hosts = [replace(host, disk_pools={IMAGES: 100 * GIB}) for host in HOSTS[:2]]
    move = a_migration("v1", memory_bytes=GIB, disks=disks)
    case = Case(plan=a_plan(move), snapshot=a_snapshot(hosts, [vm]))
    fault = Fault(kind=FaultKind.TRANSFER_BREAKS, vm=vm.id, stage=Stage.TRANSFER, after_seconds=9.0)
    faults = (fault,) if breaks else ()
    whole, _ = case.run(Death(), faults)
    deaths = [
        *(Death(after_record=k) for k in range(1, whole.records + 1)),
        *(Death(after_command=k) for k in range(1, whole.commands + 1)),
    ]

    for death in deaths:
        story, datacentre = case.run(death, faults)
        (outcome,) = case.outcomes(story).values()
        left = [path for host, path in datacentre.disk_files if host == move.target]

        assert story.died
        assert_budgets_kept(datacentre)
        assert_world_agrees(case, story, datacentre)
        assert {path for host, path in datacentre.disk_files if host == vm.host} == {
            disk.path for disk in disks
        }
        assert all(path in outcome.text for path in left)
        assert len(left) == 2 if outcome.state is S.COMPLETE else len(left) <= 1


@given(
    seed=st.integers(0, 10**6),
    record=st.integers(1, 60),
    dead_for_seconds=st.sampled_from([0.0, 3.0, 40.0]),
)
@law(0.5)
def test_law_6_a_controller_may_die_in_the_middle_of_many_migrations(
    seed: int, record: int, dead_for_seconds: float
) -> None:
    case = Case.drawn(seed)

    story, datacentre = case.run(Death(after_record=record), dead_for_seconds=dead_for_seconds)

    assert_budgets_kept(datacentre)
    assert_world_agrees(case, story, datacentre)


@given(seed=st.integers(0, 10**6))
@law(0.3)
def test_law_5_budgets_are_kept_and_everything_arrives_when_nothing_breaks(seed: int) -> None:
    case = Case.drawn(seed, vms=6)

    story, datacentre = case.run(Death())

    assert story.first is not None
    assert story.first.is_complete, story.first
    assert_budgets_kept(datacentre)
    assert_world_agrees(case, story, datacentre)


@given(seed=st.integers(0, 10**6), faults=st.integers(1, 4), record=st.none() | st.integers(1, 60))
@law(0.6)
def test_law_6_whatever_breaks_every_migration_has_an_end_and_every_vm_is_where_it_says(
    seed: int, faults: int, record: int | None
) -> None:
    case = Case.drawn(seed)
    vms = [vm.id for vm in case.snapshot.vms]
    drawn = random_faults(seed, vms, [host.id for host in HOSTS], faults)

    story, datacentre = case.run(Death(after_record=record), faults=drawn)

    outcomes = case.outcomes(story)
    assert datacentre.record.overloads == []
    assert datacentre.record.corrupted == []
    assert_splits_were_ended(case, outcomes, datacentre)
    if not story.died or story.recovered:
        assert set(outcomes) == {migration.id for migration in case.plan.migrations}
    for migration in case.plan.migrations:
        outcome = outcomes.get(migration.id)
        if outcome is not None and outcome.state in PLACE:
            seen = views(datacentre, migration)
            active = [host for host, view in seen.items() if view.is_active]
            place = getattr(migration, PLACE[outcome.state])
            # A guest may die by itself later; what it must not do is turn up somewhere else.
            assert active in ([place], []), (outcome, active)
