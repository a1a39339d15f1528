"""Measure how long it takes to look at a whole cluster.

    python -m benchmarks.collect [--hosts 200] [--vms 20] [--latency-ms 20] [--sampling 4] [--json]

Stand-ins behind the port of libvirt take their time with each call; see `stand_in_hosts`. The
window over which CPU use is measured (`collect.sampling_seconds`, as the settings have it unless
told otherwise) is part of what an operator waits for, so it counts. Everything else is asked
within the window, of all hosts side by side; with 0 it can be seen how long that takes alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence

from benchmarks.stand_in_hosts import StandInHosts
from rebalancer.collect.libvirt_source import LibvirtSource
from rebalancer.service.clock import SystemClock
from rebalancer.service.telemetry_format import CollectSettings

WANTED_SECONDS = 5.0


def measure(hosts: int, vms: int, latency_ms: float, sampling_seconds: float) -> dict[str, float]:
    """Look once, and return what it took."""
    stand_ins = StandInHosts(hosts, vms, latency_ms / 1000)
    source = LibvirtSource(
        stand_ins.configured,
        cluster="bench",
        now=SystemClock().now,
        sampling_seconds=sampling_seconds,
        timeout_seconds=60.0,
        connect=stand_ins.connect,
    )
    began, cpu = time.monotonic(), time.process_time()
    snapshot = source.observe()
    return {
        "hosts": len(snapshot.hosts),
        "vms": len(snapshot.vms),
        "wall_seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - cpu,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=200)
    parser.add_argument("--vms", type=int, default=20, help="on each host")
    parser.add_argument("--latency-ms", type=float, default=20.0, help="of each call")
    parser.add_argument(
        "--sampling",
        type=float,
        default=CollectSettings().sampling_seconds,
        help="seconds, the window",
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    took = measure(options.hosts, options.vms, options.latency_ms, options.sampling)
    if options.json:
        print(json.dumps(took))
    else:
        print(
            f"{took['hosts']:.0f} hosts with {took['vms']:.0f} VMs, over "
            f"{options.sampling:g} s, in {took['wall_seconds']:.1f} s "
            f"(wanted: {WANTED_SECONDS:g}), {took['cpu_seconds']:.1f} s of them CPU"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
