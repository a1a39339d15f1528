"""The `rebalancer` command: its subcommands, and how errors become messages and exit codes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

import typer
from rich.console import Console
from typer.exceptions import Abort, TyperException

from rebalancer import __version__
from rebalancer.errors import ExitCode, RebalancerError
from rebalancer.service import (
    acting,
    approving,
    backtest,
    doctor,
    draining,
    explaining,
    looking,
    migrating,
    power_commands,
    recovering,
    rehearsal,
    steering,
)

app = typer.Typer(
    name="rebalancer",
    help="Keep VMs where they belong on KVM hosts that run plain libvirt. "
    "Nothing is changed without --yes.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(help="Settings.", no_args_is_help=True)
app.add_typer(config_app, name="config")
power_app = typer.Typer(help="Hosts switched on and off.", no_args_is_help=True)
app.add_typer(power_app, name="power")


@app.callback(invoke_without_command=True)
def _main(
    version: bool = typer.Option(False, "--version", help="Say which version this is."),
) -> None:
    if version:
        typer.echo(f"rebalancer {__version__}")
        raise typer.Exit


for name, command in (
    ("plan", looking.plan),
    ("apply", acting.apply),
    ("run", acting.run),
    ("drain", draining.drain),
    ("undrain", draining.undrain),
    ("migrate", migrating.migrate),
    ("status", looking.status),
    ("history", looking.history),
    ("show", looking.show),
    ("explain", explaining.explain),
    ("snapshot", looking.take_snapshot),
    ("simulate", rehearsal.simulate),
    ("backtest", backtest.backtest),
    ("validate", looking.validate),
    ("doctor", doctor.doctor),
    ("recover", recovering.recover),
    ("approve", approving.approve),
    ("reject", approving.reject),
    ("pause", steering.pause),
    ("resume", steering.resume),
    ("cancel", steering.cancel),
    ("throttle", steering.throttle),
):
    app.command(name)(command)
config_app.command("show")(looking.show_config)
power_app.command("status")(power_commands.status)
power_app.command("wake")(power_commands.wake_hosts)
power_app.command("sleep")(power_commands.sleep_hosts)
power_app.command("history")(power_commands.history)


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
    try:
        result = app(arguments, standalone_mode=False)
    except RebalancerError as error:
        return _fail(str(error), error.exit_code)
    except TyperException as error:
        message = error.format_message()
        if message.startswith("Usage:"):  # a group of commands without a command
            typer.echo(message, err=True)
            return ExitCode.USAGE
        return _fail(f"{message}\ntry: rebalancer --help", ExitCode.USAGE)
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


def _give_up_output() -> None:
    # Python would try again at exit, and complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: ExitCode) -> int:
    Console(stderr=True, soft_wrap=True).print(
        f"rebalancer: {message}", highlight=False, markup=False
    )
    return code
