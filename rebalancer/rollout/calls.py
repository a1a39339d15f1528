"""Calls to hypervisors under way, and the replies that come of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime

from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.rollout.driver import (
    Failed,
    MoveDefinition,
    Pending,
    Reply,
    Restore,
    Returned,
    Save,
    Start,
)
from rebalancer.rollout.left_over_commands import DiskFile, NoDiskFile
from rebalancer.rollout.sightings import HostView, Sighting, TransferProgress, Unreachable

NO_DOMAIN, OPERATION_INVALID = 42, 55
"""libvirt's numbers for a domain that is not there, and for what makes no sense in its state."""

VAGUE_CODES = frozenset({1, 5, 38, 39})
"""libvirt's numbers for errors that a lost connection brings, among others: INTERNAL_ERROR,
NO_CONNECT, SYSTEM_ERROR, RPC. What was asked for may still be going on."""

FROM_QEMU = 10
"""libvirt's number for errors of its QEMU driver, which is on the host. Those of the way there
come from elsewhere: its RPC, its remote driver, ssh."""

_UNSEEN = frozenset(kind.__name__ for kind in (Save, Restore, Start, MoveDefinition))
"""Commands of which nothing is to be seen before they take effect, and that do harm when they do
so late. A transfer shows its job; a guest may shut down at any time anyway."""


def may_still_happen(command: str, failed: Failed) -> bool:
    """Whether a command that failed so may be carried out after all, unseen until it is.

    `command` is the name of its class. Until that is out of the question nothing may be done that
    must not come together with it: to start the guest elsewhere, say.
    """
    may_have_broken_off = failed.code in VAGUE_CODES and not failed.is_from_host
    return failed.timed_out or (may_have_broken_off and command in _UNSEEN)


class NoConnectionError(Exception):
    """No connection came about, so nothing was asked for over it.

    That is known by where it failed. The error itself proves nothing: libvirt's client says
    "client socket is closed", for one, of requests that it did not send and of some that it did.
    So only this is taken for proof, and every other broken connection is waited out.
    """


class RefusedError(Exception):
    """We do not do it: it makes no sense in this state, or could lose something."""

    def __init__(self, why: str, code: int | None = OPERATION_INVALID) -> None:
        super().__init__(why)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call, its thread and its time limit."""

    name: str
    future: Future[TransferProgress | DiskFile | NoDiskFile | None]
    since: datetime
    limit_seconds: float

    def reply(self, now: datetime, libvirt_error: type[Exception]) -> Reply:
        """Tell what became of it."""
        if not self.future.done():
            waited = (now - self.since).total_seconds()
            if waited < self.limit_seconds:
                return Pending()
            return Failed(text=f"{self.name} got no answer in {waited:.0f} s", timed_out=True)
        error = self.future.exception()
        if error is None:
            return Returned(value=self.future.result())
        if isinstance(error, libvirt_error):
            code: Callable[[], int] = error.get_error_code  # type: ignore[attr-defined]
            origin: Callable[[], int] = error.get_error_domain  # type: ignore[attr-defined]
            return Failed(text=str(error), code=code(), is_from_host=origin() == FROM_QEMU)
        if isinstance(error, NoConnectionError):
            return Failed(text=str(error))
        if isinstance(error, TimeoutError):
            return Failed(text="no connection in time")
        if isinstance(error, RefusedError):
            return Failed(text=f"refused: {error}", code=error.code)
        raise error  # a bug, so let it be loud


@dataclass(frozen=True, slots=True, kw_only=True)
class LookCall:
    """The same question to many hosts; each answers for itself."""

    vm: VmId
    since: datetime
    views: Mapping[HostId, Future[HostView]]

    def reply(self, now: datetime, limit_seconds: float) -> Reply:
        """Tell what the hosts said; after a while those that did not are unreachable."""
        waited = (now - self.since).total_seconds()
        if waited < limit_seconds and not all(view.done() for view in self.views.values()):
            return Pending()
        silent = Unreachable(why=f"no answer in {waited:.0f} s")
        views = {
            host: view.result() if view.done() else silent for host, view in self.views.items()
        }
        return Returned(value=Sighting(vm=self.vm, views=views, seen_at=now))
