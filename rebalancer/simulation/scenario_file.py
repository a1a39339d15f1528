"""What a scenario file holds, key by key. What the keys mean is told in `scenario`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field

from rebalancer.cluster.inventory import HostState, Mode, VmState
from rebalancer.cluster.plan import MigrationState, VerdictKind
from rebalancer.files import (
    ByHour,
    Bytes,
    BytesPerSecond,
    Cores,
    FileModel,
    Price,
    PriceByHour,
    Ratio,
    Seconds,
)
from rebalancer.simulation.faults import FaultKind, Stage
from rebalancer.simulation.memory import Writes

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Names = tuple[Name, ...]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
SomeBytes = Annotated[Bytes, Field(gt=0)]
SomeCores = Annotated[Cores, Field(gt=0)]
SomeSeconds = Annotated[Seconds, Field(gt=0)]
SomeBytesPerSecond = Annotated[BytesPerSecond, Field(gt=0)]


type DeviceCount = Annotated[int, Field(ge=0, le=1000)]


class SiteSection(FileModel):
    """A place with hosts in it."""

    name: Name
    energy_price_per_kwh: Price | None = None
    energy_price_per_kwh_by_hour: PriceByHour = ()
    carbon_g_per_kwh: Annotated[float, Field(ge=0)] | None = None
    carbon_g_per_kwh_by_hour: ByHour = ()
    latency: dict[Name, Seconds] = Field(default_factory=dict)


class LinkSection(FileModel):
    """A network between two sites."""

    name: Name
    between: tuple[Name, Name]
    bandwidth: SomeBytesPerSecond
    price_per_gib: Annotated[float, Field(ge=0)] = 0.0
    carbon_g_per_gib: Annotated[float, Field(ge=0)] = 0.0


class RackSection(FileModel):
    """What joins a rack with the others."""

    name: Name
    uplink: SomeBytesPerSecond


class WaveSection(FileModel):
    """CPU use that goes up and down once a day."""

    mean: Cores
    amplitude: Cores
    peak_hour: Annotated[float, Field(ge=0, lt=24)] = 14.0


class StepsSection(FileModel):
    """CPU use that jumps."""

    steps: Annotated[tuple[tuple[Seconds, Cores], ...], Field(min_length=1)]


class SamplesSection(FileModel):
    """CPU use as it was recorded, again and again."""

    every: SomeSeconds
    samples: Annotated[tuple[Cores, ...], Field(min_length=1)]


Cpu = Cores | WaveSection | StepsSection | SamplesSection


class HostTraits(FileModel):
    """What hosts that were written or generated have in common."""

    cpu_cores: SomeCores
    memory: SomeBytes
    reserved_memory: Bytes = 0
    site: Name | None = None
    rack: Name | None = None
    state: HostState = HostState.UP
    cpu: Cpu = 0.0
    cpu_model: Name | None = None
    cpu_models: Names | None = None
    arch: Name | None = None
    nic: SomeBytesPerSecond = 1.25e9
    labels: dict[Name, str] = Field(default_factory=dict)
    storage: Names | None = None
    disk_room: Bytes | None = None
    networks: Names | None = None
    devices: dict[Name, DeviceCount] = Field(default_factory=dict)
    idle_watts: Annotated[float, Field(ge=0)] | None = None
    max_watts: Annotated[float, Field(ge=0)] | None = None


class HostSection(HostTraits):
    """One host, or several alike."""

    name: Name


class VmTraits(FileModel):
    """What VMs that were written or generated have in common."""

    writes: Writes = Writes.RANDOM
    dirty_known: bool = True
    labels: dict[Name, str] = Field(default_factory=dict)
    storage: Names = ("shared",)
    networks: Names = ()
    devices: dict[Name, DeviceCount] = Field(default_factory=dict)
    local_disk: Bytes = 0
    disk_writes: BytesPerSecond = 0.0
    cpu_model: Name | None = None
    arch: Name | None = None
    machine_type: Name | None = None
    movable: bool = True
    blockers: tuple[str, ...] = ()
    autostart: bool = True
    persistent: bool = True
    state: VmState = VmState.RUNNING
    allowed_modes: tuple[Mode, ...] | None = None
    max_downtime: Seconds | None = None
    shutdown: Seconds = 5.0


class VmSection(VmTraits):
    """One VM, or several alike."""

    name: Name
    on: Name | Annotated[Names, Field(min_length=1)]
    vcpus: Annotated[int, Field(ge=1, le=4096)] = 1
    memory: SomeBytes
    resident: Bytes | None = None
    cpu: Cpu = 0.0
    dirty: BytesPerSecond = 0.0
    working_set: Bytes | None = None


class GeneratedHosts(HostTraits):
    """Many hosts alike."""

    count: Annotated[int, Field(ge=1, le=10_000)]
    name: Name
    racks: Annotated[int, Field(ge=1)] | None = None


class GeneratedVms(VmTraits):
    """Many VMs whose sizes are drawn."""

    count: Annotated[int, Field(ge=1, le=200_000)]
    name: Name
    vcpus: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    memory: Annotated[tuple[SomeBytes, ...], Field(min_length=1)]
    cpu: tuple[Ratio, Ratio]
    dirty: tuple[BytesPerSecond, BytesPerSecond] = (0.0, 0.0)
    working_set: tuple[Ratio, Ratio] = (0.05, 0.05)


class GenerateSection(FileModel):
    """A cluster drawn at random, the same for the same seed."""

    seed: int
    crowding: Annotated[float, Field(ge=0, le=3)] = 0.5
    hosts: Annotated[tuple[GeneratedHosts, ...], Field(min_length=1)]
    vms: Annotated[tuple[GeneratedVms, ...], Field(min_length=1)]


class FaultSection(FileModel):
    """One thing that goes wrong once."""

    kind: FaultKind
    vm: Name | None = None
    host: Name | None = None
    link: Name | None = None
    stage: Stage | None = None
    at: Seconds | None = None
    after: Seconds = 0.0
    duration: Seconds | None = None
    factor: Annotated[float, Field(ge=0)] = 1.0
    operation: Name | None = None
    code: int | None = None
    text: str = ""


class RangeSection(FileModel):
    """At least, at most, or both."""

    at_least: Count = 0
    at_most: Count | None = None


Range = Count | RangeSection


class ExpectSection(FileModel):
    """What should come of it."""

    verdict: VerdictKind | None = None
    exit_code: Annotated[int, Field(ge=0, le=255)] | None = None
    migrations: Range | None = None
    modes: dict[Name, Mode] = Field(default_factory=dict)
    mode_counts: dict[Mode, Range] = Field(default_factory=dict)
    all_complete: bool = True
    outcomes: dict[Name, MigrationState] = Field(default_factory=dict)
    unmoved: Names = ()
    stay: Names = ()
    on: dict[Name, Name | Names] = Field(default_factory=dict)
    apart: tuple[Names, ...] = ()
    hottest_host_cpu: Ratio | None = None
    cpu_spread: Ratio | None = None
    empty_hosts: Names = ()
    hosts_free_to_sleep: Range | None = None
    hosts_asleep: Range | None = None
    two_step_moves: Range | None = None
    longest_downtime: Seconds | None = None
    makespan: Seconds | None = None
    makespan_error: Ratio | None = None
    no_violations: bool = True


class DayExpectSection(FileModel):
    """What should come of many cycles."""

    slept: Range | None = None
    woken: Range | None = None
    energy_saved: Ratio | None = None
    fewest_awake: Range | None = None
    quarantined: Names = ()


class DaySection(FileModel):
    """The policy is looked after again and again, as the daemon does, and hosts are switched."""

    every: SomeSeconds
    lasts: SomeSeconds
    sleep_after_cycles: Annotated[int, Field(ge=1, le=1000)] = 2
    cannot_wake: Names = ()
    expect: DayExpectSection = Field(default_factory=DayExpectSection)


class ScenarioFile(FileModel):
    """A scenario file."""

    schema_version: Literal[1]
    name: Name
    description: str = ""
    start: AwareDatetime | None = None
    seed: int = 0
    history: Seconds = 0.0
    memory_overcommit: Annotated[float, Field(gt=0, le=10)] = 1.0
    sites: tuple[SiteSection, ...] = ()
    links: tuple[LinkSection, ...] = ()
    racks: tuple[RackSection, ...] = ()
    hosts: tuple[HostSection, ...] = ()
    vms: tuple[VmSection, ...] = ()
    generate: GenerateSection | None = None
    policy: str | dict[str, Any]
    drain: Names = ()
    faults: tuple[FaultSection, ...] = ()
    expect: ExpectSection = Field(default_factory=ExpectSection)
    day: DaySection | None = None
