from rebalancer.cluster.inventory import HostId
from rebalancer.cluster.plan import PowerAction, PowerStep
from rebalancer.service.layout import Line, Table
from rebalancer.service.power_report import power_blocks

NAMES = {HostId("u1"): "h1", HostId("u2"): "h2"}


def a_step(host: str, action: PowerAction, watts: float, *after: str) -> PowerStep:
    return PowerStep(
        host=HostId(host),
        action=action,
        reason="why",
        depends_on=after,
        vms=len(after),
        saved_watts=watts,
    )


def test_each_host_is_named_with_what_it_waits_for_and_saves() -> None:
    after = [f"m{number}" for number in range(1, 6)]
    steps = [
        a_step("u1", PowerAction.SLEEP, 120.0, *after),
        a_step("u2", PowerAction.SLEEP, 1200.0),
    ]

    table, line = power_blocks(steps, NAMES)

    assert isinstance(table, Table)
    assert table.rows == (
        ("h1", "sleep", "m1 … m5 (5)", "5", "120 W", "why"),
        ("h2", "sleep", "at once", "0", "1,200 W", "why"),
    )
    assert isinstance(line, Line)
    assert line.text.startswith("2 hosts can sleep and save 1,320 W.")


def test_nobody_is_left_to_believe_that_hosts_are_switched() -> None:
    _, line = power_blocks([a_step("u1", PowerAction.WAKE, -100.0)], NAMES)

    assert isinstance(line, Line)
    assert line.text.startswith("1 host to wake.")
    assert "by hand" in line.text
