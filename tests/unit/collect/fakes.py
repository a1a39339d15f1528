"""A hypervisor that answers, fails and hangs as a test wishes, and XML as libvirt writes it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rebalancer.collect.hypervisor import DomainRecord, DomainState, HypervisorError, Stats
from rebalancer.collect.libvirt_source import LibvirtHost, LibvirtSource
from tests.builders import GIB, NOON

NAMESPACE = "https://rebalancer.dev/xmlns/domain/1.0"

DISK = (
    "<disk type='{type}' device='disk'><source {source}/>"
    "<target dev='{target}' bus='virtio'/></disk>"
)


def a_domain_xml(
    name: str = "db1",
    *,
    devices: str = "",
    extra: str = "",
    kind: str = "kvm",
    cpu: str = "",
    metadata: str = "",
    memory: str = "<memory unit='KiB'>4194304</memory>",
    vcpu: str = "<vcpu placement='static'>2</vcpu>",
) -> str:
    """The definition of a VM with 4 GiB and 2 vCPUs."""
    return (
        f"<domain type='{kind}' id='1'><name>{name}</name><uuid>uuid-{name}</uuid>"
        f"<metadata>{metadata}</metadata>{memory}{vcpu}"
        "<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>"
        f"{cpu}{extra}<devices>{devices}</devices></domain>"
    )


def a_disk(path: str, target: str = "vda") -> str:
    """A disk in a file."""
    return DISK.format(type="file", source=f"file='{path}'", target=target)


def hints(inner: str) -> str:
    """What `virsh metadata --set` makes of hints."""
    return f"<rebalancer:vm xmlns:rebalancer='{NAMESPACE}'>{inner}</rebalancer:vm>"


def capabilities_xml(host_uuid: str = "host-uuid", *, model: str = "EPYC-Milan") -> str:
    """A host of 16 cores in two NUMA cells, with 1,024 huge pages of 2 MiB."""
    cell = (
        "<cell id='{id}'><memory unit='KiB'>33554432</memory>"
        "<pages unit='KiB' size='4'>8388608</pages><pages unit='KiB' size='2048'>512</pages>"
        "<cpus num='8'/></cell>"
    )
    return (
        f"<capabilities><host><uuid>{host_uuid}</uuid>"
        f"<cpu><arch>x86_64</arch><model>{model}</model><feature name='aes'/></cpu>"
        f"<topology><cells num='2'>{cell.format(id=0)}{cell.format(id=1)}</cells></topology></host>"
        "<guest><arch name='x86_64'><machine>pc-q35-7.2</machine>"
        "<machine canonical='pc-q35-7.2'>q35</machine></arch></guest>"
        "<guest><arch name='i686'><machine>isapc</machine></arch></guest></capabilities>"
    )


def nfs_pool_xml(path: str = "/mnt/vms", server: str = "filer", name: str = "vms") -> str:
    """An NFS pool."""
    return (
        f"<pool type='netfs'><name>{name}</name><source><host name='{server}'/>"
        f"<dir path='/export/vms'/><format type='nfs'/></source>"
        f"<target><path>{path}</path></target></pool>"
    )


def local_pool_xml(path: str = "/var/lib/libvirt/images", name: str = "default") -> str:
    """The pool that every libvirt has."""
    return (
        f"<pool type='dir'><name>{name}</name><source/><target><path>{path}</path></target></pool>"
    )


@dataclass
class FakeVm:
    """A VM on a fake host."""

    name: str = "db1"
    xml: str | None = ""
    state: DomainState = DomainState.RUNNING
    reason: int = 1
    cores: float = 0.5
    waiting_cores: float = 0.0
    record: Mapping[str, Any] = field(default_factory=dict)
    stats: Mapping[str, int | str] = field(default_factory=dict)

    @property
    def uuid(self) -> str:
        return f"uuid-{self.name}"

    def domain_record(self) -> DomainRecord:
        is_active = self.state not in {DomainState.SHUTOFF, DomainState.CRASHED}
        xml = a_domain_xml(self.name) if self.xml == "" else self.xml
        plain = DomainRecord(uuid=self.uuid, name=self.name, is_active=is_active, xml=xml)
        return replace(plain, **self.record)

    def stats_at(self, seconds: float) -> dict[str, int | str]:
        return {
            "state.state": int(self.state),
            "state.reason": int(self.reason),
            "cpu.time": round((100 + seconds * self.cores) * 1e9),
            "vcpu.current": 2,
            "vcpu.0.delay": round((50 + seconds * self.waiting_cores / 2) * 1e9),
            "vcpu.1.delay": round((70 + seconds * self.waiting_cores / 2) * 1e9),
            "balloon.maximum": 4 * 2**20,
            "balloon.rss": 3 * 2**20,
            **self.stats,
        }


class FakeTime:
    """A clock that goes on only when somebody sleeps. For one host: threads would race on it."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


class RealTime:
    """The clock on the wall."""

    @property
    def seconds(self) -> float:
        return time.monotonic()


