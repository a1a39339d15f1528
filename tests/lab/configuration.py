"""The rebalancer's configuration file for a lab."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.lab.shape import GIB, MIB

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.cluster import Lab


def write_config(
    lab: Lab,
    path: Path,
    *,
    cpu_cores: float = 2,
    memory_bytes: int = GIB,
    nic_bytes_per_second: int = 62_500_000,
) -> None:
    """Write what `rebalancer --config PATH` needs to see the lab.

    Every lab host sees the whole machine's CPUs and memory, so their capacity is configured; for
    the same reason the CPU in use is summed up from the guests (`cpu_from_guests`).
    """
    capacity = (
        f"cpu_cores: {cpu_cores:g}, memory: {_size_text(memory_bytes)}, "
        f"nic_bytes_per_second: {nic_bytes_per_second}, cpu_from_guests: true"
    )
    hosts = "".join(
        f'  - {{name: {host.name}, uri: "{host.uri}", {capacity}}}\n' for host in lab.hosts
    )
    path.write_text(
        "schema_version: 1\n"
        f"cluster: {lab.shape.prefix}\n"
        f"journal: sqlite:///{lab.state_dir}/journal.db\n"
        f"hosts:\n{hosts}"
    )


def _size_text(size_bytes: int) -> str:
    if size_bytes % GIB == 0:
        return f"{size_bytes // GIB}GiB"
    return f"{size_bytes // MIB}MiB"
