"""The lab for people: `python -m tests.lab up`, look at it, break it, take it `down` again."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab import requirements
from tests.lab.cluster import Lab, claim
from tests.lab.configuration import write_config
from tests.lab.errors import LabError
from tests.lab.guest import GuestSpec
from tests.lab.shape import MIB, LabShape, default_state_dir

if TYPE_CHECKING:
    from collections.abc import Sequence

_LISTEN_SECONDS = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command and return the exit code."""
    options = _parser().parse_args(arguments)
    # Told to end, `up` undoes what it did, as when interrupted from the keyboard.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return int(options.command(options))
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


def check(_options: argparse.Namespace) -> int:
    """Say in one line whether the lab can run here."""
    obstacle = requirements.find_obstacle()
    _say(obstacle or "the lab can run here")
    return 0 if obstacle is None else 1


def install(_options: argparse.Namespace) -> int:
    """Install what the lab needs."""
    requirements.install()
    return 0


def up(options: argparse.Namespace) -> int:
    """Start a lab, or reuse the one that runs, and say what to do with it."""
    shape = LabShape(
        prefix=options.prefix,
        hosts=options.hosts,
        network=options.network,
        shared_storage=options.shared_storage,
    )
    with claim(options.prefix):
        running = Lab.attach(_state_dir(options))
        if running is not None and running.shape != shape:
            raise LabError("a lab of another shape runs; first: python -m tests.lab down")
        lab = running or Lab.start(shape, state_dir=_state_dir(options))
        try:
            lab.heal()
            hosts = lab.hosts[:1] if options.pile_up else lab.hosts
            missing = options.guests - len(lab.guests)
            lab.start_guests(missing, GuestSpec(memory_bytes=options.memory_mib * MIB), hosts=hosts)
        except BaseException:
            if running is None:
                lab.stop()
            raise
        config = lab.state_dir / "rebalancer.yaml"
        write_config(lab, config)
        _say(_invitation(lab, config))
        lab.close()
    return 0


def demo(options: argparse.Namespace) -> int:
    """Leave the daemon alone with three hosts, a Prometheus and load, and tell what it does."""
    # It needs more than the other commands do.
    from tests.lab.story import demonstrate
    from tests.prometheus.server import BINARY

    if BINARY is None:
        raise LabError("this needs `prometheus`: apt-get install prometheus")
    shape = LabShape(prefix=options.prefix, hosts=3, network=options.network)
    with (
        claim(options.prefix),
        Lab.start(shape, state_dir=_state_dir(options)) as lab,
        tempfile.TemporaryDirectory(prefix="rebalancer-demo-") as folder,
    ):
        return 0 if demonstrate(lab, Path(folder), _say) else 1


def down(options: argparse.Namespace) -> int:
    """Remove a lab, also one that came up only half way."""
    with claim(options.prefix):
        lab = Lab.attach(_state_dir(options)) or Lab.find_orphan(options.prefix)
        if lab is None:
            _say(f"no lab in {_state_dir(options)}")
            return 0
        lab.stop()
        for trace in lab.traces():
            sys.stderr.write(f"left behind: {trace}\n")
        _say(f"lab {lab.shape.prefix} removed")
        return 1 if lab.traces() else 0


def status(options: argparse.Namespace) -> int:
    """Show the hosts, and the guests with what their heartbeats say."""
    lab = _running_lab(options)
    for host in lab.hosts:
        _say(f"{host.name}  {host.uri}  {'answers' if host.answers() else 'DOES NOT ANSWER'}")
    guests = lab.guests
    lab.listen(_LISTEN_SECONDS)
    for guest in guests:
        report = guest.heartbeat.report()
        places = " and ".join(host.name for host in guest.hosts_running()) or "nowhere"
        _say(
            f"{guest.name}  {guest.address}  on {places}  {report.beats} beats, "
            f"longest gap {report.longest_gap_seconds * 1000:.0f} ms"
        )
    lab.close()
    return 0


def load(options: argparse.Namespace) -> int:
    """Set how hard a guest works."""
    lab = _running_lab(options)
    for guest in lab.guests:
        if guest.name == options.guest:
            guest.set_cpu_load(options.cpu)
            guest.set_dirty_rate(options.dirty)
            lab.close()
            return 0
    lab.close()
    raise LabError(f"no guest {options.guest}; python -m tests.lab status lists them")


def _running_lab(options: argparse.Namespace) -> Lab:
    lab = Lab.attach(_state_dir(options))
    if lab is None:
        raise LabError(f"no lab in {_state_dir(options)}; first: python -m tests.lab up")
    return lab


def _state_dir(options: argparse.Namespace) -> Path:
    return options.state_dir or default_state_dir(options.prefix)


def _invitation(lab: Lab, config: Path) -> str:
    rebalancer = _program("rebalancer")
    lab_command = f"{_program('python')} -m tests.lab"
    size = f"{len(lab.hosts)} hosts, {len(lab.guests)} guests"
    return f"""\
lab {lab.shape.prefix} is up: {size}. Its configuration file:

    {config}

Try:

    {rebalancer} plan --config {config}
    {rebalancer} drain {lab.hosts[0].name} --config {config}
    virsh --connect {lab.hosts[0].uri} list --all
    {lab_command} status{_prefix_option(lab)}
    {lab_command} load vm1 --cpu 0.8 --dirty 5000000{_prefix_option(lab)}
    {lab_command} down{_prefix_option(lab)}"""


def _program(name: str) -> str:
    """How to call a program of this Python's environment from here."""
    program = Path(sys.executable).with_name(name)
    if shutil.which(name) == str(program):
        return name
    return str(program.relative_to(Path.cwd()) if Path.cwd() in program.parents else program)


def _prefix_option(lab: Lab) -> str:
    return "" if lab.shape == LabShape(hosts=lab.shape.hosts) else f" --prefix {lab.shape.prefix}"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for function in (check, install, up, demo, down, status, load):
        command = commands.add_parser(function.__name__, help=function.__doc__)
        command.set_defaults(command=function)
        if function in (up, demo, down, status, load):
            prefix = "demo" if function is demo else "lab"
            command.add_argument("--prefix", default=prefix, help="tells labs apart (%(default)s)")
            command.add_argument("--state-dir", type=Path, help="default: in /run")
        if function is up:
            _add_shape_options(command)
        if function is demo:
            command.add_argument("--network", default="10.79.0.0/24", help="an unused /24")
        if function is load:
            command.add_argument("guest")
            command.add_argument("--cpu", type=float, default=0, help="share of its vCPU, 0 to 1")
            command.add_argument("--dirty", type=float, default=0, help="bytes per second")
    return parser


def _add_shape_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--hosts", type=int, default=3, help="%(default)s")
    command.add_argument("--guests", type=int, default=6, help="%(default)s")
    command.add_argument("--network", default="10.78.0.0/24", help="an unused /24 (%(default)s)")
    command.add_argument("--memory-mib", type=int, default=96, help="of each guest (%(default)s)")
    command.add_argument("--pile-up", action="store_true", help="all guests on the first host")
    command.add_argument("--shared-storage", action="store_true", help="for guests with disks")


if __name__ == "__main__":
    sys.exit(main())
