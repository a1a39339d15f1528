from dataclasses import replace

from rebalancer.cluster.inventory import HostId
from rebalancer.cluster.policy import Limits
from rebalancer.cluster.sites import Link, Rack, Site
from rebalancer.planning.network import Network
from tests.builders import MIB, a_host, a_snapshot

H1, H2, H3 = (HostId(name) for name in ("h1", "h2", "h3"))


def two_sites(link_mib: float = 100, latency: float = 0.0) -> Network:
    hosts = [
        a_host("h1", site="tokyo", nic_bytes_per_second=1000.0 * MIB),
        a_host("h2", site="osaka", nic_bytes_per_second=500.0 * MIB),
        a_host("h3", site="tokyo", nic_bytes_per_second=500.0 * MIB),
    ]
    sites = [Site(name="tokyo", latency_seconds={"osaka": latency}), Site(name="osaka")]
    links = [Link(name="wan", bytes_per_second=link_mib * MIB, between=("osaka", "tokyo"))]
    return Network(a_snapshot(hosts, sites=sites, links=links), Limits(link_share=0.5))


def test_a_path_is_as_wide_as_the_share_of_its_narrowest_lane() -> None:
    assert two_sites().path(H1, H3).bytes_per_second == 250 * MIB
    assert two_sites().path(H1, H2).bytes_per_second == 50 * MIB


def test_each_direction_of_a_link_is_a_lane_of_its_own() -> None:
    there = {lane.name for lane in two_sites().path(H1, H2).lanes}
    back = {lane.name for lane in two_sites().path(H2, H1).lanes}

    assert there == {"h1 out", "h2 in", "wan from tokyo"}
    assert back == {"h2 out", "h1 in", "wan from osaka"}


def test_bandwidth_is_granted_in_whole_mebibytes() -> None:
    assert two_sites(link_mib=5).path(H1, H2).bytes_per_second == 2 * MIB


def test_a_long_way_holds_one_stream_back() -> None:
    assert two_sites(link_mib=1000, latency=0.1).path(H1, H2).bytes_per_second == 40 * MIB


def test_the_last_bytes_may_use_what_is_left_free() -> None:
    line = two_sites().path(H1, H3).line(100.0 * MIB)

    assert line.switchover_bytes_per_second == 350 * MIB


def test_between_racks_traffic_passes_both_uplinks_and_within_one_none() -> None:
    hosts = [
        a_host("h1", rack="r1", nic_bytes_per_second=1000.0 * MIB),
        a_host("h2", rack="r2", nic_bytes_per_second=1000.0 * MIB),
        a_host("h3", rack="r1", nic_bytes_per_second=1000.0 * MIB),
    ]
    racks = (
        Rack(name="r1", uplink_bytes_per_second=200.0 * MIB),
        Rack(name="r2", uplink_bytes_per_second=300.0 * MIB),
    )
    network = Network(replace(a_snapshot(hosts), racks=racks), Limits(link_share=0.5))

    across, within = network.path(H1, H2), network.path(H1, H3)

    assert {lane.name for lane in across.lanes} == {"h1 out", "h2 in", "rack r1 up", "rack r2 down"}
    assert across.bytes_per_second == 100 * MIB
    assert {lane.name for lane in within.lanes} == {"h1 out", "h3 in"}
    assert within.bytes_per_second == 500 * MIB


def test_a_rack_of_which_nothing_is_known_limits_nothing() -> None:
    hosts = [a_host("h1", rack="r1"), a_host("h2", rack="r2"), a_host("h3")]
    known = (Rack(name="r2", uplink_bytes_per_second=30.0 * MIB),)
    network = Network(replace(a_snapshot(hosts), racks=known), Limits(link_share=1.0))

    assert {lane.name for lane in network.path(H1, H2).lanes} == {
        "h1 out",
        "h2 in",
        "rack r2 down",
    }
    assert {lane.name for lane in network.path(H1, H3).lanes} == {"h1 out", "h3 in"}
