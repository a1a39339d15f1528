"""Scenarios: a simulated cluster in a YAML file, with what should come of it.

    schema_version: 1
    name: hotspot
    description: One host does all the work.   # for people
    start: 2026-11-23T09:00:00Z      # the first instant of virtual time; this one by default
    seed: 7                          # of everything that is drawn at random in the simulation
    history: 1h                      # past CPU use that snapshots carry; none by default
    memory_overcommit: 1.0           # how much more than it has a host gives to guests
    sites: [{name: tokyo, energy_price_per_kwh: 0.2, carbon_g_per_kwh: 450, latency: {osaka: 9ms}}]
    links: [{name: wan, between: [tokyo, osaka], bandwidth: 1Gbit/s}]
    racks: [{name: r1, uplink: 25Gbit/s}]
    hosts:
      - {name: "h{1..4}", cpu_cores: 16, memory: 64GiB, site: tokyo}
    vms:
      - {name: "web{1..8}", on: h1, vcpus: 2, memory: 4GiB, cpu: 1.5, dirty: 10MiB/s}
    policy: ../policies/balance.yaml # relative to this file; or the policy itself, as a mapping
    drain: [h1]                      # hosts that are to be emptied
    faults:
      - {kind: link-drops, host: h2, stage: transfer, after: 3s, duration: 10s}
    expect: {verdict: moves, migrations: {at_most: 4}, hottest_host_cpu: 60%}

One entry may stand for many: `{1..4}` in a name is four names, `{01..40}` keeps the zero. `on`
takes one host, a pattern or a list; VMs are dealt to several hosts in turn. Ids are the names.

A host may have `reserved_memory`, `site`, `rack`, `state`, `cpu` (its own use), `cpu_model`,
`cpu_models`, `arch`, `nic` (10 Gbit/s by default), `labels`, `storage`, `networks`, `devices`,
`disk_room` (what is free for local disks; without it none come here), `idle_watts`, `max_watts`.

A VM may have `vcpus`, `resident` (memory that is not all zeros; all of it by default), `cpu`,
`dirty` (bytes written a second), `working_set` (where they go), `writes` (`random` or `cyclic`),
`dirty_known: false` (only a probe finds the rate), `labels`, `storage`, `networks`,
`devices`, `local_disk` (a size), `disk_writes` (to it, a second), `cpu_model`, `arch`,
`machine_type`, `movable`, `blockers`, `autostart`, `persistent`, `state`, `allowed_modes`,
`max_downtime` and `shutdown` (how long it takes to).

`cpu` is a number of cores, or `{mean, amplitude, peak_hour}` (a wave a day, hours in UTC), or
`{steps: [[0s, 1.5], [10m, 3]]}`, or `{every: 5m, samples: [1, 2, 4]}` (again and again).

`generate` draws a large cluster, the same for the same `seed`; see `scenarios/large.yaml`.

A fault has a `kind` (see `faults.FaultKind`), what it is about (`vm`, `host`, `link`), and when
it strikes: `at` a time, or the next time a migration or call reaches `stage`, and `after` so
long; `duration`, without which it is for ever; `factor`, `operation`, `code` and `text`.

`day: {every: 30m, lasts: 24h}` looks after the policy again and again, as the daemon does, and
hosts are really switched: off at once, on after a boot. `sleep_after_cycles` is as in the
settings, `cannot_wake` are hosts that refuse to, and its own `expect` takes `slept`, `woken` (how
often), `energy_saved` (at least, of what all hosts would draw), `fewest_awake`, `quarantined`.

`expect` takes the keys of `scenario_file.ExpectSection`, explained in `expectations`; numbers of
things are exact, or `{at_least: 1, at_most: 4}`. Hosts and VMs are named by their names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rebalancer.cluster.amounts import bytes_text
from rebalancer.cluster.inventory import HostId, HostState
from rebalancer.errors import Fault as FileFault
from rebalancer.errors import InvalidFileError
from rebalancer.files import Document, open_yaml
from rebalancer.simulation import scenario_nouns as nouns
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.day import Day
from rebalancer.simulation.expectations import Expectations
from rebalancer.simulation.faults import Fault
from rebalancer.simulation.generation import generate
from rebalancer.simulation.scenario_file import HostSection, ScenarioFile, VmSection
from rebalancer.simulation.simulated_source import SimulatedSource
from rebalancer.simulation.specification import DatacentreSpec, GuestSpec, HostSpec

DEFAULT_START = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
"""A Monday morning."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scenario:
    """A simulated cluster, the policy for it, and what should come of it."""

    name: str
    description: str
    datacentre: DatacentreSpec
    policy: Path | Mapping[str, Any]
    """A policy file, or a policy as it stands in the scenario; `service` reads both."""
    drain: tuple[HostId, ...]
    """Hosts that are draining from the start."""
    expect: Expectations
    day: Day | None = None
    """Many cycles instead of one plan."""
    history_seconds: float = 0.0
    policy_text: Document | None = None
    """The policy that stands in the scenario, with the lines that it is in."""

    def build(self) -> Datacentre:
        """Make a fresh datacentre; building twice gives the same one twice."""
        return Datacentre(self.datacentre)

    def source(self, datacentre: Datacentre) -> SimulatedSource:
        """Observe `datacentre` with as much history as the scenario asks for."""
        return SimulatedSource(datacentre, history_seconds=self.history_seconds)


