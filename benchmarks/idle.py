"""Measure what the daemon takes while there is nothing to do: CPU time for an hour, and memory.

    python -m benchmarks.idle [--hosts 100] [--vms 20] [--cycles 6] [--rest 30] [--json]

In a process of its own it looks at stand-ins of libvirt's hosts through the real collector, with
seven days of past use for every VM as Prometheus would tell it, forecasts, and finds that nothing
is uneven. That is done a few times, and what it takes between cycles (leadership, API, watchdog)
is measured for `--rest` seconds. An hour is twelve cycles and the rest of the time. What
libvirt's own client takes for its calls is not in it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.stand_in_hosts import StandInHosts
from rebalancer.cluster.inventory import Snapshot, UsageHistory
from rebalancer.collect.libvirt_source import LibvirtSource
from rebalancer.rollout.steps import StopRequest
from rebalancer.service.access import ChangeAccess, ReadAccess
from rebalancer.service.api_notices import Notice
from rebalancer.service.clock import SystemClock
from rebalancer.service.config import Settings, load_settings
from rebalancer.service.daemon import Daemon
from rebalancer.service.duty import Reach, duty_of
from rebalancer.service.memory import keep_small
from rebalancer.service.notify import Notifier
from rebalancer.service.policy_file import parse_policy
from rebalancer.service.session import Session
from rebalancer.service.setup import Setup

WANTED_SHARE, WANTED_MB = 0.01, 200
HOUR_SECONDS, INTERVAL_SECONDS = 3600.0, 300.0
STEP_SECONDS, HISTORY_SECONDS = 300.0, 7 * 86_400.0


class Remembering:
    """The collector, with past use for each VM."""

    def __init__(self, source: LibvirtSource) -> None:
        self._source = source
        self._rng = np.random.default_rng(1)

    def observe(self) -> Snapshot:
        """Look, and remember."""
        seen = self._source.observe()
        count = int(HISTORY_SECONDS / STEP_SECONDS)
        # As a client of Prometheus has it: an array for each series, made anew each time.
        past = {vm.id: self._rng.normal(0.5, 0.05, count) for vm in seen.vms}
        hosts = {host.id: self._rng.normal(10.0, 0.5, count) for host in seen.hosts}
        usage = UsageHistory(
            interval_seconds=STEP_SECONDS,
            start=seen.taken_at - timedelta(seconds=HISTORY_SECONDS),
            vm_cpu_cores=past,
            host_cpu_cores=hosts,
        )
        return replace(seen, usage=usage)


def a_daemon(folder: Path, hosts: int, vms: int) -> Daemon:
    """Make one that looks at stand-ins."""
    settings = load_settings(
        flags={
            "cluster": "bench",
            "journal": f"sqlite:///{folder / 'journal.db'}",
            "api.socket": str(folder / "api.sock"),
            "daemon.interval_seconds": INTERVAL_SECONDS,
        },
        system_config=Path("/nonexistent"),
    )
    stand_ins = StandInHosts(hosts, vms, 0.0)
    clock = SystemClock()
    source = LibvirtSource(
        stand_ins.configured,
        cluster="bench",
        now=clock.now,
        sampling_seconds=0.5,
        timeout_seconds=60.0,
        connect=stand_ins.connect,
    )
    access = ReadAccess(
        cluster="bench", host_names=(), source=Remembering(source), clock=clock, uris={}
    )

    def reach(_: Settings) -> Reach:
        return Reach(
            for_reading=lambda: access,
            for_change=_nothing_to_change,
            on_event=lambda _: None,
            should_stop=lambda: StopRequest.NO,
        )

    session = Session(settings=settings, out=Console(), err=Console(stderr=True))
    policy = parse_policy({"schema_version": 1, "name": "balance"}, origin="the default policy")
    setup = Setup(session=session, duties={"balance": duty_of(settings, policy)})
    return Daemon(lambda: setup, setup, Notifier({}), reach)


def _nothing_to_change() -> ChangeAccess:
    raise AssertionError("it only looks")


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def _measure(hosts: int, vms: int, cycles: int, rest: float, told: object) -> None:
    """In a process of its own, whose memory is nobody else's."""
    keep_small()
    with tempfile.TemporaryDirectory() as folder:
        daemon = a_daemon(Path(folder), hosts, vms)
        daemon.run_due("balance")  # what is imported and compiled once is not for every hour
        began = time.process_time()
        verdicts = [daemon.run_due("balance") for _ in range(cycles)]
        a_cycle = (time.process_time() - began) / cycles
        marks: list[float] = []
        no_notice = Notice(mode="")
        done = daemon.notices.policies["balance"].cycles

        def mark() -> None:
            while daemon.notices.policies.get("balance", no_notice).cycles == done:
                threading.Event().wait(0.2)  # its first cycle, when it has just started
            threading.Event().wait(2.0)
            marks.append(time.process_time())
            threading.Event().wait(rest)
            marks.append(time.process_time())
            marks.append(_resident_mb())
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=mark, daemon=True).start()
        daemon.serve(None)
        resting = (marks[1] - marks[0]) / rest
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        an_hour = HOUR_SECONDS / INTERVAL_SECONDS * a_cycle + HOUR_SECONDS * resting
        told.send(  # type: ignore[attr-defined]
            {
                "verdict": verdicts[-1],
                "cpu_seconds_a_cycle": a_cycle,
                "cpu_share_resting": resting,
                "cpu_seconds_an_hour": an_hour,
                "cpu_share": an_hour / HOUR_SECONDS,
                "resting_mb": marks[2],
                "peak_mb": peak_kib / 1024,
            }
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=100)
    parser.add_argument("--vms", type=int, default=20, help="on each host")
    parser.add_argument("--cycles", type=int, default=6)
    parser.add_argument("--rest", type=float, default=30.0, help="seconds between cycles")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_measure, args=(options.hosts, options.vms, options.cycles, options.rest, theirs)
    )
    process.start()
    theirs.close()
    took = ours.recv()
    process.join()
    if options.json:
        print(json.dumps(took))
        return 0
    print(
        f"{options.hosts} hosts with {options.vms} VMs each: {took['verdict']}\n"
        f"{took['cpu_seconds_a_cycle']:.2f} s of CPU a cycle, {took['cpu_share_resting']:.3%} of a "
        f"core between cycles: {took['cpu_seconds_an_hour']:.1f} s an hour, "
        f"{took['cpu_share']:.2%} of a core (wanted: {WANTED_SHARE:.0%})\n"
        f"{took['resting_mb']:.0f} MB between cycles (wanted: {WANTED_MB}), "
        f"{took['peak_mb']:.0f} MB at most"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
