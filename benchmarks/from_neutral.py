"""Turn a neutral cluster snapshot, as other balancers are measured on, into ours.

    python benchmarks/from_neutral.py IN OUT

A neutral snapshot is one JSON object (`"schema": "cluster-snapshot/1"`):

    limits   {"cpu_overcommit": 4.0}; ours has it in the policy
    hosts    [{name, cpu_cores, mem_mib, power_idle_w, power_max_w, site}]
    vms      [{name, host, vcpus, mem_mib, cpu_used_cores, dirty_rate_mib_s,
               anti_affinity (group name or null), movable}]

`mem_mib` of a host is what guests may use. A group that has to be kept apart becomes the label
`anti_affinity`, which `policies/balance.yaml` spreads by.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

MIB = 2**20
SCHEMA = "cluster-snapshot/1"
TAKEN_AT = "2026-01-01T00:00:00Z"
"""Neutral snapshots have no time; a fixed one keeps the result the same every time."""


def snapshot_from_neutral(neutral: dict[str, Any]) -> dict[str, Any]:
    """Return the snapshot, as its file has it, that says what the neutral one says."""
    if neutral.get("schema") != SCHEMA:
        raise SystemExit(f"not a neutral snapshot: schema is {neutral.get('schema')!r}")
    return {
        "schema_version": 1,
        "cluster": neutral["name"],
        "taken_at": TAKEN_AT,
        "sites": [{"name": site} for site in sorted({h["site"] for h in neutral["hosts"]})],
        "links": [],
        "hosts": [_host(host) for host in neutral["hosts"]],
        "vms": [_vm(vm) for vm in neutral["vms"]],
    }


def _host(host: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": host["name"],
        "name": host["name"],
        "site": host["site"],
        "cpu_cores": host["cpu_cores"],
        "memory_bytes": host["mem_mib"] * MIB,
        "idle_watts": host["power_idle_w"],
        "max_watts": host["power_max_w"],
    }


def _vm(vm: dict[str, Any]) -> dict[str, Any]:
    group = vm["anti_affinity"]
    return {
        "id": vm["name"],
        "name": vm["name"],
        "host": vm["host"],
        "state": "running",
        "vcpus": vm["vcpus"],
        "memory_bytes": vm["mem_mib"] * MIB,
        "cpu_used_cores": vm["cpu_used_cores"],
        "dirty_bytes_per_second": vm["dirty_rate_mib_s"] * MIB,
        "labels": {} if group is None else {"anti_affinity": group},
        "movable": vm["movable"],
    }


def main() -> None:
    """Read the file named first, write the one named second."""
    if len(sys.argv) != 3:
        raise SystemExit("usage: from_neutral.py IN OUT")
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    snapshot = snapshot_from_neutral(json.loads(source.read_text(encoding="utf-8")))
    target.write_text(json.dumps(snapshot), encoding="utf-8")


if __name__ == "__main__":
    main()
