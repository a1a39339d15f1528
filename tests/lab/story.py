"""The daemon's whole story, on real hosts: it sees, waits, moves, and rests. Nobody helps it.

Three hosts, exporters, a Prometheus, and `rebalancer run` in `auto`. Guests of one host begin to
work hard. The daemon has to see that for three cycles in a row; then it moves some of them by
live migration, and afterwards leaves everything where it is. Times are shortened: a cycle is
twelve seconds and not five minutes.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rebalancer.errors import ExitCode
from tests.lab.command import Rebalancer
from tests.lab.deadline import wait_until
from tests.lab.guest import GuestSpec
from tests.lab.shape import MIB
from tests.lab.telemetry import monitored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.lab.cluster import Lab
    from tests.lab.guest import LabGuest

CYCLE_SECONDS = 12
"""Three of them are longer than the load takes to show in full: rates are of ten seconds."""
FOR_CYCLES = 3
PATIENCE_SECONDS = 180.0
RESTS = ("balanced", "below threshold", "no gain")
LOADS = (0.45, 0.4, 0.35)
"""Of the guests on the first host, in cores: together no more than a machine of two can give them,
beside all the rest. What guests take from each other changes from one moment to the next."""
HOST_CORES, HOST_MEMORY = 4, "8GiB"
"""More than all guests can take together: of minutes of history the forecast expects anything,
and what might not fit would be moved at once. Only load is to be uneven."""

_SETTINGS = """
mode: auto
policy: policy.yaml
prometheus: {{url: "{url}", history_seconds: 600, step_seconds: 10, max_age_seconds: 40}}
placement: {{time_limit_seconds: 3, executor: serial}}
daemon: {{interval_seconds: {cycle}, jitter_share: 0, log: json}}
"""
_POLICY = f"""\
schema_version: 1
name: balance
goals: [{{goal: balance, tier: 1}}, {{goal: movement, tier: 1, weight: 0.1}}]
trigger: {{spread: 8%, hot: 85%, for_cycles: {FOR_CYCLES}}}
limits: {{cooldown: 10m, reverse_ban: 1h}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """`rebalancer run` in a process of its own."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What it logged, as values."""
        text = (self.folder / "daemon.log").read_text()
        whole = text[: text.rfind("\n") + 1]
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    @property
    def verdicts(self) -> list[str]:
        """What its cycles came to, the last one last."""
        return [line["verdict"] for line in self.lines if line["event"] == "cycle"]

    def until(self, what: Callable[[], bool], named: str) -> None:
        """Wait for something, as long as it lives."""

        def is_so() -> bool:
            assert self.process.poll() is None, (self.folder / "daemon.log").read_text()[-3000:]
            return what()

        wait_until(is_so, within_seconds=PATIENCE_SECONDS, what=f"{named}; {self.verdicts}")

    def metrics(self) -> dict[str, float]:
        """Every series that it serves, by name and labels."""
        connection = http.client.HTTPConnection("rebalancer")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.folder / "api.sock"))
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        finally:
            connection.close()
        series = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in series}


