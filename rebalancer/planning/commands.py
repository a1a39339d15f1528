"""What a human would type to do a migration by hand, with virsh.

The lines say the same as what the rollout asks of libvirt; they can be pasted into a POSIX
shell. Units are virsh's: MiB/s, milliseconds, seconds.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from uuid import UUID

from rebalancer.cluster.inventory import Host, HostId, Mode, Vm
from rebalancer.cluster.plan import Migration
from rebalancer.planning.cost import Estimate
from rebalancer.planning.disks import bandwidth_of_each
from rebalancer.planning.habits import SETUP_SECONDS
from rebalancer.planning.wording import MIB


def uri_of(host: Host, uris: Mapping[HostId, str] | None) -> str:
    """Where the hypervisor of a host is reached; over ssh by its name unless told."""
    told = None if uris is None else uris.get(host.id)
    return f"qemu+ssh://{host.name}/system" if told is None else told


def commands_for(
    migration: Migration, vm: Vm, estimate: Estimate, source_uri: str, target_uri: str
) -> tuple[str, ...]:
    """Write down the virsh lines that carry out `migration`."""
    domain = _domain(vm)
    match migration.mode:
        case Mode.COLD if migration.saved_to:
            return tuple(_saved(migration, vm, source_uri, target_uri))
        case Mode.COLD:
            return tuple(_cold(vm, domain, source_uri, target_uri))
        case Mode.OFFLINE:
            options = ["--offline", "--p2p", "--persistent", "--undefinesource"]
            return (_migrate(source_uri, target_uri, domain, options),)
        case _:
            return tuple(_live(migration, vm, estimate, source_uri, target_uri))


def _live(
    migration: Migration, vm: Vm, estimate: Estimate, source_uri: str, target_uri: str
) -> Iterator[str]:
    domain = _domain(vm)
    milliseconds = max(1, math.floor(1000 * migration.max_downtime_seconds))
    yield _virsh(
        source_uri, "migrate-setmaxdowntime", "--domain", domain, "--downtime", str(milliseconds)
    )
    options = ["--live", "--p2p"]
    if vm.persistent:
        options += ["--persistent", "--undefinesource"]
    each = bandwidth_of_each(migration.bytes_per_second, len(migration.disks))
    options += ["--bandwidth", str(max(1, math.floor(each / MIB)))]
    options += _finish(migration.mode, estimate)
    if migration.disks:
        names = ",".join(disk.target for disk in migration.disks)
        options += ["--copy-storage-all", "--migrate-disks", names]
    command = _migrate(source_uri, target_uri, domain, [*options, "--verbose"])
    # libvirt makes the files, and would write over what has their name there.
    absent = "".join(f"! {_has_file(target_uri, disk.path)} && " for disk in migration.disks)
    yield f"{absent}{command}"


def _has_file(target_uri: str, path: str) -> str:
    return _virsh(target_uri, "vol-info", "--vol", path)


def _finish(mode: Mode, estimate: Estimate) -> list[str]:
    wait = str(max(1, math.ceil(SETUP_SECONDS + estimate.stall_seconds)))
    if mode is Mode.AUTO_CONVERGE:
        return ["--auto-converge"]
    if mode is Mode.SUSPEND:
        return ["--timeout", wait, "--timeout-suspend"]
    if mode is Mode.POST_COPY:
        return ["--postcopy", "--timeout", wait, "--timeout-postcopy"]
    return []


def _cold(vm: Vm, domain: str, source_uri: str, target_uri: str) -> Iterator[str]:
    """The definition leaves the source last: until then the VM can be started there again."""
    state = _virsh(source_uri, "domstate", "--domain", domain)
    dump = _virsh(source_uri, "dumpxml", "--domain", domain, "--inactive", "--security-info")
    yield _virsh(source_uri, "shutdown", "--domain", domain, "--mode", "acpi")
    yield f"until {state} | grep -q 'shut off'; do sleep 2; done"
    yield f"{dump} | {_virsh(target_uri, 'define', '/dev/stdin')}"
    yield _virsh(target_uri, "start", "--domain", domain)
    if vm.autostart:
        yield _virsh(target_uri, "autostart", "--domain", domain)
    yield _virsh(source_uri, "undefine", "--domain", domain, "--keep-nvram")


def _saved(migration: Migration, vm: Vm, source_uri: str, target_uri: str) -> Iterator[str]:
    """The definition follows the memory: nobody can start it on the target from its disks."""
    domain = _domain(vm)
    folder = f"where both hosts have storage {migration.saved_to}"
    image = f'"$SAVED"/{shlex.quote(domain)}.save'
    dump = _virsh(source_uri, "dumpxml", "--domain", domain, "--inactive", "--security-info")
    yield f': "${{SAVED:?the folder {folder}}}"'
    if vm.autostart:
        yield _virsh(source_uri, "autostart", "--domain", domain, "--disable")
    yield f"{_virsh(source_uri, 'save', '--domain', domain, '--file')} {image}"
    yield f"{_virsh(target_uri, 'restore', '--file')} {image}"
    yield f"{dump} | {_virsh(target_uri, 'define', '/dev/stdin')}"
    if vm.autostart:
        yield _virsh(target_uri, "autostart", "--domain", domain)
    yield _virsh(source_uri, "undefine", "--domain", domain, "--keep-nvram")
    yield f"rm {image}"


def _migrate(source_uri: str, target_uri: str, domain: str, options: list[str]) -> str:
    return _virsh(source_uri, "migrate", *options, "--domain", domain, "--desturi", target_uri)


def _virsh(uri: str, *words: str) -> str:
    return shlex.join(["virsh", "-c", uri, *words])


def _domain(vm: Vm) -> str:
    """The UUID where the id is one: a name of digits alone would be taken for a number."""
    try:
        return str(UUID(vm.id))
    except ValueError:
        return vm.name
