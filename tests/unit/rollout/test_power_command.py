"""Hosts switched by shell commands, run for real."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rebalancer.cluster.inventory import HostId
from rebalancer.rollout.driver import Failed, Pending
from rebalancer.rollout.power import (
    PowerGauge,
    PowerReply,
    PowerReturned,
    PowerState,
    PowerSwitchError,
    ReadPower,
    Sleep,
    SwitchedPower,
    Wake,
)
from rebalancer.rollout.power_command import CommandSwitch, PowerCommands, state_said
from rebalancer.service.clock import SystemClock

H1 = HostId("h1")


def a_switch(call_seconds: float = 20, **commands: str) -> CommandSwitch:
    return CommandSwitch(H1, PowerCommands(**commands), call_seconds)


def replied(driver: SwitchedPower, command: Wake | Sleep | ReadPower) -> PowerReply:
    ticket = driver.issue(command)
    while isinstance(reply := driver.poll(ticket), Pending):
        SystemClock().sleep(0.01)
    return reply


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("Chassis Power is on", PowerState.ON),
        ("Chassis Power is off\n", PowerState.OFF),
        ("ON", PowerState.ON),
        ("Chassis Power Control: Up/On, was off", PowerState.UNKNOWN),
        ("Unable to get Chassis Power Status", PowerState.UNKNOWN),
        ("", PowerState.UNKNOWN),
    ],
)
def test_on_or_off_is_found_as_a_word(text: str, state: PowerState) -> None:
    assert state_said(text) is state


def test_commands_know_the_host_and_are_run_in_a_shell(tmp_path: Path) -> None:
    file = tmp_path / "said"

    a_switch(wake=f'echo "$REBALANCER_HOST" | cat > {file}').wake()

    assert file.read_text() == "h1\n"


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(PowerSwitchError, match=r"ended with 3: no such BMC"):
        a_switch(sleep="echo no such BMC >&2; exit 3").sleep()


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    file = tmp_path / "pid"

    with pytest.raises(PowerSwitchError, match="was killed"):
        a_switch(2.0, state=f"sleep 600 & echo $! > {file}; wait").state()

    with pytest.raises(ProcessLookupError):
        _signal_until_gone(int(file.read_text()))


def _signal_until_gone(pid: int) -> None:
    for _ in range(500):
        os.kill(pid, 0)
        SystemClock().sleep(0.01)


def test_without_a_state_command_nobody_knows_whether_it_is_on() -> None:
    assert a_switch(wake="true").state() is PowerState.UNKNOWN


def test_power_is_never_cut_by_command() -> None:
    with pytest.raises(PowerSwitchError, match="never cut"):
        a_switch(sleep="true").cut()


def test_the_driver_tells_failures_as_replies() -> None:
    switches = {H1: a_switch(wake="false", state="echo on")}
    driver = SwitchedPower(switches, SystemClock(), 20)

    assert replied(driver, ReadPower(host=H1)) == PowerReturned(state=PowerState.ON)
    failed = replied(driver, Wake(host=H1))
    assert isinstance(failed, Failed)
    assert "ended with 1" in failed.text
    unset = replied(driver, Sleep(host=H1))
    assert isinstance(unset, Failed)
    assert "no power.sleep_command" in unset.text
    strange = replied(driver, Wake(host=HostId("h2")))
    assert isinstance(strange, Failed)
    assert "do not say how h2 is switched" in strange.text


def test_a_call_that_takes_too_long_is_given_up() -> None:
    driver = SwitchedPower({H1: a_switch(wake="sleep 1")}, SystemClock(), 0.05)

    reply = replied(driver, Wake(host=H1))

    assert isinstance(reply, Failed)
    assert reply.timed_out


def test_a_gauge_says_why_a_state_is_unknown() -> None:
    gauge = PowerGauge({H1: a_switch(state="echo no lan >&2; exit 1")})

    power, why = gauge.state(H1)

    assert power is PowerState.UNKNOWN
    assert "no lan" in why
    assert gauge.state(HostId("h2"))[0] is PowerState.UNKNOWN
