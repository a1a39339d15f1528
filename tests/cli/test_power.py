"""`rebalancer power` on libvirt's own test driver, with hosts switched by shell commands."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rebalancer.errors import ExitCode
from tests.cli.conftest import Rebalancer
from tests.lab.deadline import wait_until

libvirt = pytest.importorskip("libvirt")

EMPTY = """
<node>
  <cpu><mhz>2400</mhz><model>x86_64</model><active>16</active><nodes>1</nodes>
    <sockets>1</sockets><cores>16</cores><threads>1</threads></cpu>
  <memory>67108864</memory>
</node>
"""
BUSY = EMPTY.replace(
    "</node>",
    """<domain type="test"><name>db1</name><memory>1048576</memory>
    <uuid>6695eb01-f6a4-8304-79aa-97f2502e1935</uuid>
    <os><type>hvm</type></os></domain></node>""",
)

SHORT = "power: {shutdown_seconds: 0.5, boot_seconds: 0.5}"
GOES_OFF = "rm {xml}; echo off > {file}"
"""libvirt's test driver answers as long as its file is there."""

type Cluster = Callable[..., Path]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """Three hosts whose power is a file each; `h1` is empty, `h3` has a VM."""

    def make(*, power: str = "on", sleep: str = "echo off > {file}", more: str = "") -> Path:
        entries = []
        for name, node in {"h1": EMPTY, "h2": EMPTY, "h3": BUSY}.items():
            xml = tmp_path / f"{name}.xml"
            xml.write_text(node, encoding="utf-8")
            Path(f"{xml}.kept").write_text(node, encoding="utf-8")
            file = tmp_path / f"{name}.power"
            file.write_text(power, encoding="utf-8")
            entries.append(
                f"  - name: {name}\n"
                f"    uri: test://{xml}\n"
                f"    cpu_cores: 16\n"
                f"    memory: 64GiB\n"
                f"    power:\n"
                f"      wake_command: cp {xml}.kept {xml}; echo on > {file}\n"
                f"      sleep_command: {sleep.format(file=file, xml=xml)}\n"
                f"      state_command: cat {file}\n"
            )
        config = tmp_path / "rebalancer.yaml"
        config.write_text(
            "schema_version: 1\n"
            f"journal: sqlite:///{tmp_path / 'journal.db'}\n"
            "collect: {sampling_seconds: 0.1}\n"
            f"{more or SHORT}\n"
            "hosts:\n" + "".join(entries),
            encoding="utf-8",
        )
        return config

    return make


def test_status_asks_power_and_libvirt(rebalancer: Rebalancer, cluster: Cluster) -> None:
    ran = rebalancer("power", "status", "--config", cluster())

    assert ran.code == 0
    assert ran.out.splitlines() == [
        "h1: power on; libvirt answers, 0 VMs with a process",
        "h2: power on; libvirt answers, 0 VMs with a process",
        "h3: power on; libvirt answers, 1 VM with a process",
    ]


def test_without_yes_nothing_is_switched(
    rebalancer: Rebalancer, cluster: Cluster, tmp_path: Path
) -> None:
    ran = rebalancer("power", "sleep", "h1", "--config", cluster())

    assert ran.code == 0
    assert ran.out == "h1: would be put to sleep\n"
    assert "nothing was changed" in ran.err
    assert (tmp_path / "h1.power").read_text() == "on"


def test_a_host_with_a_vm_stays(rebalancer: Rebalancer, cluster: Cluster, tmp_path: Path) -> None:
    config = cluster()

    dry = rebalancer("power", "sleep", "h3", "--config", config)
    real = rebalancer("power", "sleep", "h3", "--config", config, "--yes")

    assert dry.code == real.code == 4
    assert "h3: stays as it is: it has VMs: db1" in dry.out
    assert "h3: it has VMs: db1" in real.out
    assert (tmp_path / "h3.power").read_text() == "on"


def test_power_that_is_off_while_libvirt_answers_ends_in_quarantine(
    rebalancer: Rebalancer, cluster: Cluster
) -> None:
    """As with a BMC that is another machine's: libvirt's test driver never goes away."""
    config = cluster()

    ran = rebalancer("power", "sleep", "h1", "--config", config, "--yes")

    assert ran.code == 4
    assert "quarantined: its power is said to be off and its libvirt answers" in ran.out
    status = rebalancer("power", "status", "h1", "--config", config)
    assert "quarantined since" in status.out


