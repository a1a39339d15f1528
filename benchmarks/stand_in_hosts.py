# ruff: noqa: D102 - the methods are those of `HypervisorConnection`, and explained there
"""Hosts that answer as libvirt's do, behind the same port, each call as late as a network makes it.

Their definitions are as long as real ones; what is behind the port, libvirt's own client and its
wire, is not measured.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rebalancer.collect.hypervisor import DomainRecord, Stats
from rebalancer.collect.observations import LibvirtHost

GIB_IN_KIB = 2**20
LISTS_OF_DOMAINS = 6
"""Questions that libvirt is asked for the list of a host's domains, however many there are."""
FOR_EACH_DOMAIN = 2
"""… and for each of them: its definition, and whether a job runs."""

_CAPABILITIES = """<capabilities><host><uuid>{uuid}</uuid><cpu><arch>x86_64</arch>
<model>EPYC-Milan</model>{features}</cpu><topology><cells num='2'>{cells}</cells></topology></host>
<guest><arch name='x86_64'><machine>pc-q35-7.2</machine>
<machine canonical='pc-q35-7.2'>q35</machine></arch></guest></capabilities>"""
_CELL = """<cell id='{id}'><memory unit='KiB'>134217728</memory>
<pages unit='KiB' size='4'>33554432</pages><cpus num='16'/></cell>"""
_DOMAIN = """<domain type='kvm' id='{number}'><name>{name}</name><uuid>{uuid}</uuid>
<memory unit='KiB'>{memory}</memory><currentMemory unit='KiB'>{memory}</currentMemory>
<vcpu placement='static'>4</vcpu>
<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type><boot dev='hd'/></os>
<features><acpi/><apic/></features><cpu mode='custom' match='exact' check='full'>
<model fallback='forbid'>EPYC-Milan</model></cpu>
<clock offset='utc'><timer name='rtc' tickpolicy='catchup'/></clock>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{disks}
<controller type='pci' index='0' model='pcie-root'/>{ports}
<interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/>
<target dev='vnet0'/><model type='virtio'/></interface>
<serial type='pty'><target port='0'/></serial><console type='pty'/>
<memballoon model='virtio'/><rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
</devices></domain>"""
_DISK = """<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
<source file='/mnt/vms/{name}-{target}.qcow2'/><target dev='{target}' bus='virtio'/></disk>"""
_PORT = """<controller type='pci' index='{index}' model='pcie-root-port'>
<target chassis='{index}' port='0x{index:x}'/></controller>"""
_PORTS = "".join(_PORT.format(index=index) for index in range(1, 9))
_POOL = """<pool type='netfs'><name>vms</name><source><host name='filer'/>
<dir path='/export/vms'/><format type='nfs'/></source>
<target><path>/mnt/vms</path></target></pool>"""


def _definition(name: str) -> str:
    """Written each time: libvirt's answer is not kept by anybody either."""
    return _DOMAIN.format(
        number=1,
        name=name,
        uuid=f"uuid-{name}",
        memory=4 * GIB_IN_KIB,
        disks="".join(_DISK.format(name=name, target=disk) for disk in ("vda", "vdb")),
        ports=_PORTS,
    )


@dataclass
class StandInHost:
    """One host, reached anew each time as libvirt is."""

    name: str
    vms: int
    latency_seconds: float

    @property
    def _names(self) -> list[str]:
        return [f"{self.name}-vm{number}" for number in range(self.vms)]

    def _wait(self, calls: int = 1) -> None:
        if self.latency_seconds:
            time.sleep(calls * self.latency_seconds)  # noqa: TID251 (a network takes real time)

    def hostname(self) -> str:
        self._wait()
        return self.name

    def cpu_count(self) -> int:
        self._wait()
        return 32

    def memory_bytes(self) -> int:
        self._wait()
        return 256 * 2**30

    def cpu_busy_seconds(self) -> float:
        self._wait()
        return time.monotonic() * 10.0

    def capabilities_xml(self) -> str:
        self._wait()
        features = "".join(f"<feature name='f{n}'/>" for n in range(60))
        cells = "".join(_CELL.format(id=n) for n in range(2))
        return _CAPABILITIES.format(uuid=self.name, features=features, cells=cells)

    def cpu_model_names(self, arch: str) -> Sequence[str]:
        del arch
        self._wait()
        return ["EPYC-Milan"]

    def expanded_cpu_xml(self, cpu_xml: str) -> str:
        del cpu_xml
        self._wait()
        features = "".join(f"<feature policy='require' name='f{n}'/>" for n in range(60))
        return f"<cpu mode='custom'><model>EPYC-Milan</model>{features}</cpu>"

    def free_pages(self, page_bytes: Sequence[int]) -> Mapping[int, int]:
        self._wait()
        return dict.fromkeys(page_bytes, 0)

    def free_pages_by_node(self, page_bytes: Sequence[int]) -> Mapping[int, Mapping[int, int]]:
        del page_bytes
        self._wait()
        return {}

    def pool_xmls(self) -> Sequence[str]:
        self._wait(2)
        return [_POOL]

    def network_xmls(self) -> Sequence[str]:
        self._wait(2)
        return []

    def interface_names(self) -> Sequence[str]:
        self._wait()
        return ["br0"]

    def domains(self) -> Sequence[DomainRecord]:
        self._wait(LISTS_OF_DOMAINS + FOR_EACH_DOMAIN * self.vms)
        return [
            DomainRecord(uuid=f"uuid-{name}", name=name, is_active=True, xml=_definition(name))
            for name in self._names
        ]

    def stats(self, *, with_details: bool) -> Mapping[str, Stats]:
        del with_details
        self._wait()
        told = round(time.monotonic() * 0.5 * 1e9)
        return {
            f"uuid-{name}": {
                "state.state": 1,
                "state.reason": 1,
                "cpu.time": told,
                "vcpu.current": 4,
                "balloon.maximum": 4 * GIB_IN_KIB,
                "balloon.rss": 3 * GIB_IN_KIB,
            }
            for name in self._names
        }

    def disk_bytes(self, uuid: str, target: str) -> int:
        del uuid, target
        self._wait()
        return 20 * 2**30

    def close(self) -> None:
        """Nothing is held."""


class StandInHosts:
    """As many of them as are wanted."""

    def __init__(self, hosts: int, vms: int, latency_seconds: float) -> None:
        self._hosts = {f"h{n}": StandInHost(f"h{n}", vms, latency_seconds) for n in range(hosts)}
        self._latency_seconds = latency_seconds

    @property
    def configured(self) -> list[LibvirtHost]:
        """What the configuration says of them."""
        return [LibvirtHost(name=name, uri=f"stand-in://{name}") for name in self._hosts]

    def connect(self, uri: str) -> StandInHost:
        """Reach one; TCP, TLS and libvirt's greeting take three ways there and back."""
        host = self._hosts[uri.removeprefix("stand-in://")]
        if self._latency_seconds:
            time.sleep(3 * self._latency_seconds)  # noqa: TID251 (as above)
        return host