class FakeHypervisor:
    """A host. `failing` calls raise, `hanging` ones return when `released` is set."""

    def __init__(
        self,
        vms: Sequence[FakeVm] = (),
        *,
        clock: FakeTime | RealTime | None = None,
        host_uuid: str | None = None,
        hostname: str = "node",
        failing: Sequence[str] = (),
        hanging: Sequence[str] = (),
        busy_cores: float = 4.0,
        **answers: Any,
    ) -> None:
        self.vms = list(vms)
        self.clock = clock or RealTime()
        self.failing = set(failing)
        self.hanging = set(hanging)
        self.released = threading.Event()
        self.busy_cores = busy_cores
        self.closed = 0
        self.calls: list[str] = []
        self.later: Iterator[Sequence[FakeVm]] = iter(())
        self.answers: dict[str, Any] = {
            "hostname": hostname,
            "cpu_count": 16,
            "memory_bytes": 64 * GIB,
            "capabilities_xml": capabilities_xml(host_uuid or hostname),
            "cpu_model_names": ["EPYC-Milan", "Nehalem"],
            "free_pages": {2 * 2**20: 100},
            "pool_xmls": [nfs_pool_xml(), local_pool_xml()],
            "network_xmls": ["<network><name>lan</name><bridge name='virbr1'/></network>"],
            "interface_names": ["br0"],
        } | answers

    def _answer(self, call: str) -> Any:
        self.calls.append(call)
        if call in self.hanging:
            self.released.wait()
        if call in self.failing:
            raise HypervisorError(f"{call} failed")
        return self.answers.get(call)

    def hostname(self) -> str:
        return str(self._answer("hostname"))

    def cpu_count(self) -> int:
        return int(self._answer("cpu_count"))

    def memory_bytes(self) -> int:
        return int(self._answer("memory_bytes"))

    def cpu_busy_seconds(self) -> float:
        self._answer("cpu_busy_seconds")
        return 500 + self.clock.seconds * self.busy_cores

    def capabilities_xml(self) -> str:
        return str(self._answer("capabilities_xml"))

    def cpu_model_names(self, arch: str) -> Sequence[str]:
        return list(self._answer("cpu_model_names"))

    def expanded_cpu_xml(self, cpu_xml: str) -> str:
        self._answer("expanded_cpu_xml")
        features = {"Nehalem": ["sse4.2", "popcnt"], "EPYC-Milan": ["sse4.2", "popcnt", "avx2"]}
        model = next(name for name in features if f"<model>{name}</model>" in cpu_xml)
        names = [*features[model], *(["aes"] if "aes" in cpu_xml else [])]
        spelt = "".join(f"<feature policy='require' name='{name}'/>" for name in names)
        return f"<cpu mode='custom'><model>{model}</model>{spelt}</cpu>"

    def free_pages(self, page_bytes: Sequence[int]) -> Mapping[int, int]:
        return dict(self._answer("free_pages"))

    def free_pages_by_node(self, page_bytes: Sequence[int]) -> Mapping[int, Mapping[int, int]]:
        return dict(self.answers.get("free_pages_by_node", {}))

    def pool_xmls(self) -> Sequence[str]:
        return list(self._answer("pool_xmls"))

    def files_in(self, pool: str) -> Sequence[str]:
        return list(self._answer("files_in") or ())

    def network_xmls(self) -> Sequence[str]:
        return list(self._answer("network_xmls"))

    def interface_names(self) -> Sequence[str]:
        return list(self._answer("interface_names"))

    def domains(self) -> Sequence[DomainRecord]:
        self._answer("domains")
        return [vm.domain_record() for vm in self.vms]

    def stats(self, *, with_details: bool) -> Mapping[str, Stats]:
        self._answer("stats")
        self.vms = list(next(self.later, self.vms))
        return {vm.uuid: vm.stats_at(self.clock.seconds) for vm in self.vms}

    def disk_bytes(self, uuid: str, target: str) -> int:
        self._answer("disk_bytes")
        return 7 * GIB

    def close(self) -> None:
        self.closed += 1


def a_source(
    hypervisors: Mapping[str, FakeHypervisor | HypervisorError],
    *,
    configured: Mapping[str, Mapping[str, Any]] | None = None,
    timeout_seconds: float = 10.0,
    **options: Any,
) -> LibvirtSource:
    """A source over fake hosts; one that is an error cannot be connected to."""
    hosts = [
        LibvirtHost(name=name, uri=f"fake://{name}", **(configured or {}).get(name, {}))
        for name in hypervisors
    ]

    def connect(uri: str) -> FakeHypervisor:
        found = hypervisors[uri.removeprefix("fake://")]
        if isinstance(found, HypervisorError):
            raise found
        return found

    return LibvirtSource(
        hosts,
        cluster="test",
        now=lambda: NOON,
        sampling_seconds=0.01,
        timeout_seconds=timeout_seconds,
        connect=connect,
        **options,
    )
