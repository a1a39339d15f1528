"""How the program is set up: the keys of `rebalancer.yaml`, their defaults and bounds.

What is wanted of a cluster is a policy and not in here: these are the settings of the program that
carries policies out. The text under each key is the one that `docs/configuration.md` prints.
Where a setting comes from when several places give it is decided in `config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, Field, PrivateAttr
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from rebalancer.cluster.inventory import HostState
from rebalancer.cluster.sites import Rack
from rebalancer.collect.snapshot_model import LinkEntry, Name, SiteEntry, Text
from rebalancer.files import Bytes, BytesPerSecond, Cores, FileModel, Ratio
from rebalancer.service.api_format import ApiSettings
from rebalancer.service.logs import LogFormat
from rebalancer.service.power_format import HostPowerSettings, PowerSettings
from rebalancer.service.telemetry_format import (
    CollectSettings,
    DirtyRateSettings,
    Duration,
    PrometheusSettings,
)

type Watts = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


def _database_url(text: str) -> str:
    try:
        kind = make_url(text).get_backend_name()
    except (ArgumentError, ValueError):  # such as a port that is no number
        kind = ""
    if kind not in {"sqlite", "postgresql"}:
        raise ValueError(
            "is not a database address; expected such as sqlite:////var/lib/rebalancer/journal.db "
            "or postgresql://rebalancer@db1/rebalancer"
        )
    return text


def _libvirt_uri(text: str) -> str:
    if "://" not in text and not text.startswith("test:"):
        raise ValueError("is not a libvirt URI; expected such as qemu+ssh://root@h1/system")
    return text


def _migration_uri(text: str) -> str:
    if not text.startswith(("tcp://", "rdma://")):
        raise ValueError("is not an address for memory; expected such as tcp://10.0.1.1")
    return text


DASK = "dask://"


def _executor(text: str) -> str:
    if text in {"processes", "serial"}:
        return text
    if text.startswith(DASK):
        try:
            parts = urlsplit(text)
            is_address = parts.hostname and parts.port and not (parts.path or parts.query)
        except ValueError:  # such as a port that is no number
            is_address = False
        if is_address:
            return text
    raise ValueError("expected processes, serial, or such as dask://127.0.0.1:8786")


type StatedState = Literal[
    HostState.UP, HostState.DRAINING, HostState.MAINTENANCE, HostState.ASLEEP, HostState.DOWN
]
"""What an operator can say of a host; that it is unknown only shows."""


def _absolute(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("expected an absolute path, such as /usr/local/bin/silence-alerts")
    return text


def _command(words: tuple[str, ...]) -> tuple[str, ...]:
    if not words:
        raise ValueError("expected a command, such as [/usr/local/bin/silence-alerts, --quiet]")
    _absolute(words[0])
    return words


type LibvirtUri = Annotated[Name, AfterValidator(_libvirt_uri)]
type MigrationUri = Annotated[Name, AfterValidator(_migration_uri)]
type Executor = Annotated[Name, AfterValidator(_executor)]


class RunMode(StrEnum):
    """Whether the program only says what it would do, or does it."""

    RECOMMEND = "recommend"
    AUTO = "auto"


class _Section(FileModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class HostSettings(_Section):
    """One libvirt host."""

    name: Name
    """What the host is called everywhere: in policies, plans and commands."""
    uri: LibvirtUri
    """Where its libvirt is reached from here."""
    peer_uri: LibvirtUri | None = None
    """Where the other hosts reach its libvirt, if that is not `uri`: migration is peer to peer, so
    the source host itself connects to the target."""
    migration_uri: MigrationUri | None = None
    """Where guests' memory is sent to, such as `tcp://10.0.1.1`, when there is a network of its own
    for it. Default: libvirt chooses, by the host's name."""
    site: Name | None = None
    """The site that it stands in; rules, links and geography go by it."""
    rack: Name | None = None
    """The rack that it stands in; rules can spread VMs over racks."""
    labels: dict[Name, Text] = {}
    """Anything that policies select hosts by."""
    state: StatedState | None = None
    """What it is for as long as this stands here, such as `maintenance`; a host that is `asleep` or
    `down` is not even asked. Default: it is seen for itself. (`rebalancer drain` needs no such
    entry.)"""
    cpu_cores: Cores | None = None
    """CPU cores that guests may share. Default: the hardware threads that libvirt reports."""
    memory: Bytes | None = None
    """Size of its memory. Default: what libvirt reports."""
    reserved_memory: Bytes | None = None
    """Memory that guests must not get: the hypervisor's own. Default: 5 % of what libvirt reports,
    but 4 GiB at least and a quarter at most; nothing where `memory` is given, which then is
    guests'."""
    nic_bytes_per_second: Annotated[BytesPerSecond, Field(gt=0)] | None = None
    """What its migration network carries in each direction. Default: 10 Gbit/s."""
    storage: dict[Name, Name] = {}
    """Shared storage that libvirt has no pool for: a name, the same on all hosts, and its path
    there. A disk on shared storage need not be copied, and a policy may name it for the memory of
    guests that are moved cold (`migration.save_to`), for which a folder is made in it."""
    networks: tuple[Name, ...] | None = None
    """All bridges and networks that guests find here. Default: what libvirt lists."""
    devices: dict[Name, Annotated[int, Field(ge=0, le=100_000)]] = {}
    """How many devices it has for VMs, by pool, such as `{vgpu-a16: 4}`; VMs say in their metadata
    what they take. Pools of libvirt networks (SR-IOV) are found by themselves."""
    cpu_from_guests: bool = False
    """Take the sum over the guests for the host's CPU use, not what libvirt measures. For hosts
    that see more of a machine than is theirs: nested ones, or a test lab."""
    idle_watts: Watts | None = None
    """What it draws when nothing runs on it. Default: guessed from the number of cores."""
    max_watts: Watts | None = None
    """What it draws under full load. Default: guessed from the number of cores."""
    prometheus_name: Name | None = None
    """What Prometheus calls it, such as `10.0.0.1` or `10.0.0.1:9100`. Default: its name, or the
    host in `uri` or `peer_uri`, with any port."""
    power: HostPowerSettings | None = None
    """How it is switched on and off: see below. Default: it is not."""


