"""The page about the command line, written from the command itself.

    python -m rebalancer.service.cli_document > docs/cli.md

A test fails when the page is stale.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import typer

from rebalancer.service.cli import app_for

HEAD = """\
# The command line

<!-- Made by `python -m rebalancer.service.cli_document > docs/cli.md`; do not edit. -->

`rebalancer COMMAND --help` says the same. Nothing is changed in a cluster without `--yes`, except
by `run` in `mode: auto`. Results go to standard output, everything else to standard error.
"""


def document() -> str:
    """Write the whole page."""
    return "\n".join([HEAD, *_pages(typer.main.get_command(app_for()), "rebalancer")])


# The classes of commands are not public, as typer brings its own copy of click.
def _pages(command: Any, name: str) -> Iterator[str]:  # noqa: ANN401
    for word, part in getattr(command, "commands", {}).items():
        if hasattr(part, "commands"):
            yield from _pages(part, f"{name} {word}")
        else:
            yield _page(part, f"{name} {word}")


def _page(command: Any, name: str) -> str:  # noqa: ANN401
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = " ".join([name, *(_argument_text(p) for p in arguments)])
    rows = [f"| `{', '.join(p.opts)}` | {p.help or ''} |" for p in options]
    described = [f"`{_argument_text(p)}`: {p.help}\n" for p in arguments if p.help]
    table = ["| option | meaning |", "| --- | --- |", *rows, ""] if rows else []
    return "\n".join([f"## {name}", "", f"    {usage}", "", command.help, "", *described, *table])


def _argument_text(argument: Any) -> str:  # noqa: ANN401
    return str(argument.metavar or argument.name.upper())


if __name__ == "__main__":
    sys.stdout.write(document())
