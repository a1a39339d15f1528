"""Drains as an operator runs them: foretold, one group after the other, taken back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rebalancer.cluster.inventory import HostId
from rebalancer.cluster.plan import Priority
from rebalancer.errors import ExitCode
from rebalancer.rollout.events import Event, MigrationStarted
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.lease import this_process
from rebalancer.rollout.maintenance_journal import MaintenanceJournal
from rebalancer.service.clock import SystemClock
from rebalancer.service.progress import Lines
from tests.cli.conftest import Ran, Rebalancer
from tests.cli.test_power import EMPTY
from tests.lab.deadline import wait_until
from tests.unit.rollout.plans import a_migration, a_plan

FOUR_HOSTS = """\
schema_version: 1
name: four
hosts:
  - {name: "h{1..4}", cpu_cores: 16, memory: 64GiB, reserved_memory: 4GiB}
vms:
  - name: "web{1..8}"
    on: "h{1..4}"
    vcpus: 2
    memory: 4GiB
    cpu: 1.0
    dirty: 5MiB/s
    working_set: 128MiB
policy: {schema_version: 1, name: p, headroom: {host_failures: FAILURES}}
"""


@pytest.fixture
def four_hosts(tmp_path: Path) -> Path:
    file = tmp_path / "four.yaml"
    file.write_text(FOUR_HOSTS.replace("FAILURES", "1"), encoding="utf-8")
    return file


def test_a_drain_foretells_what_becomes_of_each_vm_before_anything_else(
    rebalancer: Rebalancer, blocked_drain: Path
) -> None:
    ran = rebalancer("drain", "h1", "--scenario", blocked_drain, "--dry-run")

    first, *_ = ran.out.splitlines()
    assert ran.code == ExitCode.BLOCKED
    assert first.startswith("5 VMs on h1: 3 live, 2 stay (gpu1, license-server); ")
    assert "would help: mark it as movable" in ran.out
    assert ran.out.index("What becomes of each VM") < ran.out.index("Steps")


def test_machines_get_the_plan_with_the_table_and_it_can_still_be_applied(
    rebalancer: Rebalancer, drain_scenario: Path, tmp_path: Path
) -> None:
    ran = rebalancer("drain", "h1", "--scenario", drain_scenario, "-o", "json")
    (plan := tmp_path / "plan.json").write_text(ran.out, encoding="utf-8")

    applied = rebalancer("apply", plan, "--scenario", drain_scenario)

    document = json.loads(ran.out)
    assert document["drain"]["counts"] == {"definition": 1, "live": 5}
    assert len(document["migrations"]) == 6
    assert applied.code in (ExitCode.SUCCESS, ExitCode.REFUSED)
    assert "not read" not in applied.err


def test_what_a_drain_came_to_says_what_is_left_on_each_host(
    rebalancer: Rebalancer, blocked_drain: Path
) -> None:
    ran = rebalancer("drain", "h1", "--scenario", blocked_drain, "--yes", "-o", "json")

    document = json.loads(ran.out)
    assert ran.code == ExitCode.BLOCKED
    assert document["drain"]["left"] == {"h1": ["gpu1", "license-server"]}
    assert len(document["migrations"]) == 3


def test_hosts_are_drained_in_groups_with_a_command_for_each_and_their_vms_come_home(
    rebalancer: Rebalancer, four_hosts: Path, tmp_path: Path
) -> None:
    note = tmp_path / "note.sh"
    note.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/patched\n', encoding="utf-8")
    note.chmod(0o755)
    command = ["drain", "h1", "h2", "h3", "--rolling", "2", "--scenario", four_hosts]

    ran = rebalancer(*command, "--then", f"{note} patch", "--bring-home", "--yes", "-o", "json")

    groups = json.loads(ran.out)["groups"]
    assert ran.code == ExitCode.SUCCESS
    assert [group["drain"]["left"] for group in groups] == [{"h1": [], "h2": []}, {"h3": []}]
    assert (tmp_path / "patched").read_text(encoding="utf-8") == "patch h1 h2\npatch h3\n"
    assert "4 VMs can come home" in ran.err
    assert "2 VMs can come home" in ran.err
    assert "draining" not in rebalancer("plan", "--scenario", four_hosts).out


def test_a_round_ends_with_the_first_command_that_fails_and_says_how_to_go_on(
    rebalancer: Rebalancer, four_hosts: Path
) -> None:
    command = ["drain", "h1", "h2", "h3", "--rolling", "1", "--scenario", four_hosts]

    ran = rebalancer(*command, "--then", "false", "--yes")

    assert ran.code == ExitCode.PARTIAL
    assert "still drained: h1" in ran.err
    assert "to go on: rebalancer drain h1 h2 h3 --rolling 1 --then false --yes" in ran.err
    hosts = rebalancer("plan", "--scenario", four_hosts).out
    assert hosts.count("draining") >= 1
    assert "group 2: h2" in ran.err
    assert "h2 is empty" not in ran.err


@pytest.fixture
def maintenance(tmp_path: Path) -> Path:
    """A command that writes down for whom it is run, and does not end while there is `hold`."""
    script = tmp_path / "maintenance.sh"
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/done\n[ ! -e {tmp_path}/hold ] || exec sleep 600\n',
        encoding="utf-8",
    )
    script.chmod(0o755)
    return script


@pytest.mark.parametrize(("word", "run_for"), [("skip", "h1\nh2\n"), ("rerun", "h1\nh1\nh2\n")])
def test_a_command_of_a_round_that_was_killed_is_not_run_twice_unasked(
    rebalancer: Rebalancer,
    monkeypatch: pytest.MonkeyPatch,
    four_hosts: Path,
    maintenance: Path,
    tmp_path: Path,
    word: str,
    run_for: str,
) -> None:
    """The round dies by kill -9, its command goes on by itself until it dies as well."""
    monkeypatch.setenv("REBALANCER_CLUSTER", "four")
    (hold := tmp_path / "hold").touch()
    done, url = tmp_path / "done", os.environ["REBALANCER_JOURNAL"]
    command = ["drain", "h1", "h2", "--rolling", "1", "--scenario", str(four_hosts)]
    command += ["--then", str(maintenance), "--yes"]
    with subprocess.Popen([sys.executable, "-m", "rebalancer", *command]) as victim:
        wait_until(lambda: process_of_the_command(url) > 0, within_seconds=180, what="the command")
        wait_until(done.exists, within_seconds=180, what="what it does")
        victim.kill()
    alive = rebalancer(*command)
    os.kill(process_of_the_command(url), signal.SIGKILL)
    hold.unlink()

    wait_until(
        lambda: rebalancer("recover").code == ExitCode.UNKNOWN_OUTCOME,
        within_seconds=180,
        what="the command to end",
    )
    recovered, status, shown = (
        rebalancer("recover"),
        rebalancer("status"),
        rebalancer(*command[:-1]),
    )
    refused = rebalancer(*command)
    went_on = rebalancer(*command, "--if-begun", word)

    assert alive.code == ExitCode.LOCKED
    assert "and runs as process" in alive.err
    for ran in (recovered, status):
        assert "was begun for h1 at" in ran.out
        assert "nobody knows whether it was run to its end" in ran.out
    assert (shown.code, refused.code) == (ExitCode.UNKNOWN_OUTCOME, ExitCode.UNKNOWN_OUTCOME)
    assert "say --if-begun skip" in refused.err
    assert went_on.code == ExitCode.SUCCESS, went_on.err
    assert done.read_text(encoding="utf-8") == run_for
    assert "nothing has to be recovered" in rebalancer("recover").out


def process_of_the_command(url: str) -> int:
    with MaintenanceJournal.open(url, SystemClock()) as journal:
        runs = journal.not_over("four")
    return runs[0].process.pid if runs and runs[0].process is not None else 0


def test_a_host_that_does_not_come_back_is_waited_for_again_without_its_command(
    rebalancer: Rebalancer, four_hosts: Path, maintenance: Path, tmp_path: Path
) -> None:
    text = FOUR_HOSTS.replace("FAILURES", "0").replace("h{1..4}", "h{1..3}")
    away = "faults: [{kind: host-unreachable, host: h1, at: 70s}]\n"
    four_hosts.write_text(text + away, encoding="utf-8")
    command = ["drain", "h1", "--rolling", "1", "--scenario", four_hosts]
    command += ["--then", maintenance, "--yes"]

    ended = rebalancer(*command)
    four_hosts.write_text(text, encoding="utf-8")
    again = rebalancer(*command, "--if-begun", "skip")

    assert ended.code == ExitCode.PARTIAL
    assert "h1 did not come back within 30 min" in ended.err
    assert f"--then {maintenance} --if-begun skip --yes" in ended.err
    assert again.code == ExitCode.SUCCESS
    assert "ended well at" in again.err
    assert "it is not run again" in again.err
    assert (tmp_path / "done").read_text(encoding="utf-8") == "h1\n"


def test_a_round_that_would_leave_too_little_for_a_failing_host_changes_nothing(
    rebalancer: Rebalancer, four_hosts: Path, tmp_path: Path
) -> None:
    four_hosts.write_text(FOUR_HOSTS.replace("FAILURES", "3"), encoding="utf-8")
    command = ["drain", "h1", "h2", "--rolling", "2", "--scenario", four_hosts]

    ran = rebalancer(*command, "--then", f"touch {tmp_path}/ran", "--yes")

    assert ran.code == ExitCode.BLOCKED
    assert "h1 cannot be drained: without it too few hosts are left for host_failures" in ran.err
    assert "h2 cannot be drained" in ran.err
    assert not (tmp_path / "ran").exists()


def test_a_host_that_fails_during_a_round_ends_it_where_one_more_would_be_missed(
    rebalancer: Rebalancer, four_hosts: Path
) -> None:
    """While h1 is emptied h4 falls silent; without h2 no further failure could be stood."""
    text = FOUR_HOSTS.replace("FAILURES", "1").replace("memory: 4GiB", "memory: 12GiB")
    fault = "faults: [{kind: host-unreachable, host: h4, at: 20s}]\n"
    four_hosts.write_text(text + fault, encoding="utf-8")
    command = ["drain", "h1", "h2", "--rolling", "1", "--scenario", four_hosts]

    ran = rebalancer(*command, "--then", "true", "--yes")

    assert ran.code == ExitCode.BLOCKED
    assert "h1 is empty" in ran.err
    assert "h2: not drained, as without h2 too little is left for host_failures: 1" in ran.err
    assert "to go on: rebalancer drain h2 --rolling 1 --then true --yes" in ran.err


def test_a_host_that_does_not_answer_is_not_taken_for_empty(
    rebalancer: Rebalancer, four_hosts: Path, tmp_path: Path
) -> None:
    fault = "faults: [{kind: host-unreachable, host: h1, at: 0s}]\n"
    four_hosts.write_text(FOUR_HOSTS.replace("FAILURES", "1") + fault, encoding="utf-8")
    command = ["drain", "h1", "--scenario", four_hosts]

    shown, done = rebalancer(*command), rebalancer(*command, "--yes")
    then = f"touch {tmp_path / 'ran'}"
    in_a_round = rebalancer(*command, "--rolling", "1", "--then", then, "--yes")

    assert [shown.code, done.code, in_a_round.code] == [ExitCode.BLOCKED] * 3
    for ran in (shown, done, in_a_round):
        assert "h1 does not answer, so nobody knows what is on it" in ran.err
        assert "h1 is empty" not in ran.err
    assert not (tmp_path / "ran").exists()


def test_a_round_is_shown_group_by_group_without_yes(
    rebalancer: Rebalancer, four_hosts: Path
) -> None:
    ran = rebalancer("drain", "h1", "h2", "--rolling", "1", "--scenario", four_hosts)

    assert ran.code == ExitCode.SUCCESS
    assert ran.out.count("What becomes of each VM") == 2
    assert "nothing was changed" in ran.err


@pytest.mark.parametrize(
    "flags",
    [
        ["--yes", "--dry-run"],
        ["--then", "true"],
        ["--bring-home"],
        ["--rolling", "0"],
        ["--rolling", "1", "--yes"],
        ["--rolling", "1", "--then", "echo 'oh", "--yes"],
        ["--rolling", "1", "--then", "echo 'oh"],
        ["--rolling", "1", "--then", "", "--yes"],
        ["--back-within", "5m"],
        ["--rolling", "1", "--if-begun", "skip"],
        ["--rolling", "1", "--out", "plan.json"],
    ],
)
def test_flags_that_make_no_sense_together_are_refused(
    rebalancer: Rebalancer, four_hosts: Path, flags: list[str]
) -> None:
    ran = rebalancer("drain", "h1", "--scenario", four_hosts, *flags)

    assert ran.code == ExitCode.USAGE


def test_a_reader_who_leaves_does_not_end_a_drain(rebalancer: Rebalancer, four_hosts: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "rebalancer", "drain", "h1", "--scenario", str(four_hosts)]

    ran = subprocess.run([*words, "--yes"], stdout=writing, stderr=writing, check=False)

    os.close(writing)
    assert ran.returncode == ExitCode.SUCCESS
    assert "2 complete" in rebalancer("history", "--all-clusters").out


def test_nothing_comes_home_where_nothing_was_drained(
    rebalancer: Rebalancer, four_hosts: Path
) -> None:
    command = ["undrain", "h1", "--scenario", four_hosts, "--bring-home"]

    asked, told = rebalancer(*command), rebalancer(*command, "--yes")

    said = "nothing to bring home: no VM is where a drain of these hosts moved it\n"
    assert (asked.code, asked.out) == (told.code, told.out) == (ExitCode.SUCCESS, said)
    assert asked.err == "h1 was not being drained, so there is nothing to do\n"


@pytest.mark.parametrize("takes_back", [False, True])
def test_a_drain_that_is_cancelled_leaves_its_host_as_the_operator_says(
    rebalancer: Rebalancer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    takes_back: bool,
) -> None:
    monkeypatch.setenv("REBALANCER_CLUSTER", "test")
    moves = [
        a_migration(f"vm{number}", id=f"m{number}", priority=Priority.DRAIN) for number in (1, 2)
    ]
    with Journal.open(f"sqlite:///{tmp_path}/journal.db", SystemClock()) as journal:
        lease = journal.acquire("test", this_process())
        journal.mark_drain("test", HostId("h1"), "rebalancer drain")
        journal.begin(a_plan(*moves), lease)

        ran = rebalancer("cancel", *(["--undrain"] if takes_back else []))

        marked = journal.drains("test")
    assert ran.code == ExitCode.SUCCESS
    assert ("h1" in marked) is not takes_back
    said = "may be used again: h1" if takes_back else "until: rebalancer undrain h1"
    assert said in ran.out


def test_a_drain_that_is_taken_back_meanwhile_starts_nothing_more(
    rebalancer: Rebalancer, drain_scenario: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first migration that begins is when the operator changes their mind."""

    def and_take_back(self: Lines, event: Event) -> None:
        real(self, event)
        if isinstance(event, MigrationStarted):
            journal = Journal.open(os.environ["REBALANCER_JOURNAL"], SystemClock())
            with journal:
                journal.unmark_drain("drain", HostId("h1"), "changed my mind")

    real = Lines.show
    monkeypatch.setattr(Lines, "show", and_take_back)

    ran = rebalancer("drain", "h1", "--scenario", drain_scenario, "--yes", "-o", "json")

    states = [move["outcome"]["state"] for move in json.loads(ran.out)["migrations"]]
    assert ran.code == ExitCode.PARTIAL
    assert "complete" in states
    assert states.count("skipped") >= 3
    assert "h1 still has" in ran.err
    assert "it may be used again, as its drain was taken back" in ran.err


