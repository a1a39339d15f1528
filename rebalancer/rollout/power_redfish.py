"""A host that is switched by its management controller (BMC), through Redfish.

The only module that knows sushy. A host is asked to shut down; its power is cut only by
`PowerSwitch.cut`, which nobody calls unless the operator allows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rebalancer.errors import RolloutError
from rebalancer.rollout.power import PowerState, PowerSwitchError

CONNECT_SECONDS = 10.0
_SYSTEMS = "/Systems/"
_NONSENSE = (ValueError, LookupError, TypeError, AttributeError)
"""What sushy stumbles over when a BMC answers something else than Redfish."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedfishAddress:
    """Where a BMC is and how to log in. The password stays in its file until it is needed."""

    url: str
    """`https://bmc1`, or with the path of one system where there are several."""
    user: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    """Certificates to trust; `None`: those that the machine trusts."""
    checks_certificate: bool = True

    @property
    def root(self) -> str:
        """The server without any path."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def system(self) -> str | None:
        """The path of the system; `None`: the only one that there is."""
        path = urlsplit(self.url).path.rstrip("/")
        return path if _SYSTEMS in path else None


class RedfishSwitch:
    """Switches one host. Connects anew for each call: there is one call in minutes."""

    def __init__(self, address: RedfishAddress, call_seconds: float) -> None:
        """Take the address, and how long a BMC may take to answer."""
        self._address = address
        self._call_seconds = call_seconds
        self._sushy = _import_sushy()

    def state(self) -> PowerState:
        """Whether the host has power."""
        with self._system() as system:
            return self._state_of(system)

    def wake(self) -> None:
        """Switch it on; nothing happens when it is on."""
        with self._system() as system:
            if self._state_of(system) is not PowerState.ON:
                self._reset(system, self._sushy.ResetType.ON)

    def sleep(self) -> None:
        """Ask its system to shut down; nothing happens when it is off."""
        with self._system() as system:
            if self._state_of(system) is not PowerState.OFF:
                self._reset(system, self._sushy.ResetType.GRACEFUL_SHUTDOWN)

    def cut(self) -> None:
        """Take its power."""
        with self._system() as system:
            self._reset(system, self._sushy.ResetType.FORCE_OFF)

    def _state_of(self, system: Any) -> PowerState:  # noqa: ANN401  sushy has no types
        known = {
            self._sushy.PowerState.ON: PowerState.ON,
            self._sushy.PowerState.OFF: PowerState.OFF,
        }
        return known.get(system.power_state, PowerState.UNKNOWN)

    def _reset(self, system: Any, kind: Any) -> None:  # noqa: ANN401
        offered = system.get_allowed_reset_system_values()
        if kind not in offered:
            names = ", ".join(sorted(each.value for each in offered))
            raise PowerSwitchError(
                f"{self._address.root} does not offer {kind.value}, only {names}; "
                "give the host commands instead of `redfish`"
            )
        system.reset_system(kind)

    @contextmanager
    def _system(self) -> Iterator[Any]:
        """Reach the system; whatever goes wrong is told as one sentence without secrets."""
        address = self._address
        try:
            root = self._sushy.Sushy(
                address.root,
                verify=str(address.ca_file) if address.ca_file else address.checks_certificate,
                auth=self._auth(),
                read_timeout=self._call_seconds,
                connect_timeout=min(CONNECT_SECONDS, self._call_seconds),
                server_side_retries=1,
                server_side_retries_delay=1,
            )
            yield root.get_system(address.system)
        except (self._sushy.exceptions.SushyError, OSError, *_NONSENSE) as error:
            raise PowerSwitchError(f"{address.root}: {error}") from error

    def _auth(self) -> Any:  # noqa: ANN401
        """Basic authentication: a session would be left on the BMC by each call that is cut."""
        if self._address.user is None:
            return _anonymous(self._sushy)
        password = _password(self._address.password_file)
        return self._sushy.auth.BasicAuth(self._address.user, password)


def _anonymous(sushy: Any) -> Any:  # noqa: ANN401
    """What logs in as nobody: sushy has none, and would send an empty name."""

    class Anonymous(sushy.auth.AuthBase):  # type: ignore[misc]
        def _do_authenticate(self) -> None:
            pass

        def can_refresh_session(self) -> bool:
            return False

    return Anonymous()


def _password(file: Path | None) -> str:
    """Read a password anew each time, so that it can be changed while the daemon runs."""
    if file is None:
        return ""
    try:
        is_open = file.stat().st_mode & 0o007
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PowerSwitchError(f"the password cannot be read from {file}: {error}") from error
    if is_open:
        raise PowerSwitchError(f"everybody may use the password file {file}: chmod o= {file}")
    return text.rstrip("\r\n")


def _import_sushy() -> Any:  # noqa: ANN401
    try:
        import sushy
        import sushy.auth
        import sushy.exceptions
    except ImportError as error:
        raise RolloutError(
            "Redfish needs sushy: pip install 'vm-rebalancer[redfish]', or give the hosts "
            "commands instead"
        ) from error
    return sushy