class LinkSettings(LinkEntry):
    """One of `links`, as in a snapshot, but for the units that people write."""

    bytes_per_second: Annotated[BytesPerSecond, Field(gt=0)]


class RackSettings(_Section):
    """The uplink of one rack."""

    name: Name
    """What its hosts call it, under `rack`."""
    uplink_bytes_per_second: Annotated[BytesPerSecond, Field(gt=0)]
    """What the rack's switch carries to and from all other racks, in each direction."""

    def rack(self) -> Rack:
        """Return the noun."""
        return Rack(name=self.name, uplink_bytes_per_second=self.uplink_bytes_per_second)


class PlacementSettings(_Section):
    """How long and with what placements are searched."""

    time_limit_seconds: Duration = 60.0
    """Then the best placement found so far is taken; it is never worse than the present one."""
    executor: Executor = "processes"
    """Where the solver runs. `processes`: in processes of its own on this machine, several at a
    time, which are killed when they are late. `serial`: in this process, where nothing can stop
    it. `dask://HOST:PORT`: on a Dask cluster whose scheduler is there (`vm-rebalancer[scale]`);
    if it cannot be reached, on this machine. The placement found is the same."""
    workers: Annotated[int, Field(ge=1, le=256)] | None = None
    """How many processes the solver has on this machine; each takes some 100 MB. Default: as many
    as there are processors, 8 at most. They are started as they are needed: not for 10 hosts."""


class PlanSettings(_Section):
    """What plans are given."""

    ttl_seconds: Duration = 86_400.0
    """A plan older than this is refused. A day is enough to have it reviewed; that the cluster is
    still as the plan says is checked in any case."""


class RolloutSettings(_Section):
    """How patiently migrations are carried out."""

    call_timeout_seconds: Duration = 60.0
    """A call to libvirt that has not returned by then is given up, and the hosts are asked what
    became of the VM. (The transfer itself is one call and has its own limit, from the plan.)"""
    abort_timeout_seconds: Duration = 30.0
    """The same for calling off a migration."""
    shutdown_timeout_seconds: Duration = 180.0
    """How long a guest may take to shut down for a cold migration. Then the migration has failed;
    the guest is never switched off."""
    tls: bool = False
    """Encrypt guests' memory on its way, and refuse to migrate where that is not possible. QEMU
    needs certificates on every host; a TLS `uri` alone only protects libvirt's own messages."""
    parallel_connections: Annotated[int, Field(ge=1, le=256)] | None = None
    """Send memory over so many TCP streams, which pays on links that one cannot fill. Default:
    one. Post-copy migrations go over one in any case."""
    failure_budget: Annotated[int, Field(ge=1, le=10_000)] = 3
    """After so many failed migrations a rollout starts no more: something else is wrong."""
    failure_share: Annotated[Ratio, Field(gt=0)] = 0.2
    """The same as a share of the plan's migrations. The smaller of the two counts, though a single
    failure never stops a rollout on account of its share."""


