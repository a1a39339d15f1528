"""Hosts switched through a real Redfish service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rebalancer.cluster.inventory import HostId
from rebalancer.rollout.power import (
    Census,
    NoCensus,
    PowerState,
    PowerSwitchError,
    SwitchedPower,
)
from rebalancer.rollout.power_executor import PowerTools, sleep, wake
from rebalancer.rollout.power_redfish import RedfishAddress, RedfishSwitch
from rebalancer.rollout.power_steps import PowerTimes
from rebalancer.service.cli import main
from rebalancer.service.clock import SystemClock
from tests.builders import a_host
from tests.lab.deadline import wait_until
from tests.machines import a_room
from tests.redfish.emulator import BINARY, Redfish, redfish

pytestmark = pytest.mark.skipif(BINARY is None, reason="sushy-emulator is not installed")
pytest.importorskip("sushy")

CALL_SECONDS = 20.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redfish]:
    folder = tmp_path_factory.mktemp("redfish")
    with redfish(folder, {"h1": "On", "h2": "Off", "h3": "On", "h4": "Off"}) as found:
        yield found


def a_switch(url: str, **more: object) -> RedfishSwitch:
    return RedfishSwitch(RedfishAddress(url=url, **more), CALL_SECONDS)  # type: ignore[arg-type]


def test_it_tells_whether_hosts_are_on(service: Redfish) -> None:
    assert a_switch(service.url("h3")).state() is PowerState.ON
    assert a_switch(service.url("h4")).state() is PowerState.OFF


def test_a_host_is_shut_down_and_switched_on_again(service: Redfish, tmp_path: Path) -> None:
    """The whole way, with libvirt answering as long as the machine has power."""
    switch, host, clock = a_switch(service.url("h1")), HostId("h1"), SystemClock()

    def census(asked: HostId) -> Census | NoCensus:
        if switch.state() is PowerState.ON:
            return Census(host=asked)
        return NoCensus(host=asked, why="no route to host")

    with a_room(tmp_path) as room:
        tools = PowerTools(
            driver=SwitchedPower({host: switch}, clock, 60),
            census=census,
            journal=room.journal,
            lease=room.lease,
            clock=clock,
            times=PowerTimes(boot_seconds=60, shutdown_seconds=60, tick_seconds=0.5),
        )

        asleep = sleep(a_host("h1"), tools, lambda _: ())
        assert asleep.done, asleep.text
        assert switch.state() is PowerState.OFF
        assert room.phase("h1") == "asleep"

        awake = wake(host, tools)
        assert awake.done, awake.text
        assert switch.state() is PowerState.ON
        assert room.phase("h1") == "awake"


def test_waking_a_host_that_is_on_changes_nothing(service: Redfish) -> None:
    switch = a_switch(service.url("h3"))

    switch.wake()

    assert switch.state() is PowerState.ON


def test_power_can_be_cut(service: Redfish) -> None:
    switch = a_switch(service.url("h3"))

    switch.cut()

    wait_until(
        lambda: switch.state() is PowerState.OFF, within_seconds=30, what="the power to be off"
    )


def test_one_bmc_with_several_systems_needs_the_path_of_one(service: Redfish) -> None:
    with pytest.raises(PowerSwitchError, match="System count is not exactly one"):
        a_switch(service.root).state()


def test_a_bmc_with_one_system_needs_no_path(tmp_path: Path) -> None:
    with redfish(tmp_path / "one", {"h1": "On"}) as service:
        assert a_switch(service.root).state() is PowerState.ON
        assert a_switch(f"{service.root}/redfish/v1").state() is PowerState.ON


def test_a_system_that_is_not_there_is_said_to_be_so(service: Redfish) -> None:
    with pytest.raises(PowerSwitchError, match="not found"):
        a_switch(f"{service.root}/redfish/v1/Systems/none").state()


def test_a_bmc_that_does_not_answer_is_an_error_and_no_state() -> None:
    with pytest.raises(PowerSwitchError, match=r"^http://127\.0\.0\.1:1: "):
        a_switch("http://127.0.0.1:1").state()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redfish]:
    bcrypt = pytest.importorskip("bcrypt")
    folder = tmp_path_factory.mktemp("guarded")
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    users = folder / "htpasswd"
    users.write_text(f"ops:{hashed}\n", encoding="utf-8")
    with redfish(folder, {"h1": "On"}, auth_file=users) as found:
        yield found


def test_the_password_is_read_from_its_file(guarded: Redfish, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("secret\n", encoding="utf-8")
    file.chmod(0o600)

    switch = a_switch(guarded.url("h1"), user="ops", password_file=file)

    assert switch.state() is PowerState.ON


def test_a_wrong_password_is_told_without_saying_it(guarded: Redfish, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("wrong-one", encoding="utf-8")
    file.chmod(0o600)

    with pytest.raises(PowerSwitchError, match="401") as told:
        a_switch(guarded.url("h1"), user="ops", password_file=file).state()

    assert "wrong-one" not in str(told.value)


def test_a_password_that_everybody_may_read_is_refused(guarded: Redfish, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("secret", encoding="utf-8")
    file.chmod(0o644)

    with pytest.raises(PowerSwitchError, match="chmod o="):
        a_switch(guarded.url("h1"), user="ops", password_file=file).state()


def test_the_command_asks_a_bmc_as_the_settings_say(
    guarded: Redfish, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("libvirt")
    secret = tmp_path / "password"
    secret.write_text("secret\n", encoding="utf-8")
    secret.chmod(0o600)
    config = tmp_path / "rebalancer.yaml"
    config.write_text(
        "schema_version: 1\n"
        f"journal: sqlite:///{tmp_path / 'journal.db'}\n"
        "hosts:\n"
        "  - name: h1\n"
        "    uri: test:///default\n"
        f"    power: {{redfish: '{guarded.url('h1')}', user: ops, password_file: {secret}}}\n",
        encoding="utf-8",
    )

    code = main(["power", "status", "--config", str(config)])

    assert code == 0
    assert capsys.readouterr().out == "h1: power on; libvirt answers, 1 VM with a process\n"
