"""`rebalancer recover` on simulated hosts: what it shows, and what it ends only when told to."""

from __future__ import annotations

import copy
import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from rebalancer.cluster.inventory import HostId, VmState
from rebalancer.errors import ExitCode
from rebalancer.rollout.executor import execute
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.records import RecordKind
from rebalancer.rollout.sightings import Absent, DomainView
from rebalancer.service.access import ReadAccess
from rebalancer.service.change_access import ChangeAccess
from rebalancer.service.config import load_settings
from rebalancer.service.plan_file import plan_to_json
from rebalancer.service.recovering import carry_out
from rebalancer.service.report import Format
from rebalancer.service.session import Session
from rebalancer.service.stale_copies import stale_copies
from rebalancer.simulation.clock import VirtualClock
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.faults import Fault, FaultKind
from rebalancer.simulation.simulated_driver import SimulatedDriver
from rebalancer.simulation.simulated_source import SimulatedSource
from tests.builders import a_host, a_snapshot, a_vm
from tests.cli.conftest import Rebalancer, rebalancer
from tests.unit.rollout.plans import a_migration, a_plan

__all__ = ["rebalancer"]

H1, H2 = HostId("h1"), HostId("h2")


class Split:
    """Two VMs whose links broke just after their targets resumed: one is split, one arrived."""

    def __init__(self, folder: Path) -> None:
        vms = [a_vm("web1", persistent=True), a_vm("web2", persistent=True)]
        snapshot = a_snapshot([a_host("h1"), a_host("h2"), a_host("h3")], vms)
        split = Fault(kind=FaultKind.SPLIT_BRAIN, vm=vms[0].id)
        self.datacentre = Datacentre.of(snapshot, faults=[split])
        self.clock = VirtualClock(self.datacentre)
        self.url = f"sqlite:///{folder / 'journal.db'}"
        self.out, self.err = io.StringIO(), io.StringIO()
        settings = load_settings(
            flags={"cluster": "test", "journal": self.url}, system_config=Path("/nonexistent")
        )
        self.session = Session(
            settings=settings,
            out=Console(file=self.out, width=200),
            err=Console(file=self.err, width=200),
        )
        self.access = ChangeAccess(
            read=ReadAccess(
                cluster="test",
                host_names=("h1", "h2", "h3"),
                source=SimulatedSource(self.datacentre),
                clock=self.clock,
                uris={},
            ),
            driver=SimulatedDriver(self.datacentre),
        )
        plan = a_plan(a_migration("web1", id="m1"), a_migration("web2", id="m2"))
        with Journal.open(self.url, self.clock) as journal:
            execute(
                plan,
                driver=self.access.driver,
                clock=self.clock,
                journal=journal,
                snapshot=snapshot,
                plan_text=plan_to_json(plan),
            )

    def recover(self, output: Format = Format.TABLE, *, end_stale_copies: bool) -> ExitCode:
        return carry_out(
            self.session,
            None,
            output,
            end_stale_copies=end_stale_copies,
            access=self.access,
        )

    def issued(self) -> list[str]:
        with Journal.open(self.url, self.clock) as journal:
            return [
                record.payload["command"]["do"]
                for record in journal.records(1)
                if record.kind is RecordKind.INTENT
            ]


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return Split(tmp_path)


def test_yes_alone_shows_the_proof_and_ends_nothing(split: Split) -> None:
    code = split.recover(end_stale_copies=False)

    said = split.err.getvalue()
    assert code is ExitCode.UNKNOWN_OUTCOME
    assert "web1: an older copy of it stands still on h1; it runs on h2" in said
    assert "h1 running (migration canceled, no job), h2 running (migrated, no job)" in said
    assert "h1 paused (user, no job), h2 running (migrated, no job)" in said
    assert "1 other host answered, without a copy" in said
    assert "rebalancer recover --yes --end-stale-copies" in said
    assert "web2" not in said
    assert "an older copy of a VM waits for your word" in split.out.getvalue()
    assert "EndStaleCopy" not in split.issued()


def test_with_the_option_it_is_shown_then_ended_and_one_copy_is_left(split: Split) -> None:
    code = split.recover(end_stale_copies=True)

    assert code is ExitCode.SUCCESS
    assert "web1: an older copy of it stands still on h1" in split.err.getvalue()
    assert "operator's word" in split.out.getvalue()
    hosts = split.datacentre.hosts
    there = hosts[H2].view(a_vm("web1").id)
    assert isinstance(hosts[H1].view(a_vm("web1").id), Absent)
    assert isinstance(there, DomainView)
    assert (there.state, there.persistent) == (VmState.RUNNING, True)
    assert split.issued().count("EndStaleCopy") == 1


@pytest.mark.parametrize(("answer", "ended"), [("y", 1), ("n", 0), ("", 0)])
def test_on_a_terminal_the_operator_is_asked_and_no_is_the_default(
    split: Split, monkeypatch: pytest.MonkeyPatch, answer: str, ended: int
) -> None:
    master, slave = os.openpty()
    on_terminal = copy.copy(split)
    on_terminal.session = replace(split.session, err=Console(file=split.err, force_terminal=True))
    with os.fdopen(slave) as keyboard, os.fdopen(master, "w") as operator:
        monkeypatch.setattr(sys, "stdin", keyboard)
        operator.write(f"{answer}\n")
        operator.flush()

        on_terminal.recover(end_stale_copies=False)

    assert split.issued().count("EndStaleCopy") == ended


def test_machines_read_one_document_with_what_is_known_at_last(split: Split) -> None:
    split.recover(Format.JSON, end_stale_copies=True)

    (rollout,) = json.loads(split.out.getvalue())["rollouts"]
    assert "complete" in json.dumps(rollout)
    assert "unknown" not in [str(value) for value in _values(rollout)]


def _values(tree: object) -> list[object]:
    if isinstance(tree, dict):
        return [value for item in tree.values() for value in _values(item)]
    if isinstance(tree, list):
        return [value for item in tree for value in _values(item)]
    return [tree]


def test_what_cannot_be_ended_is_said_with_every_reason(split: Split) -> None:
    split.recover(end_stale_copies=False)
    split.datacentre.hosts[HostId("h3")].unreachable_until = float("inf")

    split.recover(end_stale_copies=True)

    assert "web1: no copy can be ended: h3 did not answer" in split.err.getvalue()
    assert "EndStaleCopy" not in split.issued()


def test_only_what_was_shown_is_named(split: Split) -> None:
    with Journal.open(split.url, split.clock) as journal:
        found = stale_copies(journal, "test")

    assert found.named == {(1, "m1")}


def test_without_yes_it_is_shown_and_nothing_is_asked_of_any_host(
    split: Split, rebalancer: Rebalancer, tmp_path: Path
) -> None:
    config = tmp_path / "rebalancer.yaml"
    config.write_text(f"schema_version: 1\ncluster: test\njournal: {split.url}\n")

    ran = rebalancer("recover", "--end-stale-copies", "--config", config)

    assert ran.code == ExitCode.UNKNOWN_OUTCOME
    assert "web1: an older copy of it stands still on h1" in ran.out
    assert "nothing was changed: add --yes" in ran.err
