"""Measure what the daemon takes while there is nothing to do: CPU time for an hour, and memory.

    python -m benchmarks.idle [--hosts 100] [--vms 20] [--cycles 6] [--rest 30] [--json]

In a process of its own it looks at stand-ins of libvirt's hosts and of a Prometheus with seven
days of past use for every VM, through the real collectors, forecasts, and finds that nothing
is uneven. That is done a few times, and what it takes between cycles (leadership, API, watchdog)
is measured for `--rest` seconds. An hour is twelve cycles, its part of reading all of the past
(every six hours), and the rest of the time. What libvirt's own client takes for its calls is not
in it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import resource
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from rich.console import Console

from benchmarks.stand_in_hosts import StandInHosts
from benchmarks.stand_in_prometheus import Metric, serving
from rebalancer.collect.libvirt_source import LibvirtSource
from rebalancer.collect.remembered_use import WHOLE_AFTER, UseMemory
from rebalancer.rollout.steps import StopRequest
from rebalancer.service.access import ReadAccess
from rebalancer.service.api_notices import Notice
from rebalancer.service.change_access import ChangeAccess
from rebalancer.service.clock import SystemClock
from rebalancer.service.config import Settings, load_settings
from rebalancer.service.configured import with_history
from rebalancer.service.daemon import Daemon
from rebalancer.service.duty import Reach, duty_of
from rebalancer.service.memory import give_back, keep_small
from rebalancer.service.notify import Notifier
from rebalancer.service.policy_file import parse_policy
from rebalancer.service.session import Session
from rebalancer.service.setup import Setup

WANTED_SHARE, WANTED_MB = 0.01, 200
HOUR_SECONDS, INTERVAL_SECONDS = 3600.0, 300.0


class Memories:
    """What the daemon remembers of past use; a new one makes it read all of it."""

    def __init__(self) -> None:
        self.now = UseMemory()


def a_daemon(folder: Path, hosts: int, vms: int, prometheus: str, past: Memories) -> Daemon:
    """Make one that looks at stand-ins."""
    settings = load_settings(
        flags={
            "cluster": "bench",
            "journal": f"sqlite:///{folder / 'journal.db'}",
            "api.socket": str(folder / "api.sock"),
            "daemon.interval_seconds": INTERVAL_SECONDS,
            "prometheus.url": prometheus,
            "hosts": [{"name": f"h{n}", "uri": f"test://h{n}/default"} for n in range(hosts)],
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

    def access() -> ReadAccess:
        seen = with_history(settings, source, clock.now, past.now)
        return ReadAccess(cluster="bench", host_names=(), source=seen, clock=clock, uris={})

    def reach(_: Settings) -> Reach:
        return Reach(
            for_reading=access,
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


def _measure(
    hosts: int, vms: int, cycles: int, rest: float, prometheus: str, told: Connection
) -> None:
    """In a process of its own, whose memory is nobody else's."""
    keep_small()
    with contextlib.suppress(ImportError):  # nothing is asked of it, but a daemon has it loaded
        importlib.import_module("libvirt")
    with tempfile.TemporaryDirectory() as folder:
        past = Memories()
        daemon = a_daemon(Path(folder), hosts, vms, prometheus, past)
        daemon.run_due("balance")  # what is imported and compiled once is not for every hour
        began = time.process_time()
        verdicts = [daemon.run_due("balance") for _ in range(cycles)]
        a_cycle = (time.process_time() - began) / cycles
        past.now = UseMemory()
        give_back()
        marks: list[float] = []
        no_notice = Notice(mode="")
        done = daemon.notices.policies["balance"].cycles

        def mark() -> None:
            while daemon.notices.policies.get("balance", no_notice).cycles == done:
                threading.Event().wait(0.2)  # its first cycle, when it has just started
            marks.append(time.process_time())
            threading.Event().wait(2.0)
            marks.append(time.process_time())
            threading.Event().wait(rest)
            marks.append(time.process_time())
            marks.append(_resident_mb())
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=mark, daemon=True).start()
        began = time.process_time()
        daemon.serve(None)
        whole = max(0.0, marks[0] - began - a_cycle)
        resting = (marks[2] - marks[1]) / rest
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        an_hour = HOUR_SECONDS / INTERVAL_SECONDS * a_cycle + HOUR_SECONDS * resting
        an_hour += whole * HOUR_SECONDS / WHOLE_AFTER.total_seconds()
        told.send(
            {
                "verdict": verdicts[-1],
                "cpu_seconds_a_cycle": a_cycle,
                "cpu_seconds_whole_past": whole,
                "cpu_share_resting": resting,
                "cpu_seconds_an_hour": an_hour,
                "cpu_share": an_hour / HOUR_SECONDS,
                "resting_mb": marks[3],
                "peak_mb": peak_kib / 1024,
            }
        )


def _metrics(hosts: int, vms: int) -> tuple[Metric, ...]:
    """What Prometheus knows of the stand-ins."""
    names = [f"h{n}" for n in range(hosts)]
    uuids = [f"uuid-{name}-vm{n}" for name in names for n in range(vms)]
    return (
        Metric(word="libvirt_domain", label="uuid", names=uuids, mean=0.5),
        Metric(word="node_cpu", label="instance", names=names, mean=0.5 * vms),
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
    sizes = (options.hosts, options.vms)
    ours, theirs = multiprocessing.Pipe()
    with serving(_metrics(*sizes)) as prometheus:
        process = multiprocessing.get_context("spawn").Process(
            target=_measure, args=(*sizes, options.cycles, options.rest, prometheus, theirs)
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
        f"core between cycles, {took['cpu_seconds_whole_past']:.1f} s every six hours: "
        f"{took['cpu_seconds_an_hour']:.1f} s an hour, "
        f"{took['cpu_share']:.2%} of a core (wanted: {WANTED_SHARE:.0%})\n"
        f"{took['resting_mb']:.0f} MB between cycles (wanted: {WANTED_MB}), "
        f"{took['peak_mb']:.0f} MB at most"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
