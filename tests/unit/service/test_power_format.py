"""The settings about switching hosts."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rebalancer.service.power_format import HostPowerSettings, PowerSettings


def test_hosts_are_not_switched_by_default() -> None:
    assert not PowerSettings().switch
    assert not PowerSettings().cut_power
    assert not PowerSettings().allow_autostart


@pytest.mark.parametrize(
    "given",
    [
        {"redfish": "https://bmc1", "user": "ops", "password_file": "/etc/rebalancer/bmc1"},
        {"redfish": "https://[fe80::1]:8443/redfish/v1/Systems/1"},
        {"redfish": "http://127.0.0.1:8000"},
        {"wake_command": "wakeonlan 52:54:00:12:34:56"},
        {"wake_command": "w", "sleep_command": "s", "state_command": "t"},
    ],
)
def test_what_can_be_meant_is_accepted(given: dict[str, Any]) -> None:
    HostPowerSettings.model_validate(given)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({}, "needs redfish or wake_command"),
        ({"redfish": "bmc1"}, "is not an address of a BMC"),
        ({"redfish": "http://bmc1"}, "use https"),
        ({"redfish": "https://ops:secret@bmc1"}, "has a name or password in it"),
        ({"redfish": "https://bmc1", "wake_command": "w"}, "leave one of them out"),
        ({"redfish": "https://bmc1", "user": "ops"}, "both user and password_file"),
        ({"redfish": "https://bmc1", "password": "secret"}, "password"),
        ({"redfish": "https://bmc1", "user": "o", "password_file": "pw"}, "not an absolute path"),
        ({"wake_command": "w", "sleep_command": "s"}, "needs a state_command"),
        ({"sleep_command": "s", "state_command": "t"}, "needs redfish or wake_command"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        HostPowerSettings.model_validate(given)
