"""Who gets hold of what switches hosts."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebalancer.cluster.inventory import HostId
from rebalancer.rollout.power import Census, NoCensus
from rebalancer.service.access import Where, open_for_reading
from rebalancer.service.change_access import open_for_change
from rebalancer.service.config import Settings, load_settings
from rebalancer.service.power_switches import can_switch, census_taker
from rebalancer.simulation.simulated_power import SimulatedPower

pytest.importorskip("libvirt")

ROOT = Path(__file__).parents[3]


def settings(tmp_path: Path, *, switch: bool, uri: str = "test:///default") -> Settings:
    power = {"wake_command": "true", "sleep_command": "true", "state_command": "echo on"}
    return load_settings(
        flags={
            "journal": f"sqlite:///{tmp_path / 'journal.db'}",
            "hosts": [{"name": "h1", "uri": uri, "power": power}],
            "power.switch": switch,
        },
        system_config=Path("/nonexistent"),
    )


def test_cycles_have_nothing_to_switch_hosts_with_unless_it_is_allowed(tmp_path: Path) -> None:
    access = open_for_change(settings(tmp_path, switch=False), Where())

    assert access.power is None
    assert open_for_change(settings(tmp_path, switch=True), Where()).power is not None


def test_what_only_looks_has_nothing_to_switch_hosts_with(tmp_path: Path) -> None:
    access = open_for_reading(settings(tmp_path, switch=True), Where())

    assert not hasattr(access, "power")


def test_a_rehearsal_switches_simulated_hosts_and_no_others(tmp_path: Path) -> None:
    scenario = ROOT / "scenarios" / "power-saving.yaml"

    access = open_for_change(settings(tmp_path, switch=True), Where(scenario=scenario))

    assert isinstance(access.power, SimulatedPower)
    assert access.switchable == {f"h{number}" for number in range(1, 9)}


def test_a_census_counts_what_libvirt_has(tmp_path: Path) -> None:
    found = census_taker(settings(tmp_path, switch=False))(HostId("h1"))

    assert isinstance(found, Census)
    assert found.active == ("test",)
    assert not found.is_empty


def test_a_host_that_cannot_be_reached_is_not_empty(tmp_path: Path) -> None:
    there = settings(tmp_path, switch=False, uri=f"test://{tmp_path}/none.xml")

    assert isinstance(census_taker(there)(HostId("h1")), NoCensus)
    assert can_switch(there) == {"h1"}
