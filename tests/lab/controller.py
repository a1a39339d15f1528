"""A controller in a process of its own that stands still where it is told to, to be killed there.

`python -m tests.lab.controller ERRAND` carries a plan out as `rebalancer apply` does, with the same
executor, driver and journal. It says on its standard output when it has come to the stage that
the errand names, and then does nothing more, as if it had been stopped between two instructions.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, override

from rebalancer.cluster.inventory import HostId
from rebalancer.cluster.plan import MigrationState
from rebalancer.collect.snapshot_file import read_snapshot, write_snapshot
from rebalancer.rollout.driver import Command, Ticket
from rebalancer.rollout.events import Event, Progress, StageChanged
from rebalancer.rollout.executor import execute
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.libvirt_connections import HostAddress
from rebalancer.rollout.libvirt_driver import LibvirtDriver
from rebalancer.service.clock import SystemClock
from rebalancer.service.plan_file import read_plan, write_plan
from tests.lab.deadline import call_within

if TYPE_CHECKING:
    from rebalancer.cluster.inventory import Snapshot
    from rebalancer.cluster.plan import Plan
    from tests.lab.site import Site

STANDS_STILL = "stands still"
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """What a controller is to do, and how far it gets."""

    journal: str
    plan: str
    """The file with the plan."""
    snapshot: str
    hosts: Mapping[str, str]
    """libvirt's address of each host."""
    stops_in: MigrationState | None = None
    """The stage in which it stops: transfer means that memory was seen to flow."""
    stops_before: str = ""
    """Or a command, by its class: its intent is in the journal, and it is never issued."""


class StoppingDriver(LibvirtDriver):
    """Never issues a certain command."""

    never = ""

    @override
    def issue(self, command: Command) -> Ticket:
        if type(command).__name__ == self.never:
            _stand_still()
        return super().issue(command)


def _stand_still() -> None:
    print(STANDS_STILL, flush=True)
    while True:
        signal.pause()


def run(errand: Errand) -> None:
    """Carry the plan out, up to where the errand ends."""

    def watch(event: Event) -> None:
        print(event, flush=True)
        if errand.stops_in is MigrationState.TRANSFER:
            is_there = isinstance(event, Progress)  # memory was seen to flow
        else:
            is_there = isinstance(event, StageChanged) and event.after is errand.stops_in
        if is_there:
            _stand_still()

    clock = SystemClock()
    addresses = {HostId(name): HostAddress(uri=uri) for name, uri in errand.hosts.items()}
    driver = StoppingDriver(addresses, clock)
    driver.never = errand.stops_before
    with Journal.open(errand.journal, clock) as journal:
        execute(
            read_plan(errand.plan),
            driver=driver,
            clock=clock,
            journal=journal,
            snapshot=read_snapshot(errand.snapshot),
            plan_text=Path(errand.plan).read_text(),
            on_event=watch,
        )


class Controller:
    """Such a process, as the test that kills it sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Hold on to a process that was started; use `start`."""
        self._process = process

    @classmethod
    def start(cls, errand: Errand, folder: Path) -> Self:
        """Send a controller on an errand, which is written to `folder`."""
        file = folder / "errand.json"
        file.write_text(json.dumps(asdict(errand)))
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.lab.controller", str(file)],
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        return cls(process)

    def wait_until_it_stands_still(self) -> None:
        """Return once it has come to the stage at which it stops.

        Raises:
            DeadlineError: it did not get there.
        """
        call_within(120, self._read_up_to_there, what="the controller")

    def kill(self) -> None:
        """End it with SIGKILL, and return when nothing is left of it."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read_up_to_there(self) -> None:
        assert self._process.stdout is not None
        said = []
        for line in self._process.stdout:
            if line.strip() == STANDS_STILL:
                return
            said.append(line)
        raise AssertionError(f"the controller ended before: {''.join(said)}")


def kill_a_controller(site: Site, plan: Plan, snapshot: Snapshot, **stops: Any) -> None:
    """Let one carry a plan out, up to where it stops, and kill it there."""
    write_plan(plan, site.folder / "plan.json")
    write_snapshot(snapshot, site.folder / "snapshot.json")
    errand = Errand(
        journal=site.url,
        plan=str(site.folder / "plan.json"),
        snapshot=str(site.folder / "snapshot.json"),
        hosts={host.name: host.uri for host in site.lab.hosts},
        **stops,
    )
    controller = Controller.start(errand, site.folder)
    try:
        controller.wait_until_it_stands_still()
    finally:
        controller.kill()


if __name__ == "__main__":
    tree = json.loads(Path(sys.argv[1]).read_text())
    stage = MigrationState(tree["stops_in"]) if tree["stops_in"] else None
    run(Errand(**{**tree, "stops_in": stage}))