def test_of_two_hosts_the_one_that_is_taken_back_keeps_its_vms_and_the_other_is_emptied(
    rebalancer: Rebalancer, four_hosts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_at_a_time = "name: p, limits: {cluster: 1}"
    text = FOUR_HOSTS.replace("FAILURES", "0").replace("name: p", one_at_a_time)
    four_hosts.write_text(text, encoding="utf-8")
    taken: list[str] = []

    def and_take_back(self: Lines, event: Event) -> None:
        real(self, event)
        if isinstance(event, MigrationStarted) and not taken:
            taken.append("h1")
            with Journal.open(os.environ["REBALANCER_JOURNAL"], SystemClock()) as journal:
                journal.unmark_drain("four", HostId("h1"), "changed my mind")

    real = Lines.show
    monkeypatch.setattr(Lines, "show", and_take_back)

    ran = rebalancer("drain", "h1", "h2", "--scenario", four_hosts, "--yes", "-o", "json")

    moves = json.loads(ran.out)["migrations"]
    texts = {move["outcome"]["text"] for move in moves if move["outcome"]["state"] == "skipped"}
    assert ran.code == ExitCode.PARTIAL
    assert texts == {"the drain of h1 was taken back meanwhile"}
    assert {m["source"] for m in moves if m["outcome"]["state"] == "skipped"} == {"h1"}
    assert "h2 is empty" in ran.err
    assert "h1 still has" in ran.err


def test_no_command_is_run_for_a_group_of_which_a_host_may_be_used_again(
    rebalancer: Rebalancer, four_hosts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VMs may be placed on it by then, and the command would take it down."""
    four_hosts.write_text(FOUR_HOSTS.replace("FAILURES", "0"), encoding="utf-8")

    started: list[Event] = []

    def and_take_one_back(self: Lines, event: Event) -> None:
        real(self, event)
        started.extend([event] if isinstance(event, MigrationStarted) else [])
        if len(started) == 4:  # nothing is left that could be skipped
            with Journal.open(os.environ["REBALANCER_JOURNAL"], SystemClock()) as journal:
                journal.unmark_drain("four", HostId("h1"), "changed my mind")

    real = Lines.show
    monkeypatch.setattr(Lines, "show", and_take_one_back)
    command = ["drain", "h1", "h2", "--rolling", "2", "--scenario", four_hosts]

    ran = rebalancer(*command, "--then", f"touch {tmp_path / 'ran'}", "--yes")

    assert ran.code == ExitCode.PARTIAL
    assert "the drain of h1 was taken back, so the round ends here" in ran.err
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def two_real_hosts(tmp_path: Path) -> Path:
    """Two empty hosts of libvirt's own test driver."""
    pytest.importorskip("libvirt")
    entries = []
    for name in ("h1", "h2"):
        node = tmp_path / f"{name}.xml"
        node.write_text(EMPTY, encoding="utf-8")
        entries.append({"name": name, "uri": f"test://{node}", "cpu_cores": 16, "memory": "64GiB"})
    config = tmp_path / "rebalancer.yaml"
    journal = f"sqlite:///{tmp_path / 'journal.db'}"
    settings = {"schema_version": 1, "journal": journal, "collect": {"sampling_seconds": 0.1}}
    config.write_text(json.dumps({**settings, "hosts": entries}), encoding="utf-8")
    return config


@pytest.mark.parametrize(
    ("end_it", "ends_with"),
    [
        (lambda run, _: run("undrain", "h1"), ExitCode.SUCCESS),
        (lambda _, process: process.send_signal(signal.SIGTERM), ExitCode.TERMINATED),
    ],
    ids=["undrained", "stopped"],
)
def test_without_a_command_a_round_waits_for_somebody_to_undrain(
    rebalancer: Rebalancer,
    two_real_hosts: Path,
    tmp_path: Path,
    end_it: Callable[[Callable[..., Ran], subprocess.Popen[bytes]], object],
    ends_with: ExitCode,
) -> None:
    def run(*arguments: object) -> Ran:
        return rebalancer(*arguments, "--config", two_real_hosts)

    words = [sys.executable, "-m", "rebalancer", "drain", "h1", "--rolling", "1", "--yes"]
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen([*words, "--config", str(two_real_hosts)], stderr=file)
    try:
        wait_until(
            lambda: "when that is over: rebalancer undrain h1" in log.read_text(encoding="utf-8"),
            within_seconds=180,
            what="the round to wait",
        )
        during = run("status").out
        # The lock is free, so that others can go on meanwhile.
        other = run("drain", "h2", "--yes")
        end_it(run, process)
        code = process.wait(60)
    finally:
        process.kill()
        process.wait(60)

    assert "h1" in during
    assert other.code == ExitCode.SUCCESS
    assert code == ends_with
