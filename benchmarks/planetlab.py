"""Compare power saving with the policies of CloudSim on its PlanetLab traces.

    python benchmarks/planetlab.py --data DIR --day 20110303 --policy ours [--track A] [--json]

`DIR` holds one `DAY.csv.gz` a day: a line of VM names in sorted order, then a line of per cents
every 5 minutes, one column a VM. 800 hosts, a VM for each column; the model is that of CloudSim
3.0.3's power examples (`planetlab_world`).

Track A is that model as it is: VMs that ask for nothing are deleted, and memory only counts when
they are created. `dvfs`, `thr-mmt` (0.8) and `lr-mmt` (1.2) come out there as CloudSim has them, to
the last digit it prints. Track B is what a real cluster does: idle VMs stay and keep their host on,
and memory counts, for all policies alike. `ours` is the product's forecast, stability rules and
placement, with a policy file like any other: `policies/planetlab.yaml` where CPU is what hosts are
short of (track A), `policies/planetlab-memory.yaml` where that is memory (track B).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.planetlab_accounts import Result
from benchmarks.planetlab_baselines import dvfs, first_fit, least_power, lr_mmt, thr_mmt
from benchmarks.planetlab_product import Ours
from benchmarks.planetlab_world import LEAST_SAMPLES, TRACKS, Rules, Traces, World, simulate
from rebalancer.errors import RebalancerError
from rebalancer.service.policy_file import read_policy

POLICIES = Path(__file__).parent / "policies"
POLICY_FILES = {"A": POLICIES / "planetlab.yaml", "B": POLICIES / "planetlab-memory.yaml"}
"""By track: what hosts are short of is CPU on one, memory on the other."""
BASELINES = {"dvfs": dvfs, "thr-mmt": thr_mmt, "lr-mmt": lr_mmt}
OURS = "ours"
RULES_SAID = {
    "A": "as CloudSim 3.0.3: VMs that ask for nothing are deleted; memory counts at creation only",
    "B": "idle VMs stay and keep their host on; memory counts",
}


def run(traces: Traces, rules: Rules, given: argparse.Namespace) -> tuple[Result, dict[str, Any]]:
    """Simulate a day; return what it came to, and what is to be known about how."""
    world = World(traces, rules)
    began = time.perf_counter()
    if given.policy in BASELINES:
        (first_fit if given.policy == "dvfs" else least_power)(world)
        result = simulate(world, BASELINES[given.policy])
        return result, {"wall_seconds": time.perf_counter() - began}
    least_power(world)
    policy_file = given.policy_file or POLICY_FILES[given.track]
    ours = Ours(world, read_policy(policy_file), solve_seconds=given.time_limit)
    result = simulate(world, ours)
    cycles = sorted(ours.pace.seconds)
    return result, {
        "wall_seconds": time.perf_counter() - began,
        "cycle_seconds_median": cycles[len(cycles) // 2],
        "cycle_seconds_max": cycles[-1],
        "policy_file": policy_file.name,
    }


def lines(given: argparse.Namespace, result: Result, about: dict[str, Any]) -> list[str]:
    """Put a result into words, with the digits that CloudSim's numbers are quoted with."""
    r = result
    said = [
        f"{given.day}, track {given.track}, {given.policy} ({RULES_SAID[given.track]})",
        f"energy             {r.energy_kwh:.2f} kWh",
        f"migrations         {r.migrations}",
        f"SLAV               {r.slav:.5%}",
        f"SLATAH             {r.slatah:.3%}",
        f"PDM                {r.pdm:.4%}",
        f"ESV                {r.esv:.5f}",
        f"host shutdowns     {r.shutdowns}, later switched on {r.switches_on}",
        f"true overload      event {r.overload_event:.3%} (while VMs move"
        f" {r.overload_event_moving:.3%}), continuous {r.overload_continuous:.2%},"
        f" sampled {r.overload_sampled:.2%}",
        f"demand not met     {r.unmet:.4%}",
        f"memory over limit  {r.memory_violations:.1%} of active hosts at decisions",
        f"hosts on           {r.mean_hosts_on:.1f} on average; VMs at the end {r.vms_at_end}",
        f"took               {about['wall_seconds']:.0f} s",
    ]
    if given.policy == OURS:
        said += [
            f"cycles             median {about['cycle_seconds_median']:.2f} s,"
            f" longest {about['cycle_seconds_max']:.2f} s",
            f"policy             {about['policy_file']}",
        ]
    return said


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one policy through one day."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True, help="folder with DAY.csv.gz")
    parser.add_argument("--day", required=True, help="such as 20110303")
    parser.add_argument("--policy", choices=[OURS, *BASELINES], required=True)
    parser.add_argument("--track", choices=sorted(TRACKS), default="A")
    parser.add_argument("--policy-file", type=Path, help="for ours; by track if left out")
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds for a plan, ours")
    parser.add_argument("--samples", type=int, help="of the day, from its start; all if left out")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    file = given.data / f"{given.day}.csv.gz"
    if not file.is_file():
        there = sorted(found.name.removesuffix(".csv.gz") for found in given.data.glob("*.csv.gz"))
        print(f"no {file.name} in {given.data}: expected {', '.join(there) or 'DAY.csv.gz'}")
        return 64
    if given.samples is not None and given.samples < LEAST_SAMPLES:
        print(f"--samples {given.samples}: {LEAST_SAMPLES} are needed")
        return 64
    try:
        traces = Traces.read(file).first(given.samples)
        result, about = run(traces, TRACKS[given.track], given)
    except (RebalancerError, ValueError, OSError, EOFError) as failure:
        print(failure)
        return 64
    if given.json:
        facts = {"day": given.day, "track": given.track, "policy": given.policy}
        rules = {"rules": RULES_SAID[given.track]}
        print(json.dumps({**facts, **rules, **about, **asdict(result)}, indent=1))
    else:
        print("\n".join(lines(given, result, about)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
