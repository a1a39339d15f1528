"""The rungs of the ladder of modes, each said by a plan beforehand and then taken as it said.

What is here: offline, live alone on its path, slowed down (auto-converge), post-copy. The others
are said beforehand in `test_shaped_links.py` (live, suspended, cold by a shutdown, stays with the
cheapest way out) and `test_modes.py` (cold by a saved memory).
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.command import Rebalancer
from tests.lab.guest import GuestSpec
from tests.lab.host import libvirt
from tests.lab.shape import MIB
from tests.lab.site import assert_ran_through, assert_runs_once, hosts_from

if TYPE_CHECKING:
    from tests.lab.cluster import Lab
    from tests.lab.guest import LabGuest
    from tests.lab.host import LabHost

# A throttled guest is not to be disturbed, and what is measured of its writing decides the mode.
pytestmark = [pytest.mark.lab, pytest.mark.alone]

NARROW, WIDE = 20 * MIB, 60 * MIB
"""What hosts' links are said to carry a second; migrations may use 14 and 42 MiB/s of it."""


MEASUREMENTS = 8
"""How often a plan is asked for, at most: page sampling scatters by a quarter in such a small
guest, and what is slowed down must write between one and two times what the links carry."""


@pytest.fixture(scope="module")
def climber(session_lab: Lab) -> Iterator[LabGuest]:
    """A guest that can dirty 48 MiB."""
    spec = GuestSpec(memory_bytes=128 * MIB, working_set_bytes=48 * MIB)
    guest = session_lab.start_guest(session_lab.hosts[0], spec)
    yield guest
    session_lab.remove_guest(guest)


class Ladder:
    """Plans and moves one guest, with a policy that allows some modes."""

    def __init__(self, lab: Lab, folder: Path, guest: LabGuest) -> None:
        self.command = Rebalancer.configured(lab, folder, sampling_seconds=1)
        self.folder, self.guest, self.lab = folder, guest, lab

    def links_carry(self, bytes_per_second: int) -> None:
        """Have the settings say so; a plan grants no more."""
        text, nic = self.command.config.read_text(), "nic_bytes_per_second: "
        old = text.partition(nic)[2].split(",", 1)[0]
        self.command.config.write_text(text.replace(f"{nic}{old}", f"{nic}{bytes_per_second}"))

    def plan(self, source: LabHost, allow: str) -> dict[str, Any]:
        """Plan to empty the guest's host; return what is planned for it."""
        policy, file = self.folder / "policy.yaml", self.folder / "plan.json"
        policy.write_text(
            "schema_version: 1\nname: ladder\ngoals: [{goal: drain, tier: 0}]\n"
            "headroom: {cpu: 0, memory: 0, host_failures: 0}\ntrigger: null\n"
            f"migration: {{allow: [{allow}], max_downtime: 500ms, max_suspend: 30s}}\n"
        )
        self.command("drain", source.name, "--policy", policy, "--probe", "--out", file)
        (planned,) = json.loads(file.read_text())["migrations"]
        return dict(planned)

    def carry_out(self, planned: dict[str, Any]) -> LabHost:
        """Do it as it was planned; return where the guest is then."""
        policy, file = self.folder / "policy.yaml", self.folder / "plan.json"
        self.command("apply", file, "--policy", policy, "--yes")
        return next(host for host in self.lab.hosts if host.name == planned["target"])


@pytest.fixture
def ladder(lab: Lab, tmp_path: Path, climber: LabGuest) -> Ladder:
    return Ladder(lab, tmp_path, climber)


def test_of_a_guest_that_is_off_only_the_definition_moves(ladder: Ladder) -> None:
    guest = ladder.guest
    source, *_ = hosts_from(guest)
    with source.connect() as connection:
        connection.lookupByUUIDString(guest.uuid).destroy()

    try:
        planned = ladder.plan(source, "offline")
        target = ladder.carry_out(planned)

        assert planned["mode"] == "offline"
        assert planned["mode_reason"] == "it is shutoff, so only its definition moves"
        assert guest.hosts_knowing() == (target,)
        assert guest.hosts_running() == ()
    finally:
        (host,) = guest.hosts_knowing()
        with host.connect() as connection:
            connection.lookupByUUIDString(guest.uuid).create()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """What a guest writes, what carries it, what is allowed, and what has to be said of it then."""

    dirty_bytes_per_second: float
    link_bytes_per_second: int
    allow: str
    mode: str
    said: str
    cpu_load_ratio: float = 0.0
    """A throttled guest must never idle: it does little after its page tables were loaded again, so
    that what an idle kernel wrote before that, and an emulating QEMU missed, stayed lost and broke
    it in 4 of 9 migrations (`pti=on` in `guest.py`)."""


ALONE = Rung(
    dirty_bytes_per_second=20e6,
    link_bytes_per_second=WIDE,
    allow="live",
    mode="live",
    said="alone on its path with 42 MiB/s it converges in",
)
AUTO_CONVERGE = Rung(
    dirty_bytes_per_second=21e6,
    link_bytes_per_second=NARROW,
    allow="live, auto_converge, suspend",
    mode="auto_converge",
    said="with 14 MiB/s it converges only if slowed by",
    cpu_load_ratio=1.0,
)
POST_COPY = Rung(
    dirty_bytes_per_second=40e6,
    link_bytes_per_second=NARROW,
    allow="live, post_copy",
    mode="post_copy",
    said="with 14 MiB/s it does not converge: switched to post-copy",
)


@pytest.mark.parametrize("rung", [ALONE, AUTO_CONVERGE, POST_COPY], ids=lambda rung: rung.mode)
def test_a_guest_that_writes_goes_the_way_that_its_plan_said(
    ladder: Ladder, lab: Lab, rung: Rung
) -> None:
    guest = ladder.guest
    lab.wait_for_boot([guest])
    source, *_ = hosts_from(guest)
    ladder.links_carry(rung.link_bytes_per_second)
    guest.set_cpu_load(rung.cpu_load_ratio)
    guest.set_dirty_rate(rung.dirty_bytes_per_second)

    for _ in range(MEASUREMENTS):
        planned = ladder.plan(source, rung.allow)
        if planned["mode"] == rung.mode:
            break
    guest.heartbeat.mark()
    with throttles(guest, source) as seen:
        target = ladder.carry_out(planned)
    assert_ran_through(guest)

    assert planned["mode"] == rung.mode, planned["mode_reason"]
    assert rung.said in planned["mode_reason"]
    assert_runs_once(guest, target)
    assert (max(seen) >= 20) is (rung is AUTO_CONVERGE), seen


@contextlib.contextmanager
def throttles(guest: LabGuest, host: LabHost) -> Iterator[list[int]]:
    """Look again and again how much QEMU slows a guest down that leaves a host, in per cent."""
    seen, done = [0], threading.Event()

    def watch() -> None:
        with host.connect() as connection:
            while not done.wait(0.5):
                with contextlib.suppress(libvirt().libvirtError):  # it has just left
                    stats = connection.lookupByUUIDString(guest.uuid).jobStats()
                    seen.append(stats.get("auto_converge_throttle", 0))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield seen
    finally:
        done.set()
        watching.join()
