"""The options that several commands share, each worded once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field, TypeAdapter, ValidationError

from rebalancer.files.quantities import Ratio, Seconds
from rebalancer.service.report import Format

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Settings file; default: $REBALANCER_CONFIG, else /etc/rebalancer/rebalancer.yaml.",
    ),
]
FromScenario = Annotated[
    Path | None, typer.Option("--scenario", help="Take this simulated cluster.")
]
FromSnapshot = Annotated[
    Path | None, typer.Option("--snapshot", help="Take the cluster from a saved snapshot.")
]
PolicyFile = Annotated[
    Path | None, typer.Option("--policy", help="Policy file; default: the configured one.")
]
Output = Annotated[Format, typer.Option("-o", "--output", help="What to write to standard output.")]
Wide = Annotated[bool, typer.Option("--wide", help="Show every host and step.")]
Yes = Annotated[bool, typer.Option("--yes", help="Really do it; without, only say what.")]
Probe = Annotated[
    bool,
    typer.Option(
        "--probe",
        help="Measure anew how fast the VMs write that are to move; for that, and only for that, a "
        "connection that may write is opened.",
    ),
]
SolveTime = Annotated[
    float | None,
    typer.Option("--solver-time", min=0.1, help="Seconds to look for a placement."),
]
AllowCold = Annotated[
    bool,
    typer.Option("--allow-cold", help="VMs that cannot be moved alive may be shut down."),
]
PlanOut = Annotated[
    Path | None, typer.Option("--out", help="Save the plan here, for `rebalancer apply`.")
]
DetailedExitCode = Annotated[
    bool, typer.Option("--detailed-exitcode", help="Exit with 2 if the plan is not empty.")
]


def seconds(text: str) -> float:
    """Read a duration as files write it: `90s`, `5m`, `2h`."""
    return _read(TypeAdapter[float](Seconds), text)


def ratio(text: str) -> float:
    """Read a share as policies write it: `30%` or `0.3`, more than nothing and at most all."""
    return _read(TypeAdapter[float](Annotated[Ratio, Field(gt=0, le=1)]), text)


def _read(quantity: TypeAdapter[float], text: str) -> float:
    try:
        return quantity.validate_python(text)
    except ValidationError as error:
        raise typer.BadParameter(f"{text} {error.errors()[0]['msg']}") from error


Deadline = Annotated[
    float | None,
    typer.Option(
        "--deadline",
        parser=seconds,
        metavar="DURATION",
        help="Refuse unless everything is over by then (30m, 2h) even if every migration takes "
        "as long as its band reaches; the VMs that may be late are named.",
    ),
]

BackWithin = Annotated[
    float | None,
    typer.Option(
        "--back-within",
        parser=seconds,
        metavar="DURATION",
        help="With --rolling: how long hosts may take until they answer again; default: 30m.",
    ),
]