def test_a_host_is_put_to_sleep_and_woken_and_the_way_is_written_down(
    rebalancer: Rebalancer, cluster: Cluster, tmp_path: Path
) -> None:
    config = cluster(sleep=GOES_OFF)

    asleep = rebalancer("power", "sleep", "h1", "--config", config, "--yes")

    assert (asleep.code, asleep.out) == (0, "h1: it is asleep\n")
    assert "power off; libvirt does not answer" in (
        rebalancer("power", "status", "h1", "--config", config).out
    )
    seen = tmp_path / "seen.json"
    assert rebalancer("snapshot", "-o", seen, "--config", config).code == 0
    (h1,) = [h for h in json.loads(seen.read_text())["hosts"] if h["name"] == "h1"]
    assert (h1["state"], h1["cpu_cores"]) == ("asleep", 16)
    another = rebalancer("power", "sleep", "h2", "--config", config)
    assert "too few hosts are awake for min_awake" in another.out

    awake = rebalancer("power", "wake", "h1", "--config", config, "--yes")

    assert (awake.code, awake.out) == (0, "h1: it is awake\n")
    lines = rebalancer("power", "history", "--config", config).out.splitlines()
    assert "waking -> awake" in lines[0]
    assert "is going to be told to sleep" in lines[-1]


@pytest.mark.parametrize(
    ("sleep", "found"),
    [
        ("kill -9 $PPID", "h1: it is awake"),
        (f"{GOES_OFF}; kill -9 $PPID", "h1: it is asleep"),
    ],
)
def test_after_a_kill_in_the_act_the_next_command_looks_at_the_host(
    rebalancer: Rebalancer, cluster: Cluster, sleep: str, found: str
) -> None:
    config = cluster(sleep=sleep)
    command = [sys.executable, "-m", "rebalancer", "power", "sleep", "h1", "--yes"]

    killed = subprocess.run([*command, "--config", config], capture_output=True, check=False)

    assert killed.returncode == -signal.SIGKILL
    status = rebalancer("power", "status", "h1", "--config", config)
    assert "falling asleep since" in status.out
    wait_until(
        lambda: found in rebalancer("power", "sleep", "h3", "--config", config, "--yes").out,
        within_seconds=180,
        what=f"the next command to say: {found}",
    )


def test_the_daemon_puts_what_is_not_needed_to_sleep(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "saving.yaml").write_text(
        "schema_version: 1\nname: saving\ngoals: [{goal: power, min_awake: 2}]\n",
        encoding="utf-8",
    )
    config = cluster(
        sleep=GOES_OFF,
        more="mode: auto\npolicy: saving.yaml\n"
        "placement: {executor: serial}\n"
        "daemon: {interval_seconds: 1, jitter_share: 0}\n"
        "power: {switch: true, sleep_after_cycles: 2}",
    )
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "rebalancer", "run", "--config", config],
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(
            lambda: "h1: it is asleep" in _said(tmp_path / "log") or process.poll() is not None,
            within_seconds=180,
            what="a host to sleep",
        )
    finally:
        process.terminate()
        process.wait(60)
    powers = [(tmp_path / f"{name}.power").read_text().strip() for name in ("h1", "h2", "h3")]
    assert powers == ["off", "on", "on"]


def _said(log: Path) -> str:
    return log.read_text(encoding="utf-8")


def test_waking_ends_a_quarantine(rebalancer: Rebalancer, cluster: Cluster) -> None:
    config = cluster(sleep="'true'")
    assert rebalancer("power", "sleep", "h1", "--config", config, "--yes").code == 4

    ran = rebalancer("power", "wake", "h1", "--config", config, "--yes")

    assert (ran.code, ran.out) == (0, "h1: it is awake\n")
    status = rebalancer("power", "status", "h1", "--config", config)
    assert "quarantined" not in status.out


def test_a_drained_host_is_switched_off_only_if_that_is_said(
    rebalancer: Rebalancer, cluster: Cluster
) -> None:
    config = cluster()
    rebalancer("drain", "h1", "--config", config, "--yes")

    kept = rebalancer("power", "sleep", "h1", "--config", config)
    off = rebalancer("power", "sleep", "h1", "--config", config, "--drained")

    assert "it is drained" in kept.out
    assert off.out == "h1: would be put to sleep\n"


def test_a_paused_cluster_is_not_switched(rebalancer: Rebalancer, cluster: Cluster) -> None:
    config = cluster()
    rebalancer("pause", "--config", config)

    ran = rebalancer("power", "sleep", "h1", "--config", config, "--yes")

    assert ran.code == 4
    assert "is paused" in ran.err


