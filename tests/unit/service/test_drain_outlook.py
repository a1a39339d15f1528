"""What a drain says of each VM before anything is moved."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from rebalancer.cluster.inventory import HostId, HostState, Mode
from rebalancer.cluster.plan import Migration, Plan, Priority, Unmoved
from rebalancer.cluster.policy import MigrationPermissions
from rebalancer.cluster.prediction import Prediction
from rebalancer.cluster.rules import Fence, Pin
from rebalancer.cluster.selection import HostSelector, VmSelector
from rebalancer.cluster.windows import Window
from rebalancer.service.drain_outlook import DrainOutlook, Way, drain_outlook
from rebalancer.service.drain_report import drain_text, drain_tree
from tests.builders import a_host, a_policy, a_snapshot, a_vm
from tests.unit.rollout.plans import a_migration, a_plan

H1 = HostId("h1")
DRAINING = a_host("h1", state=HostState.DRAINING)


def predicted(move: Migration, **changed: float) -> Prediction:
    return replace(move.predicted, **changed)  # type: ignore[arg-type]  # every field is a number


def the_outlook(plan: Plan, *vms: str, policy: object = None) -> DrainOutlook:
    hosts = [DRAINING, a_host("h2"), a_host("h3")]
    snapshot = a_snapshot(hosts=hosts, vms=[a_vm(name) for name in vms])
    return drain_outlook(snapshot, policy or a_policy(), plan, [H1])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "way"),
    [
        (Mode.OFFLINE, Way.OFFLINE),
        (Mode.LIVE, Way.LIVE),
        (Mode.AUTO_CONVERGE, Way.WITH_HELP),
        (Mode.SUSPEND, Way.WITH_HELP),
        (Mode.POST_COPY, Way.WITH_HELP),
        (Mode.COLD, Way.COLD),
    ],
)
def test_every_mode_is_one_of_few_ways_to_leave(mode: Mode, way: Way) -> None:
    outlook = the_outlook(a_plan(a_migration("vm1", mode=mode)), "vm1")

    assert [one.way for one in outlook.leaving] == [way]


def test_a_vm_that_goes_in_two_steps_has_the_pauses_of_both_and_the_end_of_the_last() -> None:
    first = a_migration("vm1", "h1", "h3")
    second = a_migration("vm1", "h3", "h2", id="m2", mode=Mode.SUSPEND)
    later = replace(second, predicted=predicted(second, start_seconds=100.0, downtime_seconds=2.0))

    (one,) = the_outlook(a_plan(first, later), "vm1").leaving

    assert (one.way, one.target, one.modes) == (Way.WITH_HELP, "h2", (Mode.LIVE, Mode.SUSPEND))
    assert one.pause_seconds == pytest.approx(2.2)
    assert one.finish_seconds == 125.0


def test_vms_on_other_hosts_are_not_its_business() -> None:
    hosts = [DRAINING, a_host("h2")]
    snapshot = a_snapshot(hosts=hosts, vms=[a_vm("there", on="h2")])

    assert drain_outlook(snapshot, a_policy(), a_plan(), [H1]).leaving == ()


def test_what_stays_says_why_and_which_permission_is_the_cheapest() -> None:
    why = ("live: it does not converge", "cheapest way out: allow cold: about 40 s down")
    plan = replace(a_plan(), unmoved=(Unmoved(vm=a_vm("hot").id, reasons=why),))

    (one,) = the_outlook(plan, "hot").leaving

    assert one.way is Way.STAYS
    assert one.why == "live: it does not converge"
    assert one.unlock == "allow cold: about 40 s down (--allow-cold)"
    assert one.finish_seconds is None


def test_a_rule_in_the_way_is_named_as_what_would_have_to_be_lifted() -> None:
    everything = VmSelector(names=("db*",))
    pin = Pin(name="licence", vms=everything)
    fence = Fence(name="only-h1", vms=everything, to=HostSelector(names=("h1",)))
    plan = replace(a_plan(), unmoved=(Unmoved(vm=a_vm("db1").id, reasons=("pinned",)),))

    (one,) = the_outlook(plan, "db1", policy=a_policy(pin, fence)).leaving

    assert one.unlock == "lift rule licence; and lift rule only-h1"


def test_a_fence_that_leaves_a_host_open_is_not_in_the_way() -> None:
    fence = Fence(name="two", vms=VmSelector(names=("db1",)), to=HostSelector(names=("h1", "h2")))
    plan = replace(a_plan(), unmoved=(Unmoved(vm=a_vm("db1").id, reasons=("no room",)),))

    (one,) = the_outlook(plan, "db1", policy=a_policy(fence)).leaving

    assert (one.why, one.unlock) == ("no room", "")


def test_a_drain_is_summed_up_in_a_sentence_with_who_stays_and_when_it_ends() -> None:
    plan = a_plan(a_migration("vm1"), a_migration("vm2", id="m2", mode=Mode.SUSPEND))
    stuck = replace(plan, unmoved=(Unmoved(vm=a_vm("vm3").id, reasons=("pinned",)),))

    text = drain_text(the_outlook(stuck, "vm1", "vm2", "vm3"), {})
    empty = drain_text(the_outlook(a_plan(a_migration("vm1")), "vm1"), {})
    nothing = drain_text(the_outlook(a_plan()), {})

    assert text.startswith("3 VMs on h1: 1 live, 1 with help, 1 stays (vm3); ")
    assert "all that can leave has left after 25 s" in text
    assert re.search("empty after 25 s, no guest stands still for longer than 200 ms", empty)
    assert nothing == "h1: nothing is seen there that would have to leave"


def test_a_drain_that_waits_for_its_window_does_not_sound_as_if_it_began() -> None:
    night = Window(from_minute=22 * 60, to_minute=5 * 60)
    hours = MigrationPermissions(windows=(night,), windows_for=frozenset({Priority.DRAIN}))
    plan = a_plan(a_migration("vm1", priority=Priority.DRAIN))

    text = drain_text(the_outlook(plan, "vm1", policy=a_policy(migration=hours)), {})

    assert "; that does not begin now: no maintenance window is open; the next one " in text


def test_machines_read_the_same() -> None:
    plan = replace(a_plan(a_migration("vm1")), unmoved=(Unmoved(vm=a_vm("vm2").id, reasons=()),))

    tree = drain_tree(the_outlook(plan, "vm1", "vm2"), {H1: ("vm2",)})

    assert tree["counts"] == {"live": 1, "stays": 1}
    assert tree["left"] == {"h1": ["vm2"]}
    assert [vm["way"] for vm in tree["vms"]] == ["live", "stays"]
    assert tree["vms"][0]["modes"] == ["live"]


def test_what_is_on_a_host_that_did_not_answer_stays_for_that_reason() -> None:
    silent = a_host("h1", state=HostState.UNKNOWN)
    snapshot = a_snapshot(hosts=[silent, a_host("h2")], vms=[a_vm("vm1")])

    (one,) = drain_outlook(snapshot, a_policy(), a_plan(), [H1]).leaving

    assert (one.way, one.why) == (Way.STAYS, "h1 did not answer, so nothing is moved off it")
