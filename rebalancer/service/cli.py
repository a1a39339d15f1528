"""The `rebalancer` command: its subcommands, and how errors become messages and exit codes.

A subcommand is loaded when it is called, which is why they are listed by name here: `plan` should
not wait for the daemon's scheduler to be imported.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Mapping, Sequence

import typer
from rich.console import Console
from typer.exceptions import Abort, TyperException

from rebalancer import __version__
from rebalancer.errors import ExitCode, RebalancerError

COMMANDS: Mapping[str, str] = {
    "plan": "proposing.plan",
    "apply": "acting.apply",
    "run": "acting.run",
    "drain": "draining.drain",
    "undrain": "draining.undrain",
    "migrate": "migrating.migrate",
    "status": "looking.status",
    "history": "looking.history",
    "show": "looking.show",
    "explain": "explaining.explain",
    "snapshot": "looking.take_snapshot",
    "simulate": "rehearsal.simulate",
    "backtest": "backtest.backtest",
    "validate": "looking.validate",
    "doctor": "doctor.doctor",
    "recover": "recovering.recover",
    "leftovers": "left_overs.leftovers",
    "approve": "approving.approve",
    "reject": "approving.reject",
    "pause": "steering.pause",
    "resume": "steering.resume",
    "cancel": "steering.cancel",
    "throttle": "steering.throttle",
    "config show": "looking.show_config",
    "power status": "power_commands.status",
    "power wake": "power_commands.wake_hosts",
    "power sleep": "power_commands.sleep_hosts",
    "power history": "power_commands.history",
}
"""Where in `rebalancer.service` the function of each subcommand is."""
GROUPS: Mapping[str, str] = {"config": "Settings.", "power": "Hosts switched on and off."}


def app_for(arguments: Sequence[str] = ()) -> typer.Typer:
    """The command, with the subcommand that is called first in `arguments`.

    Where none is (help, completion, a misspelt one) it has all of them.
    """
    app = typer.Typer(
        name="rebalancer",
        help="Keep VMs where they belong on KVM hosts that run plain libvirt. "
        "Nothing is changed without --yes.",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback(invoke_without_command=True)(_main)
    called = [name for name in COMMANDS if name.split()[0] in arguments[:1]]
    groups: dict[str, typer.Typer] = {}
    for name in called or COMMANDS:
        *group, word = name.split()
        parent = app
        for title in group:
            if title not in groups:
                groups[title] = typer.Typer(help=GROUPS[title], no_args_is_help=True)
                app.add_typer(groups[title], name=title)
            parent = groups[title]
        module, function = COMMANDS[name].split(".")
        loaded = importlib.import_module(f"rebalancer.service.{module}")
        parent.command(word)(getattr(loaded, function))
    return app


def _main(
    version: bool = typer.Option(False, "--version", help="Say which version this is."),
) -> None:
    if version:
        typer.echo(f"rebalancer {__version__}")
        raise typer.Exit


def program() -> int:
    """Run the command that the shell has started.

    Standard output is for results: what libraries print below Python goes to standard error, where
    it cannot stand in the middle of a plan's JSON.
    """
    if sys.stdout is not None and sys.stderr is not None:  # neither was closed by our parent
        results = os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        sys.stdout = os.fdopen(
            results,
            "w",
            encoding=sys.stdout.encoding,
            errors=sys.stdout.errors,
            buffering=1 if os.isatty(results) else -1,
        )
    return main()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit code; errors are told on standard error."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        result = app_for(given)(given, standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # what goes wrong there is told below
    except RebalancerError as error:
        return _fail(str(error), error.exit_code)
    except TyperException as error:
        message = error.format_message()
        if message.startswith("Usage:"):  # a group of commands without a command
            typer.echo(message, err=True)
            return ExitCode.USAGE
        return _fail(f"{message}\ntry: {_called(error)} --help", ExitCode.USAGE)
    except (Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough (`| head`).
        _give_up_output()
        return ExitCode.SUCCESS
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _give_up_output()
        return _fail(f"the output cannot be written: {error.strerror}", ExitCode.ERROR)
    return int(result or ExitCode.SUCCESS)


def _called(error: TyperException) -> str:
    """The command that somebody misspelt an argument of, as it is called."""
    context = getattr(error, "ctx", None)
    _, *command = context.command_path.split() if context is not None else ("",)
    return " ".join(("rebalancer", *command))


def _give_up_output() -> None:
    # Python would try again at exit, and complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: ExitCode) -> int:
    Console(stderr=True, soft_wrap=True).print(
        f"rebalancer: {message}", highlight=False, markup=False
    )
    return code