class HookSettings(_Section):
    """A command that is run before or after something."""

    command: Annotated[tuple[Annotated[str, Field(max_length=4096)], ...], AfterValidator(_command)]
    """The program by its absolute path, and its arguments: words, which no shell reads."""
    timeout_seconds: Annotated[Duration, Field(le=3600)] = 30.0
    """After this long it is killed, with everything that it started; that counts as failed."""


class HooksSettings(_Section):
    """Commands of your own around plans, migrations and drains.

    What they read is in `docs/operations.md`. They are never run in a dry run or a simulation.
    """

    before_plan: tuple[HookSettings, ...] = ()
    """Before the first migration of a plan. If one fails, nothing is moved."""
    after_plan: tuple[HookSettings, ...] = ()
    """When everything that was begun has ended. A failure is only told."""
    before_migration: tuple[HookSettings, ...] = ()
    """Before each migration, when its target has been found fit. If one fails, the migration is
    skipped, with the last line that the hook wrote as the reason."""
    after_migration: tuple[HookSettings, ...] = ()
    """After each migration that was begun or that a `before_migration` hook was run for, however it
    ended. A failure is only told."""
    before_drain: tuple[HookSettings, ...] = ()
    """Before hosts are drained by `rebalancer drain --yes`. If one fails, nothing is changed."""
    after_drain: tuple[HookSettings, ...] = ()
    """When that drain is over. A failure is only told."""


class PolicySettings(_Section):
    """A policy that the daemon runs besides the one under `policy`."""

    name: Name
    """What it is called in here."""
    file: Path
    """The policy file, relative to this file."""
    mode: RunMode | None = None
    """Whether it may move VMs. Default: as `mode` says."""


class DaemonSettings(_Section):
    """How `rebalancer run` goes about when it stays."""

    interval_seconds: Annotated[Duration, Field(ge=1, le=86_400)] = 300.0
    """From one cycle of a policy to the next, where the policy has no hours of its own
    (`active: {cron: …}`)."""
    jitter_share: Ratio = 0.1
    """Each cycle is put off at random by up to this share of the interval, so that several
    clusters do not ask the same Prometheus in the same second."""
    log: LogFormat = LogFormat.AUTO
    """`text`, `json`, or `auto`: JSON under systemd, text elsewhere. Always to standard output."""


class Settings(_Section):
    """Everything that can be set."""

    schema_version: Literal[1] = 1
    """The version of this format."""
    cluster: Name = "main"
    """What the cluster is called. Plans of a cluster with another name are refused."""
    mode: RunMode = RunMode.RECOMMEND
    """`recommend`: `rebalancer run` only says what it would do. `auto`: it does it."""
    policy: Path | None = None
    """The policy file, relative to this file. Default: balance CPU and memory, no rules."""
    policies: tuple[PolicySettings, ...] = ()
    """More policies for the daemon, each with its own hours and, if wanted, its own mode."""
    journal: Annotated[str, AfterValidator(_database_url)] | None = None
    """The database that every action is written to before it is taken: SQLite, or PostgreSQL
    (`postgresql://rebalancer@db1/rebalancer`, with `vm-rebalancer[postgresql]`), over which two
    daemons on two machines share a cluster: one leads, the other stands by. Default:
    `sqlite:////var/lib/rebalancer/journal.db` for root and under systemd, below
    `$XDG_STATE_HOME` or `~/.local/state` for everybody else."""
    hosts: tuple[HostSettings, ...] = ()
    """The libvirt hosts."""
    sites: tuple[SiteEntry, ...] = ()
    """Sites with what geography goes by: energy price, carbon, latency."""
    links: tuple[LinkSettings, ...] = ()
    """Networks between sites, and what they carry in each direction."""
    racks: tuple[RackSettings, ...] = ()
    """Racks whose uplinks carry less than their hosts' NICs together."""
    collect: CollectSettings = CollectSettings()
    dirty_rates: DirtyRateSettings = DirtyRateSettings()
    placement: PlacementSettings = PlacementSettings()
    plan: PlanSettings = PlanSettings()
    rollout: RolloutSettings = RolloutSettings()
    hooks: HooksSettings = HooksSettings()
    daemon: DaemonSettings = DaemonSettings()
    prometheus: PrometheusSettings = PrometheusSettings()
    api: ApiSettings = ApiSettings()
    power: PowerSettings = PowerSettings()

    _origins: Mapping[str, str] = PrivateAttr(default_factory=dict)

    @property
    def origins(self) -> Mapping[str, str]:
        """Which layer gave a setting, by dotted key; what is not in here is a default."""
        return self._origins

    def remember_origins(self, origins: Mapping[str, str]) -> None:
        """Keep where the settings come from; only `config.load_settings` knows."""
        self._origins = dict(origins)
