"""`rebalancer backtest`: what a policy would have done to recorded telemetry."""

from __future__ import annotations

import io
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console

from rebalancer.collect.recorded_use import read_recorded_use
from rebalancer.errors import ExitCode, Fault, InvalidFileError, UsageError
from rebalancer.service import options
from rebalancer.service.access import Where, open_for_reading
from rebalancer.service.backtest_replay import match, replay
from rebalancer.service.backtest_report import render_backtest
from rebalancer.service.config import RunMode
from rebalancer.service.report import Format
from rebalancer.service.session import Session, observe, open_session, policy_for

Trace = Annotated[
    Path,
    typer.Option(
        "--trace",
        metavar="FILE",
        help="Recorded CPU use: CSV, or what Prometheus answered to a range query.",
    ),
]
Every = Annotated[
    float | None,
    typer.Option(
        "--every",
        parser=options.seconds,
        metavar="DURATION",
        help="From one cycle to the next; default: daemon.interval_seconds of the settings, or "
        "the hours of the policy.",
    ),
]
CYCLES_AT_MOST = 20_000
"""Ten weeks of five minutes each. More are hours of solving, and usually a slip in the file."""
VmLabel = Annotated[
    str | None,
    typer.Option(
        "--vm-label",
        metavar="LABEL",
        help="The label with the VM's id or name in what Prometheus answered; default: "
        "prometheus.vm_label of the settings.",
    ),
]


def backtest(
    trace: Trace,
    policy: options.PolicyFile = None,
    config: options.Config = None,
    scenario: options.FromScenario = None,
    snapshot: options.FromSnapshot = None,
    every: Every = None,
    vm_label: VmLabel = None,
    solver_time: options.SolveTime = None,
    output: options.Output = Format.TABLE,
    wide: options.Wide = False,
) -> ExitCode:
    """Play recorded telemetry to a policy in a simulated cluster, beside doing nothing.

    The cluster is the one that the daemon would look after, or that of --snapshot or --scenario,
    as it is at the first sample. Nothing is changed, and no journal is written.
    """
    asked = open_session(config)
    read = open_for_reading(asked.settings, Where(scenario=scenario, snapshot=snapshot))
    in_force = policy_for(asked, read, policy)
    label = vm_label or asked.settings.prometheus.vm_label
    use = read_recorded_use(trace, label)
    seen = observe(asked, read)
    matched = match(seen, use)
    if not matched.cores and set(use.cores) & {key for vm in seen.vms for key in (vm.id, vm.name)}:
        raise InvalidFileError(
            [
                Fault(
                    file=str(trace),
                    problem=f"no sample of any VM of cluster {seen.cluster} is a number",
                    expected="expected cores for one of them at least; names that several VMs "
                    "have do not count",
                )
            ]
        )
    if not matched.cores:
        known = ", ".join(sorted(vm.name for vm in seen.vms)[:5])
        raise InvalidFileError(
            [
                Fault(
                    file=str(trace),
                    problem=f"none of its {len(use.cores)} VMs is in cluster {seen.cluster}",
                    expected=f"expected ids or names such as {known}; it has "
                    f"{', '.join(sorted(use.cores)[:5])}",
                )
            ]
        )
    pace = every if every is not None else asked.settings.daemon.interval_seconds
    if pace < 1 or pace > use.seconds:
        raise UsageError(
            f"--every {pace:g} s: expected 1 s to the {use.seconds:g} s that were recorded"
        )
    if use.seconds / pace > CYCLES_AT_MOST:
        raise UsageError(
            f"{use.seconds / 86400:,.0f} days of recordings at --every {pace:g} s are "
            f"{use.seconds / pace:,.0f} cycles, expected up to {CYCLES_AT_MOST:,}: take a longer "
            "--every or a shorter file, and look whether a sample in it has the wrong year"
        )
    with TemporaryDirectory(prefix="rebalancer-backtest-") as folder:
        flags: dict[str, object] = {
            "journal": f"sqlite:///{Path(folder) / 'journal.db'}",
            "cluster": seen.cluster,
            "mode": RunMode.AUTO,
            "daemon__interval_seconds": pace,
            "placement__executor": "serial",
            "power__switch": True,
        }
        if solver_time is not None:
            flags["placement__time_limit_seconds"] = solver_time
        settings = open_session(config, **flags).settings
        # What cycles remark on would be the remarks of another day.
        quiet = Session(settings=settings, out=asked.out, err=Console(file=io.StringIO()))
        done = replay(quiet, seen, in_force, use, matched)
    render_backtest(done, output, asked.out, wide=wide)
    return ExitCode.ERROR if done.troubles else ExitCode.SUCCESS
