"""`drain` of a host with eight real guests, through the command as an operator types it.

One guest is pinned by a rule, one writes faster than the host's link carries and may not be
helped. Both are named before anything moves and stay; the other six leave while they run.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rebalancer.errors import ExitCode
from tests.lab.configuration import write_config
from tests.lab.guest import GuestSpec
from tests.lab.shape import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.lab.cluster import Lab
    from tests.lab.guest import LabGuest

pytestmark = [pytest.mark.lab, pytest.mark.alone]

ROOT = Path(__file__).parents[2]

LINK_BYTES_PER_SECOND = 40_000_000
"""Of the host that is drained. 70 % of it is for migrations."""
HOT_BYTES_PER_SECOND = 80_000_000
GUESTS = 8
STOP_ALLOWED_SECONDS = 2.5
"""What a guest may be stopped for, by its own clock: the policy's half second, and a machine of
two busy cores."""
SILENCE_ALLOWED_SECONDS = 12.5
"""What it may be silent for: it waits for its turn on that machine, too."""

POLICY = """\
schema_version: 1
name: by-day
rules:
  - {rule: pin, vms: {names: [PINNED]}, name: licence}
migration: {allow: [live], max_downtime: 500ms}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A command that was run as a process of its own."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """Types commands at a prompt."""

    config: Path

    def __call__(self, *arguments: object) -> Ran:
        command = [sys.executable, "-m", "rebalancer", *map(str, arguments)]
        ran = subprocess.run(
            [*command, "--config", str(self.config)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        print(ran.stdout, ran.stderr)
        assert "Traceback" not in ran.stderr
        return Ran(code=ran.returncode, out=ran.stdout, err=ran.stderr)


@pytest.fixture
def guests(lab: Lab) -> Iterator[Sequence[LabGuest]]:
    spec = GuestSpec(working_set_bytes=24 * MIB)
    started = lab.start_guests(GUESTS, spec, hosts=lab.hosts[:1])
    yield started
    for guest in started:
        lab.remove_guest(guest)


@pytest.fixture
def operator(lab: Lab, guests: Sequence[LabGuest], tmp_path: Path) -> Operator:
    config, policy = tmp_path / "rebalancer.yaml", tmp_path / "policy.yaml"
    policy.write_text(POLICY.replace("PINNED", guests[0].name))
    write_config(lab, config, nic_bytes_per_second=LINK_BYTES_PER_SECOND)
    text = config.read_text().replace(f"{lab.state_dir}/journal.db", f"{tmp_path}/journal.db")
    config.write_text(
        f"{text}policy: {policy}\ncollect: {{sampling_seconds: 3, timeout_seconds: 60}}\n"
    )
    return Operator(config=config)


def vms_of(document: str) -> dict[str, dict[str, Any]]:
    return {vm["vm_name"]: vm for vm in json.loads(document)["drain"]["vms"]}


def test_a_drain_names_who_stays_moves_everybody_else_and_keeps_the_host_empty(
    lab: Lab, guests: Sequence[LabGuest], operator: Operator
) -> None:
    emptied, (pinned, hot, *others) = lab.hosts[0], guests
    emptied.shape_link(LINK_BYTES_PER_SECOND)
    hot.set_dirty_rate(HOT_BYTES_PER_SECOND)

    before = operator("drain", emptied.name, "-o", "json")

    foretold = vms_of(before.out)
    assert before.code == ExitCode.BLOCKED
    assert foretold.keys() == {guest.name for guest in guests}
    assert foretold[pinned.name]["way"] == "stays"
    assert foretold[pinned.name]["unlock"] == "lift rule licence"
    assert all(guest.hosts_running() == (emptied,) for guest in guests)

    for guest in guests:
        guest.heartbeat.mark()
    drained = operator("drain", emptied.name, "--probe", "--yes")
    for guest in guests:
        guest.heartbeat.wait_for_beat()

    assert drained.code == ExitCode.BLOCKED
    head, table = drained.out.split("\n", 1)
    of_the_host = (line.split() for line in table.splitlines() if line.startswith(emptied.name))
    rows = {fields[1]: fields for fields in of_the_host}
    assert re.fullmatch(
        rf"8 VMs on {emptied.name}: 6 live, 2 stay \({pinned.name}, {hot.name}\); all that can "
        r"leave has left after .*, no guest stands still for longer than .*",
        head,
    )
    assert [rows[guest.name][2] for guest in (pinned, hot)] == ["stays", "stays"]
    assert [rows[guest.name][2] for guest in others] == ["live"] * 6
    # Which mode suffices depends on how fast it was measured to write.
    assert re.search(r"would help: allow (auto_converge|suspend): about", table)
    assert table.index("What becomes of each VM") < table.index("6 of 6 migrations complete")
    assert re.search(r"\d of 6 ended; \S+ \S+ → \S+ ", drained.err), "progress, now and then"
    left = f"{emptied.name} still has {', '.join(sorted([pinned.name, hot.name]))}"
    assert left in drained.err
    assert [guest.hosts_knowing() for guest in (pinned, hot)] == [(emptied,)] * 2
    for guest in others:
        (host,) = guest.hosts_running()
        assert host is not emptied
        assert guest.hosts_knowing() == (host,), "a definition stayed behind"
    for guest in guests:
        heard = guest.heartbeat.report()
        assert heard.ran_through, (guest.name, heard)
        assert heard.longest_stop_seconds <= STOP_ALLOWED_SECONDS, (guest.name, heard)
        assert heard.longest_gap_seconds <= SILENCE_ALLOWED_SECONDS, (guest.name, heard)

    refused = operator("migrate", others[0].name, emptied.name)
    assert refused.code == ExitCode.BLOCKED
    assert "draining" in refused.out
    assert emptied.name in operator("status").out

    assert "may be used again" in operator("undrain", emptied.name).out
    assert emptied.name not in operator("status").out
    home = operator("undrain", emptied.name, "--bring-home")
    assert "6 VMs can come home" in home.out
    assert "nothing was changed" in home.err
