"""The settings about switching hosts on and off; part of `config_format`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from rebalancer.collect.snapshot_model import Name
from rebalancer.files import FileModel, Seconds

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def _redfish_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # such as a port that is no number
        is_usable = False
    if not is_usable or any(character.isspace() for character in text):
        raise ValueError("is not an address of a BMC; expected such as https://bmc1.example.org")
    if parts.username or parts.password:
        raise ValueError("has a name or password in it: give user and password_file instead")
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        raise ValueError("would show the password to the network: use https://")
    return text


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("is not an absolute path; expected such as /etc/rebalancer/bmc1")
    return path


type RedfishUrl = Annotated[str, AfterValidator(_redfish_url)]
type Command = Annotated[str, Field(min_length=1, max_length=4096)]
type AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
type Patience = Annotated[Seconds, Field(gt=0, le=7200)]


class HostPowerSettings(FileModel):
    """How one host is switched on and off. Passwords are never in here, only in files."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    redfish: RedfishUrl | None = None
    """Its management controller (BMC), such as `https://bmc1.example.org`; where that has several
    systems, with the path of one: `https://bmc1.example.org/redfish/v1/Systems/1`."""
    user: Name | None = None
    """Whom to log in as there."""
    password_file: AbsolutePath | None = None
    """A file with the password and nothing else, which not everybody may read."""
    ca_file: AbsolutePath | None = None
    """Certificates that the BMC's own one is checked by. Default: those that the machine trusts."""
    check_certificate: bool = True
    """`false` believes whoever answers, and sends them the password."""
    wake_command: Command | None = None
    """In place of `redfish`: a shell command that switches the host on, for IPMI or Wake-on-LAN.
    It finds the host's name in `$REBALANCER_HOST`. Passwords belong into files that it reads."""
    sleep_command: Command | None = None
    """A shell command that asks its system to shut down, such as
    `ipmitool -H bmc1 -U ops -f /etc/rebalancer/bmc1 chassis power soft`."""
    state_command: Command | None = None
    """A shell command that prints the word `on` or `off`, such as `ipmitool … chassis power
    status`. Without it a host can be woken, but not put to sleep."""

    @model_validator(mode="after")
    def _makes_sense(self) -> HostPowerSettings:
        has_commands = any((self.wake_command, self.sleep_command, self.state_command))
        if self.redfish is None and self.wake_command is None:
            raise ValueError("needs redfish or wake_command")
        if self.redfish is not None and has_commands:
            raise ValueError("has both redfish and commands: leave one of them out")
        if self.sleep_command is not None and self.state_command is None:
            raise ValueError("has a sleep_command, so it needs a state_command, too")
        if (self.user is None) != (self.password_file is None):
            raise ValueError("needs both user and password_file, or neither")
        if self.user is not None and self.redfish is None:
            raise ValueError("has a user, whom only redfish needs")
        return self


class PowerSettings(FileModel):
    """Whether and how hosts are switched on and off."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    switch: bool = False
    """Whether what plans say of waking hosts and putting them to sleep is carried out: by the
    daemon where it may act at all (`mode: auto`), and by `apply` and `run --once` with `--yes`.
    `false`: it is only said. Hosts need `power`."""
    sleep_after_cycles: Annotated[int, Field(ge=1, le=10_000)] = 8
    """A host must have been unneeded in so many cycles in a row before it is put to sleep. Waking
    does not wait."""
    boot_seconds: Patience = 600.0
    """A host that was woken and whose libvirt does not answer by then is quarantined: nothing
    touches it until somebody has run `rebalancer power wake` for it."""
    shutdown_seconds: Patience = 600.0
    """The same for a host that was put to sleep and is not off by then."""
    call_timeout_seconds: Annotated[Seconds, Field(gt=0, le=600)] = 30.0
    """How long a BMC or a command may take."""
    cut_power: bool = False
    """Whether the power of a host is cut that was empty, was told to shut down, and hangs in that
    after `shutdown_seconds` although its libvirt has ended. Only with `redfish`."""
    allow_autostart: bool = False
    """Whether a host may be put to sleep that has definitions of VMs with autostart: it starts
    them when it wakes."""
