"""Plans that switch hosts, carried out by `apply` and `run --once` on simulated hosts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rebalancer.cluster.inventory import HostId
from rebalancer.errors import ExitCode
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.power import Sleep
from rebalancer.rollout.power_journal import PowerJournal
from rebalancer.rollout.power_steps import Phase, PowerMark
from rebalancer.service import work
from rebalancer.service.access import Where
from rebalancer.service.change_access import ChangeAccess, open_for_change
from rebalancer.service.clock import SystemClock
from rebalancer.service.config import Settings
from rebalancer.simulation.simulated_power import SimulatedPower
from tests.cli.conftest import Rebalancer

NIGHT = """\
schema_version: 1
name: night
hosts:
  - name: "h{1..4}"
    cpu_cores: 16
    memory: 64GiB
    idle_watts: 120
    max_watts: 350
vms:
  - name: "vm{1..4}"
    on: "h{1..4}"
    vcpus: 2
    memory: 8GiB
    cpu: 0.7
    dirty: 2MiB/s
    working_set: 64MiB
    autostart: false
policy:
  schema_version: 1
  name: saving
  goals: [{goal: power, min_awake: 2}]
  limits: {migrations: 10}
"""


@pytest.fixture
def night(tmp_path: Path) -> Path:
    file = tmp_path / "night.yaml"
    file.write_text(NIGHT, encoding="utf-8")
    return file


@pytest.fixture
def switches(monkeypatch: pytest.MonkeyPatch) -> Callable[[], SimulatedPower]:
    """What the hosts of the next command are switched with, once it has run."""
    made: list[SimulatedPower] = []

    def open_and_keep(settings: Settings, where: Where) -> ChangeAccess:
        access = open_for_change(settings, where)
        assert isinstance(access.power, SimulatedPower)
        made.append(access.power)
        return access

    monkeypatch.setattr(work, "open_for_change", open_and_keep)
    return lambda: made[-1]


@pytest.fixture
def plan(rebalancer: Rebalancer, night: Path, tmp_path: Path) -> Path:
    file = tmp_path / "plan.json"
    rebalancer("plan", "--scenario", night, "--out", file)
    assert len(json.loads(file.read_text(encoding="utf-8"))["power"]) == 2
    return file


def test_hosts_that_a_plan_empties_are_put_to_sleep_after_the_last_vm_has_left(
    rebalancer: Rebalancer, night: Path, plan: Path, switches: Callable[[], SimulatedPower]
) -> None:
    ran = rebalancer("apply", plan, "--scenario", night, "--yes")

    assert ran.code == ExitCode.SUCCESS
    assert [type(command) for command in switches().told] == [Sleep, Sleep]
    assert ran.err.count(": it is asleep") == 2
    assert ran.err.index("all migrations ended") < ran.err.index("it is asleep")


def test_apply_without_yes_switches_nothing(
    rebalancer: Rebalancer, night: Path, plan: Path
) -> None:
    ran = rebalancer("apply", plan, "--scenario", night)

    assert "it is asleep" not in ran.err
    assert "nothing was changed" in ran.err


def test_a_host_that_refuses_ends_the_switching_and_the_plan_was_carried_out_in_part(
    rebalancer: Rebalancer,
    night: Path,
    plan: Path,
    switches: Callable[[], SimulatedPower],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(self: SimulatedPower, *arguments: object) -> None:
        real(self, *arguments)  # type: ignore[arg-type]  # whatever it takes
        self.broken = {"h1", "h2", "h3", "h4"}

    real = SimulatedPower.__init__
    monkeypatch.setattr(SimulatedPower, "__init__", refuse)

    ran = rebalancer("apply", plan, "--scenario", night, "--yes")

    assert ran.code == ExitCode.PARTIAL
    assert len(switches().told) == 1
    assert "the BMC refused" in ran.err


def test_a_host_whose_vms_could_not_leave_stays_on(
    rebalancer: Rebalancer, night: Path, plan: Path, switches: Callable[[], SimulatedPower]
) -> None:
    faulty = night.read_text(encoding="utf-8")
    moved = json.loads(plan.read_text(encoding="utf-8"))["migrations"][0]
    fault = f"faults: [{{kind: refuse, vm: {moved['vm_name']}, stage: request}}]\n"
    night.write_text(faulty + fault, encoding="utf-8")

    ran = rebalancer("apply", plan, "--scenario", night, "--yes")

    assert ran.code == ExitCode.PARTIAL
    told = [command.host for command in switches().told]
    assert moved["source"] not in told
    assert len(told) == 1


def test_a_host_that_rebalancer_did_not_put_to_sleep_is_not_woken(
    rebalancer: Rebalancer, night: Path, switches: Callable[[], SimulatedPower]
) -> None:
    busy = night.read_text(encoding="utf-8").replace("cpu: 0.7", "cpu: 6")
    asleep = busy.replace(
        "vms:\n", "  - {name: h5, cpu_cores: 16, memory: 64GiB, state: asleep}\nvms:\n"
    ).replace("min_awake: 2", "min_awake: 5")
    night.write_text(asleep, encoding="utf-8")
    ran = rebalancer("run", "--once", "--scenario", night, "--yes")

    assert "rebalancer did not put it to sleep" in ran.err
    assert switches().told == []
    assert ran.code == ExitCode.PARTIAL


def test_recover_looks_at_hosts_that_were_being_switched_when_their_process_died(
    rebalancer: Rebalancer, tmp_path: Path
) -> None:
    config = tmp_path / "rebalancer.yaml"
    power = {"wake_command": "true", "state_command": "echo off"}
    hosts = [{"name": "h1", "uri": "test:///default", "power": power}]
    config.write_text(
        json.dumps({"schema_version": 1, "cluster": "main", "hosts": hosts}), encoding="utf-8"
    )
    leave_mark(tmp_path)

    ran = rebalancer("recover", "--config", config)

    assert "h1 is waking since" in ran.out
    assert "nothing was changed" in ran.err


def leave_mark(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'journal.db'}"
    clock = SystemClock()
    mark = PowerMark(host=HostId("h1"), phase=Phase.WAKING, since=clock.now(), told=True)
    with (
        Journal.open(url, clock) as journal,
        journal.hold("main") as lease,
        PowerJournal.open(url, clock) as marks,
    ):
        marks.keep(HostId("h1"), mark, "was told to wake", lease)


def test_a_simulation_really_wakes_and_puts_to_sleep(rebalancer: Rebalancer, night: Path) -> None:
    text = night.read_text(encoding="utf-8")
    night.write_text(f"{text}expect: {{hosts_asleep: 2, exit_code: 0}}\n", encoding="utf-8")
    busy = night.with_name("busy.yaml")
    asleep = "  - {name: h5, cpu_cores: 16, memory: 64GiB, state: asleep}\nvms:\n"
    wanting = text.replace("vms:\n", asleep).replace("min_awake: 2", "min_awake: 5")
    busy.write_text(f"{wanting}expect: {{hosts_asleep: 0, exit_code: 0}}\n", encoding="utf-8")

    slept = rebalancer("simulate", night)
    woken = rebalancer("simulate", busy)

    assert (slept.code, slept.err.splitlines()[-1]) == (
        ExitCode.SUCCESS,
        "everything that the scenario expects came true",
    )
    assert woken.code == ExitCode.SUCCESS, woken.err