def read_scenario(path: Path | str) -> Scenario:
    """Read a scenario file; raise `InvalidFileError` with everything that is wrong in it."""
    document = open_yaml(path)
    return scenario_of(document, Path(path).parent)


def scenario_of(document: Document, folder: Path) -> Scenario:
    """Make a scenario of a document; policy files are looked for from `folder` on."""
    file = document.read(ScenarioFile)
    reader = _Reader(document, file)
    datacentre = reader.datacentre()
    reader.judge(datacentre)
    if faults := reader.faults():
        raise InvalidFileError(faults)
    return Scenario(
        name=file.name,
        description=file.description.strip(),
        datacentre=datacentre,
        policy=folder / file.policy if isinstance(file.policy, str) else file.policy,
        drain=tuple(HostId(name) for name in nouns.expanded(file.drain)),
        expect=nouns.expectations(file.expect),
        day=nouns.day(file.day),
        history_seconds=file.history,
        policy_text=None if isinstance(file.policy, str) else _policy_text(document),
    )


def _policy_text(document: Document) -> Document:
    # Inside another file that file's version counts.
    return document.part(("policy",), {"schema_version": 1})


type _Place = tuple[str | int, ...]


class _Reader:
    """Turns the parts of a file into nouns and collects what is wrong with them."""

    def __init__(self, document: Document, file: ScenarioFile) -> None:
        self._document = document
        self._file = file
        self._start = file.start.astimezone(UTC) if file.start else DEFAULT_START
        self._faults: dict[FileFault, int] = {}
        """What is wrong, with the line that it is in."""

    def faults(self) -> list[FileFault]:
        """Return everything that is wrong, in the order of the file."""
        return sorted(self._faults, key=lambda fault: self._faults[fault])

    def datacentre(self) -> DatacentreSpec:
        """Return the datacentre, without the parts that are wrong by themselves."""
        file = self._file
        hosts, vms = self._sections()
        draining = set(self._try(("drain",), nouns.expanded, file.drain) or ())
        return DatacentreSpec(
            cluster=file.name,
            start=self._start,
            hosts=tuple(
                replace(spec, host=replace(spec.host, state=HostState.DRAINING))
                if spec.host.id in draining
                else spec
                for spec in hosts
            ),
            guests=tuple(vms),
            sites=tuple(nouns.site(section) for section in file.sites),
            links=tuple(nouns.link(section) for section in file.links),
            racks=tuple(nouns.rack(section) for section in file.racks),
            faults=tuple(self._script()),
            seed=file.seed,
            memory_overcommit=file.memory_overcommit,
        )

    def judge(self, spec: DatacentreSpec) -> None:
        """Find everything that does not fit together."""
        self._judge_unique("hosts", [host.host.name for host in spec.hosts])
        self._judge_unique("vms", [guest.vm.name for guest in spec.guests])
        self._judge_unique("sites", [site.name for site in spec.sites])
        self._judge_unique("links", [link.name for link in spec.links])
        self._judge_unique("racks", [rack.name for rack in spec.racks])
        if not spec.hosts:
            self._complain((), "a cluster without hosts", 'give "hosts" or "generate"')
        self._judge_sites(spec)
        self._judge_references(spec)
        if not self._faults:
            self._judge_memory(spec)

    def _sections(self) -> tuple[list[HostSpec], list[GuestSpec]]:
        file = self._file
        hosts: list[HostSpec] = []
        vms: list[GuestSpec] = []
        for index, section in enumerate(file.hosts):
            hosts += self._try(("hosts", index), self._hosts_of, section) or ()
        for index, vm_section in enumerate(file.vms):
            vms += self._try(("vms", index), self._guests_of, vm_section) or ()
        if file.generate is not None:
            drawn = self._try(("generate",), generate, file.generate)
            for section in drawn[0] if drawn else ():
                hosts += self._hosts_of(section)
            for vm_section in drawn[1] if drawn else ():
                vms += self._guests_of(vm_section)
        return hosts, vms

    def _hosts_of(self, section: HostSection) -> list[HostSpec]:
        return list(nouns.host_specs(section, self._start))

    def _guests_of(self, section: VmSection) -> list[GuestSpec]:
        return list(nouns.guest_specs(section, self._start))

    def _script(self) -> Iterator[Fault]:
        for index, section in enumerate(self._file.faults):
            fault = self._try(("faults", index), nouns.fault, section)
            if fault is not None:
                yield fault

    def _judge_unique(self, key: str, names: Sequence[str]) -> None:
        for name, count in Counter(names).items():
            if count > 1:
                self._complain(
                    (key,), f"{name!r} is there {count} times", "give each a name of its own"
                )

    def _judge_sites(self, spec: DatacentreSpec) -> None:
        sites = {site.name for site in spec.sites}
        for index, link in enumerate(spec.links):
            self._judge_names(("links", index, "between"), "site", link.between, sites)
            if link.between[0] == link.between[1]:
                self._complain(("links", index, "between"), "joins a site with itself")
        for index, section in enumerate(self._file.hosts):
            if section.site is not None:
                self._judge_names(("hosts", index, "site"), "site", [section.site], sites)

    def _judge_references(self, spec: DatacentreSpec) -> None:
        hosts = {str(host.host.id) for host in spec.hosts}
        vms = {str(guest.vm.id) for guest in spec.guests}
        file, expect = self._file, self._file.expect
        for index, section in enumerate(file.vms):
            on = [section.on] if isinstance(section.on, str) else section.on
            self._judge_patterns(("vms", index, "on"), "host", on, hosts)
        self._judge_patterns(("drain",), "host", file.drain, hosts)
        for index, fault in enumerate(file.faults):
            links = {link.name for link in spec.links}
            self._judge_names(("faults", index, "host"), "host", _given(fault.host), hosts)
            self._judge_names(("faults", index, "vm"), "VM", _given(fault.vm), vms)
            self._judge_names(("faults", index, "link"), "link", _given(fault.link), links)
        named_vms: dict[str, Iterable[str]] = {
            "modes": expect.modes,
            "outcomes": expect.outcomes,
            "unmoved": expect.unmoved,
            "stay": expect.stay,
            "on": expect.on,
            "apart": [name for group in expect.apart for name in group],
        }
        for key, patterns in named_vms.items():
            self._judge_patterns(("expect", key), "VM", patterns, vms)
        self._judge_patterns(("expect", "empty_hosts"), "host", expect.empty_hosts, hosts)
        for name, places in expect.on.items():
            wanted = [places] if isinstance(places, str) else places
            self._judge_patterns(("expect", "on", name), "host", wanted, hosts)

    def _judge_memory(self, spec: DatacentreSpec) -> None:
        """A cluster that could not exist teaches nothing."""
        used: Counter[HostId] = Counter()
        for guest in spec.guests:
            if guest.vm.is_active:
                used[guest.vm.host] += guest.vm.memory_bytes
        for host in spec.hosts:
            room = host.host.guest_memory_bytes * spec.memory_overcommit
            if used[host.host.id] > room:
                self._complain(
                    ("vms",),
                    f"VMs on {host.host.name} have {bytes_text(used[host.host.id])} of memory "
                    "together",
                    f"the host has {bytes_text(max(0.0, room))} for guests",
                )

    def _judge_patterns(
        self, place: _Place, what: str, patterns: Iterable[str], known: set[str]
    ) -> None:
        names = self._try(place, nouns.expanded, patterns)
        self._judge_names(place, what, names or (), known)

    def _judge_names(self, place: _Place, what: str, names: Iterable[str], known: set[str]) -> None:
        for name in names:
            if name not in known:
                self._complain(place, f"no {what} is named {name!r}")

    def _try[Part, Result](
        self, place: _Place, make: Callable[[Part], Result], part: Part
    ) -> Result | None:
        try:
            return make(part)
        except ValueError as error:
            self._complain(place, str(error))
            return None

    def _complain(self, place: _Place, problem: str, expected: str = "") -> None:
        lines = self._document.lines
        fault = self._document.fault(place, problem, expected)
        self._faults.setdefault(fault, lines.of(place) if lines else 0)


def _given(name: str | None) -> tuple[str, ...]:
    return () if name is None else (name,)