def test_hosts_without_power_in_the_settings_are_named(
    rebalancer: Rebalancer, tmp_path: Path
) -> None:
    config = tmp_path / "plain.yaml"
    config.write_text(
        'schema_version: 1\nhosts: [{name: h1, uri: "test:///default"}]\n', encoding="utf-8"
    )

    ran = rebalancer("power", "wake", "h1", "--config", config, "--yes")

    assert ran.code == 64
    assert "do not say how h1 is switched" in ran.err
    assert rebalancer("power", "wake", "h9", "--config", config).code == 64


@pytest.mark.parametrize(
    ("sleep", "found"),
    [
        ("kill -9 $PPID", "h1: it is awake"),
        (f"{GOES_OFF}; kill -9 $PPID", "h1: it is asleep"),
    ],
)
def test_recover_looks_after_a_host_whose_switching_was_killed(
    rebalancer: Rebalancer, cluster: Cluster, sleep: str, found: str
) -> None:
    config = cluster(sleep=sleep)
    command = [sys.executable, "-m", "rebalancer", "power", "sleep", "h1", "--yes"]
    subprocess.run([*command, "--config", config], capture_output=True, check=False)

    dry = rebalancer("recover", "--config", config)

    assert "h1 is falling asleep since" in dry.out
    assert "nothing was changed" in dry.err
    assert dry.code == ExitCode.UNKNOWN_OUTCOME
    wait_until(
        lambda: found in rebalancer("recover", "--yes", "--config", config).err,
        within_seconds=180,
        what=f"recover to say: {found}",
    )
    assert rebalancer("recover", "--config", config).out == "nothing has to be recovered\n"


SAVING = "schema_version: 1\nname: saving\ngoals: [{goal: power, min_awake: 2}]\n"


@pytest.mark.parametrize("switch", [True, False])
def test_apply_switches_hosts_if_the_settings_let_it(
    rebalancer: Rebalancer, cluster: Cluster, tmp_path: Path, switch: bool
) -> None:
    (tmp_path / "saving.yaml").write_text(SAVING, encoding="utf-8")
    power = f"power: {{switch: {str(switch).lower()}}}"
    config = cluster(sleep=GOES_OFF, more=f"policy: saving.yaml\n{power}")
    plan = tmp_path / "plan.json"
    rebalancer("plan", "--out", plan, "--config", config)

    ran = rebalancer("apply", plan, "--yes", "--config", config)

    assert ran.code == 0
    said = "sleep h1: it is asleep" if switch else "rebalancer power sleep h1 --yes"
    assert said in ran.err
    assert (tmp_path / "h1.power").read_text().strip() == ("off" if switch else "on")


def test_single_cycles_put_hosts_to_sleep_as_slowly_as_the_daemon(
    rebalancer: Rebalancer, cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "saving.yaml").write_text(SAVING, encoding="utf-8")
    config = cluster(
        sleep=GOES_OFF,
        more="policy: saving.yaml\ndaemon: {interval_seconds: 1}\n"
        "power: {switch: true, sleep_after_cycles: 2}",
    )

    first = rebalancer("run", "--once", "--yes", "--config", config)

    assert "it is asleep" not in first.err
    wait_until(
        lambda: "h1: it is asleep" in rebalancer("run", "--once", "--yes", "--config", config).err,
        within_seconds=180,
        what="a later cycle to put h1 to sleep",
    )


def test_hooks_after_a_drain_that_was_killed_in_its_hooks_before_are_run_by_recover(
    rebalancer: Rebalancer, cluster: Cluster, tmp_path: Path
) -> None:
    hooks = {
        "before_drain": [{"command": ["/bin/sh", "-c", "kill -9 $PPID"]}],
        "after_drain": [{"command": ["/bin/sh", "-c", f"cat > {tmp_path}/told"]}],
    }
    config = cluster(more=f"hooks: {json.dumps(hooks)}")
    command = [sys.executable, "-m", "rebalancer", "drain", "h3", "--yes", "--config", str(config)]

    killed = subprocess.run(command, capture_output=True, check=False)
    dry = rebalancer("recover", "--config", config)
    done = rebalancer("recover", "--yes", "--config", config)

    assert killed.returncode == -signal.SIGKILL
    assert "after_drain hooks of h3" in dry.out
    assert dry.code == ExitCode.UNKNOWN_OUTCOME, "a script must not take it for all well"
    assert "were run" in done.err
    told = json.loads((tmp_path / "told").read_text(encoding="utf-8"))
    assert (told["moment"], told["left"]) == ("after_drain", {"h3": ["db1"]})
    assert rebalancer("recover", "--config", config).out == "nothing has to be recovered\n"
