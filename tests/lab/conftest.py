"""Fixtures: `lab`, three hosts for all tests; `start_guest`, guests of a test; `site`, a driver."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.lab import requirements
from tests.lab.cluster import Lab, claim
from tests.lab.errors import LabError
from tests.lab.guest import GuestSpec
from tests.lab.shape import LabShape, default_state_dir
from tests.lab.site import Site, runs_as_it_should

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.guest import LabGuest
    from tests.lab.host import LabHost

# Sessions that run at once (two developers, or pytest-xdist) each take a free one of these.
_SESSION_SHAPES = tuple(
    LabShape(prefix=f"lab{letter}", network=f"10.78.{number}.0/24")
    for number, letter in enumerate("abcdefgh", start=1)
)


class StartGuest(Protocol):
    """Starts a guest on a host and returns once it beats."""

    def __call__(self, host: LabHost, spec: GuestSpec | None = None) -> LabGuest:
        """Start it."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark whatever needs the lab, so that nobody forgets to."""
    for item in items:
        if "lab_shape" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.lab)


@pytest.fixture(scope="session")
def lab_shape() -> Iterator[LabShape]:
    """A shape that no other session on this machine uses as long as this one runs.

    Skips the test if the machine cannot run the lab; fails it where there is no excuse, in CI.
    """
    obstacle = requirements.find_obstacle()
    if obstacle is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must run the lab: {obstacle}", pytrace=False)
        pytest.skip(obstacle)
    with contextlib.ExitStack() as claims:
        # Told to end (a CI job's time is over), a session removes its lab like an interrupted one.
        handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
        claims.callback(signal.signal, signal.SIGTERM, handler)
        for shape in _SESSION_SHAPES:
            with contextlib.suppress(LabError):
                claims.enter_context(claim(shape.prefix))
                break
        else:
            pytest.fail(f"{len(_SESSION_SHAPES)} test sessions use the lab already")
        leftover = Lab.attach(default_state_dir(shape.prefix)) or Lab.find_orphan(shape.prefix)
        if leftover is not None:  # of a session that was killed
            leftover.stop()
        yield shape


@pytest.fixture(scope="session")
def session_lab(lab_shape: LabShape) -> Iterator[Lab]:
    """The session's lab; tests use `lab`."""
    with Lab.start(lab_shape) as lab:
        yield lab


@pytest.fixture
def lab(session_lab: Lab) -> Iterator[Lab]:
    """A lab of three hosts, whole at the beginning of each test: a fault ends with its test."""
    yield session_lab
    session_lab.heal()


@pytest.fixture
def start_guest(lab: Lab) -> Iterator[StartGuest]:
    """Starts guests. After the test they are removed, wherever they then are, in whatever state."""
    with contextlib.ExitStack() as removals:

        def start(host: LabHost, spec: GuestSpec | None = None) -> LabGuest:
            guest = lab.start_guest(host, spec)
            removals.callback(lab.remove_guest, guest)
            lab.wait_for_boot([guest])
            return guest

        yield start


@pytest.fixture
def site(lab: Lab, tmp_path: Path) -> Iterator[Site]:
    """A driver of the lab's hosts and a journal of the test's own."""
    found = Site(lab, tmp_path)
    yield found
    found.close()


class KeepGuest(Protocol):
    """Returns a guest that beats, on whatever host, under the load that its spec says."""

    def __call__(self, spec: GuestSpec | None = None) -> LabGuest:
        """Take the one of an earlier test of the module, if it is well; else start it."""


@pytest.fixture(scope="module")
def kept_guests(session_lab: Lab) -> Iterator[dict[str, LabGuest]]:
    """What `keep_guest` keeps from one test of a module to the next, by what it is made of."""
    kept: dict[str, LabGuest] = {}
    yield kept
    for guest in kept.values():
        session_lab.remove_guest(guest)


@pytest.fixture
def keep_guest(lab: Lab, kept_guests: dict[str, LabGuest]) -> KeepGuest:
    """Guests that a module shares: to boot one each would take longest.

    One that a test left in a bad way is replaced. Others of the module do not run meanwhile: they
    would take CPU and memory from it.
    """

    def keep(spec: GuestSpec | None = None) -> LabGuest:
        made_of = repr(spec := spec or GuestSpec())
        for other in set(kept_guests) - {made_of}:
            lab.remove_guest(kept_guests.pop(other))
        guest = kept_guests.get(made_of)
        if guest is not None and runs_as_it_should(guest):
            guest.set_dirty_rate(spec.dirty_bytes_per_second)
            guest.set_cpu_load(spec.cpu_load_ratio)
            return guest
        if guest is not None:
            lab.remove_guest(guest)
        kept_guests[made_of] = lab.start_guest(lab.hosts[0], spec)
        lab.wait_for_boot([kept_guests[made_of]])
        return kept_guests[made_of]

    return keep


@pytest.fixture
def guest(keep_guest: KeepGuest) -> LabGuest:
    """The smallest guest, running somewhere, shared by a module."""
    return keep_guest()