@contextmanager
def running(config: Path, folder: Path) -> Iterator[Daemon]:
    """Run it as systemd would."""
    environment = os.environ | {"RUNTIME_DIRECTORY": str(folder), "PYTHONUNBUFFERED": "1"}
    with (folder / "daemon.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "rebalancer", "run", "--config", str(config)],
            cwd=Path(__file__).parents[2],
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        yield Daemon(process=process, folder=folder)
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What happened, for a reader or a test."""

    waited: Sequence[str]
    """The verdicts from the first sign of unevenness until it moved something."""
    moved: str
    rested: Sequence[str]
    """The verdicts after that; the last three are of rest."""
    spread_before: float
    """Largest load of a host less the smallest, as shares of its cores, right before the move."""
    spread_after: float
    completed: float
    """Migrations that the metrics count as complete."""
    history: Sequence[dict[str, Any]]
    """What the journal says was rolled out."""
    moved_vms: Sequence[str]
    """Every VM that was, once for each time."""
    exit_code: int


def tell(
    lab: Lab, guests: Sequence[LabGuest], folder: Path, say: Callable[[str], None] = lambda _: None
) -> Story:
    """Let it happen. `guests` are idle, those on the first host first."""
    rebalancer = Rebalancer.configured(lab, folder, sampling_seconds=2)
    (folder / "policy.yaml").write_text(_POLICY)
    with monitored(lab, folder / "prometheus") as url:
        text = rebalancer.config.read_text().replace("cpu_cores: 2,", f"cpu_cores: {HOST_CORES},")
        text = text.replace("memory: 1GiB,", f"memory: {HOST_MEMORY},")
        settings = _SETTINGS.format(url=url, cycle=CYCLE_SECONDS)
        rebalancer.config.write_text(text + settings)
        say(f"Prometheus scrapes {len(lab.hosts)} hosts at {url}")
        with running(rebalancer.config, folder) as daemon:
            daemon.until(lambda: _is_ready(daemon), "telemetry good enough to act on")
            say(f"the daemon looks every {CYCLE_SECONDS} s: {daemon.verdicts[-1]}")
            calm = len(daemon.verdicts)
            for guest, ratio in zip(guests, LOADS, strict=False):
                guest.set_cpu_load(ratio)
            say(f"load on {len(LOADS)} guests of {lab.hosts[0].name}; nobody touches anything now")
            before = _follow(daemon, calm, say)
            moved_at = next(n for n, v in enumerate(daemon.verdicts) if v.startswith("moved"))
            # The telemetry is a little late, and unevenness that is over passes as any other.
            daemon.until(lambda: _rests(daemon.verdicts[moved_at + 1 :]), "three cycles of rest")
            after = _spread(daemon.metrics())
            completed = daemon.metrics()['rebalancer_migrations_total{outcome="complete"}']
            daemon.process.send_signal(signal.SIGTERM)
            exit_code = daemon.process.wait(PATIENCE_SECONDS)
            verdicts = daemon.verdicts
    history = list(reversed(json.loads(rebalancer("history", "-o", "json"))["rollouts"]))
    return Story(
        waited=[v for v in verdicts[calm:moved_at] if v.startswith("waiting")],
        moved=verdicts[moved_at],
        rested=verdicts[moved_at + 1 :],
        spread_before=before,
        spread_after=after,
        completed=completed,
        history=history,
        moved_vms=[
            migration["vm"]
            for rollout in history
            for migration in json.loads(rebalancer("show", rollout["plan"], "-o", "json"))[
                "migrations"
            ]
        ],
        exit_code=exit_code,
    )


def _follow(daemon: Daemon, told: int, say: Callable[[str], None]) -> float:
    """Say every verdict until VMs were moved; return the last spread before that."""
    spreads = [0.0]

    def has_moved() -> bool:
        nonlocal told
        for verdict in daemon.verdicts[told:]:
            say(f"  {verdict}")
            told += 1
            if verdict.startswith("waiting"):
                spreads.append(_spread(daemon.metrics()))
        return any(verdict.startswith("moved") for verdict in daemon.verdicts)

    daemon.until(has_moved, "VMs that are moved")
    return max(spreads)


def _rests(verdicts: Sequence[str]) -> bool:
    return len(verdicts) >= 3 and all(verdict.startswith(RESTS) for verdict in verdicts[-3:])


def _is_ready(daemon: Daemon) -> bool:
    if not daemon.verdicts or not (daemon.folder / "api.sock").exists():
        return False
    return daemon.metrics().get("rebalancer_usage_fault") == 0


def _spread(metrics: dict[str, float]) -> float:
    used = _by_host(metrics, "rebalancer_host_cpu_used_cores")
    cores = _by_host(metrics, "rebalancer_host_cpu_capacity_cores")
    loads = [used[host] / cores[host] for host in used]
    return max(loads) - min(loads)


def _by_host(metrics: dict[str, float], name: str) -> dict[str, float]:
    return {series: value for key, value in metrics.items() if (series := _host(key, name))}


def _host(series: str, name: str) -> str:
    return series.split('host="')[1].split('"')[0] if series.startswith(f"{name}{{") else ""


def demonstrate(lab: Lab, folder: Path, say: Callable[[str], None]) -> bool:
    """Start guests, tell the story and what was recorded of it; return whether it is good."""
    spec = GuestSpec(working_set_bytes=16 * MIB)
    guests = lab.start_guests(len(LOADS), spec, hosts=lab.hosts[:1])
    idle = lab.start_guests(2, spec, hosts=lab.hosts[1:])
    say(f"{len(guests)} guests on {lab.hosts[0].name}, one on each other host, all idle")
    story = tell(lab, (*guests, *idle), folder, say)
    for verdict in story.rested:
        say(f"  {verdict}")
    say(f"metrics: spread of CPU {story.spread_before:.2f} → {story.spread_after:.2f} of a host")
    for rollout in story.history:
        say(f"journal: plan {rollout['plan']} by {rollout['creator']}: {rollout['text']}")
    return story.spread_after < story.spread_before and story.exit_code == ExitCode.TERMINATED
