from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from rebalancer.cluster.inventory import Mode
from rebalancer.cluster.policy import (
    BalanceGoal,
    DrainGoal,
    GeographyCriterion,
    GeographyGoal,
    Headroom,
    MigrationPermissions,
    MovementGoal,
    MovementMeasure,
    Policy,
    PowerGoal,
    RelieveGoal,
    Schedule,
)
from rebalancer.cluster.rules import Ban, Domain, Fence, Pin, Presence, Spread, Together
from rebalancer.cluster.selection import HostSelector, VmSelector
from rebalancer.errors import InvalidFileError
from rebalancer.service.policy_file import fingerprint_of, parse_policy, read_policy
from rebalancer.service.policy_format import GoalSection, PolicyFile
from rebalancer.service.rule_format import RuleSection

ROOT = Path(__file__).parents[3]

type WritePolicy = Callable[[str], Path]


@pytest.fixture
def policy(tmp_path: Path) -> WritePolicy:
    """Write a policy file with a head and the given rest."""

    def write(rest: str) -> Path:
        path = tmp_path / "policy.yaml"
        path.write_text(f"schema_version: 1\nname: test\n{rest}", encoding="utf-8")
        return path

    return write


def faults(path: Path) -> list[str]:
    """Everything that is wrong in a file, as an operator reads it, without the file's name."""
    with pytest.raises(InvalidFileError) as caught:
        read_policy(path)
    assert caught.value.exit_code == 65
    return [str(fault).removeprefix(f"{path}:") for fault in caught.value.faults]


def test_a_policy_that_only_has_a_name_has_the_defaults_of_the_nouns(policy: WritePolicy) -> None:
    read = read_policy(policy(""))

    plain = Policy(name="test")
    assert read.fingerprint == fingerprint_of(plain)
    assert (read.goals, read.rules, read.headroom) == (plain.goals, plain.rules, plain.headroom)
    assert (read.trigger, read.limits, read.migration) == (
        plain.trigger,
        plain.limits,
        plain.migration,
    )


def test_every_section_reaches_its_noun(policy: WritePolicy) -> None:
    read = read_policy(
        policy(
            """
applies: {hosts: {site: tokyo, names: "kvm-*"}}
active: {cron: "*/5 8-19 * * mon-fri"}
goals:
  - {goal: power, tier: 1, weight: 2, min_awake: 3, spare: 15%, payback: 8h,
     boot: 2m, wear_watt_hours: 50}
  - {goal: geography, tier: 2, criterion: carbon}
  - {goal: movement, weight: 0.5}
headroom: {cpu: 20%, memory: 0.1, host_failures: 1}
trigger: null
limits: {migrations: null, cooldown: 1h30m, link_share: 50%}
migration: {allow: [live, cold], max_downtime: 300ms}
"""
        )
    )

    assert read.applies == HostSelector(names=("kvm-*",), sites=("tokyo",))
    assert read.active == Schedule(cron="*/5 8-19 * * mon-fri")
    assert read.goals == (
        PowerGoal(
            tier=1,
            weight=2,
            min_awake=3,
            spare_ratio=0.15,
            payback_seconds=8 * 3600,
            boot_seconds=120,
            wear_joules=180e3,
        ),
        GeographyGoal(tier=2, criterion=GeographyCriterion.CARBON),
        MovementGoal(weight=0.5),
    )
    assert read.headroom == Headroom(cpu_ratio=0.2, memory_ratio=0.1, host_failures=1)
    assert read.trigger is None
    assert read.limits.migrations is None
    assert read.limits.cooldown_seconds == 5400
    assert read.migration == MigrationPermissions(
        allow=frozenset({Mode.LIVE, Mode.COLD, Mode.OFFLINE}), max_downtime_seconds=0.3
    )


def test_every_key_of_a_goal_reaches_its_noun(policy: WritePolicy) -> None:
    read = read_policy(
        policy(
            """
goals:
  - {goal: relieve, tier: 1, above: 70%, memory_above: 0.9}
  - {goal: geography, criterion: latency, users: eu, vms: {labels: {users: eu}}}
  - {goal: geography, criterion: latency, users: jp, vms: {labels: {users: jp}}}
  - {goal: geography, criterion: energy_price, payback: 12h}
  - {goal: geography, criterion: wan_cost, weight: 3}
  - {goal: movement, tier: 2, measure: memory, dear: {names: "db*"}, dear_times: 3}
  - {goal: drain, evacuate: {site: tokyo}}
"""
        )
    )

    assert read.goals == (
        RelieveGoal(cpu_ratio=0.7, memory_ratio=0.9),
        GeographyGoal(users="eu", vms=VmSelector(labels={"users": ("eu",)})),
        GeographyGoal(users="jp", vms=VmSelector(labels={"users": ("jp",)})),
        GeographyGoal(criterion=GeographyCriterion.ENERGY_PRICE, payback_seconds=43200.0),
        GeographyGoal(criterion=GeographyCriterion.WAN_COST, weight=3.0),
        MovementGoal(
            tier=2,
            weight=0.1,
            measure=MovementMeasure.MEMORY,
            dear=VmSelector(names=("db*",)),
            dear_times=3.0,
        ),
        DrainGoal(evacuate=HostSelector(sites=("tokyo",))),
    )


@pytest.mark.parametrize(
    ("goal", "told"),
    [
        ("{goal: relieve, above: null}", "there is no band"),
        ("{goal: relieve, above: 120%}", "is too large for a ratio"),
        ("{goal: drain, evacuate: {}}", "selects every host"),
        ("{goal: movement, dear: {}}", "selects every VM"),
        ("{goal: geography, criterion: carbon, vms: {}}", "selects every VM"),
        ("{goal: geography, criterion: wan_cost, payback: 1h}", "has no meaning with criterion"),
        ("{goal: geography, criterion: carbon, payback: 0s}", "payback"),
    ],
)
def test_what_is_wrong_with_a_goal_is_told(policy: WritePolicy, goal: str, told: str) -> None:
    with pytest.raises(InvalidFileError, match=told):
        read_policy(policy(f"goals:\n  - {goal}\n"))


def test_the_same_preference_of_places_twice_is_a_fault(policy: WritePolicy) -> None:
    text = "goals:\n" + 2 * "  - {goal: geography, criterion: carbon}\n"

    with pytest.raises(InvalidFileError, match="a second goal geography"):
        read_policy(policy(text))


def test_the_five_rules_are_read_and_named_after_what_they_say(policy: WritePolicy) -> None:
    read = read_policy(
        policy(
            """
rules:
  - {rule: spread, vms: {labels: {app: db}}, over: rack, at_most: 2}
  - {rule: together, vms: {names: [web1, cache1]}, hard: false, weight: 3}
  - {rule: fence, vms: {labels: {residency: [jp, kr]}}, to: {site: [tokyo, osaka]}}
  - {rule: ban, name: no tests in Tokyo, vms: {names: "test-*"}, hosts: {site: tokyo}}
  - {rule: pin, vms: {names: gw}}
  - {rule: spread, vms: {}, by: app}
"""
        )
    )

    assert read.rules == (
        Spread(
            name="spread app=db over rack",
            vms=VmSelector(labels={"app": ("db",)}),
            over=Domain.RACK,
            at_most=2,
        ),
        Together(
            name="together web1|cache1 in one host",
            vms=VmSelector(names=("web1", "cache1")),
            hard=False,
            weight=3,
        ),
        Fence(
            name="fence residency=jp|kr to site tokyo|osaka",
            vms=VmSelector(labels={"residency": ("jp", "kr")}),
            to=HostSelector(sites=("tokyo", "osaka")),
        ),
        Ban(
            name="no tests in Tokyo",
            vms=VmSelector(names=("test-*",)),
            hosts=HostSelector(sites=("tokyo",)),
        ),
        Pin(name="pin gw", vms=VmSelector(names=("gw",))),
        Spread(name="spread by app over host", vms=VmSelector(), by_label="app"),
    )


def test_a_rule_about_enough_places_is_a_spread_with_at_least(policy: WritePolicy) -> None:
    text = "rules:\n  - {rule: spread, vms: {labels: {app: db}}, over: site, at_least: 2}\n"

    (rule,) = read_policy(policy(text)).rules

    assert rule == Presence(
        name="spread app=db over at least 2 sites",
        vms=VmSelector(labels={"app": ("db",)}),
        over=Domain.SITE,
        at_least=2,
    )


def test_at_most_and_at_least_are_two_rules(policy: WritePolicy) -> None:
    text = "rules:\n  - {rule: spread, vms: {names: a}, at_least: 2, at_most: 1}\n"

    (fault,) = faults(policy(text))

    assert "write two rules" in fault


def test_caps_on_a_plan(policy: WritePolicy) -> None:
    caps = (
        "limits: {migrations: 5%, moved_memory: 200GiB, moves_out_of_host: 3, moves_into_host: 2,"
        " moves_between_sites: 1, memory_between_sites: 0,"
        " migrations_per_day: 50, moved_memory_per_day: 1TiB}\n"
    )

    limits = read_policy(policy(caps)).limits

    assert (limits.migrations, limits.migrations_ratio) == (None, 0.05)
    assert (limits.moved_bytes, limits.bytes_between_sites) == (200 * 2**30, 0)
    assert (limits.moves_out_of_host, limits.moves_into_host) == (3, 2)
    assert limits.moves_between_sites == 1
    assert (limits.migrations_per_day, limits.moved_bytes_per_day) == (50, 2**40)
    assert limits.most_migrations(130) == 6
    assert limits.most_migrations(3) == 1


def test_local_disks_stay_unless_the_policy_lets_them_be_copied(policy: WritePolicy) -> None:
    assert not read_policy(policy("migration: {max_duration: 1h}\n")).migration.local_disks
    assert read_policy(policy("migration: {local_disks: true}\n")).migration.local_disks


def test_a_number_of_migrations_is_a_number(policy: WritePolicy) -> None:
    limits = read_policy(policy("limits: {migrations: 1}\n")).limits

    assert (limits.migrations, limits.migrations_ratio) == (1, None)
    assert limits.most_migrations(1000) == 1


def test_rules_without_a_name_get_different_ones_even_if_they_say_the_same(
    policy: WritePolicy,
) -> None:
    read = read_policy(
        policy(
            """
rules:
  - {rule: pin, vms: {names: a}}
  - {rule: pin, vms: {names: a}}
  - {rule: pin, vms: {names: b}, name: pin a (2)}
"""
        )
    )

    assert [rule.name for rule in read.rules] == ["pin a", "pin a (3)", "pin a (2)"]


def test_a_rule_for_fifty_vms_has_a_short_name(policy: WritePolicy) -> None:
    names = ", ".join(f"vm{number}" for number in range(50))

    (rule,) = read_policy(policy(f"rules: [{{rule: pin, vms: {{names: [{names}]}}}}]")).rules

    assert rule.name == "pin vm0|vm1|vm2|… 47 more"


def test_an_unknown_key_is_told_with_its_line_and_the_key_that_was_meant(
    policy: WritePolicy,
) -> None:
    assert faults(policy("headroom: {cpu: 0.1}\nlimits:\n  cool_down: 30m\n")) == [
        '5: limits.cool_down: unknown key; did you mean "cooldown"?'
    ]


def test_days_that_are_no_list_are_told_with_what_they_should_be(policy: WritePolicy) -> None:
    window = 'migration: {windows: [{days: mon-fri, from: "22:00", to: "05:00"}]}\n'

    assert faults(policy(window)) == [
        '3: migration.windows[0].days: "mon-fri" is not a list of days; expected such as [mon, '
        "tue, wed, thu, fri]"
    ]


def test_everything_wrong_with_single_values_is_told_at_once(policy: WritePolicy) -> None:
    found = faults(
        policy(
            """
goals:
  - {goal: power, min_awake: 0}
  - {goal: balance, tier: -1, weight: .nan}
rules:
  - {rule: spread, vms: {names: a}, at_most: 0}
  - {rule: fence, vms: {names: a}}
  - {rule: ban, vms: {names: []}, hosts: {names: h1}}
migration: {allow: [life]}
limits: {link_share: 0}
"""
        )
    )

    places = {":".join(fault.split(": ")[:2]) for fault in found}
    assert places == {
        "5:goals[0].min_awake",
        "6:goals[1].tier",
        "6:goals[1].weight",
        "8:rules[0].at_most",
        "9:rules[1].to",
        "10:rules[2].vms.names",
        "11:migration.allow[0]",
        "12:limits.link_share",
    }


def test_everything_that_does_not_fit_together_is_told_at_once(policy: WritePolicy) -> None:
    found = faults(
        policy(
            """
active: {cron: "61 * * * *"}
goals:
  - {goal: balance, resources: {cpu: 0, memory: 0}}
  - {goal: balance}
  - {goal: geography, criterion: carbon, users: tokyo}
rules:
  - {rule: pin, vms: {}, name: twin}
  - {rule: fence, vms: {names: a}, to: {}, name: twin}
migration: {allow: []}
"""
        )
    )

    assert [fault.split(": ")[0] for fault in found] == ["4", "6", "7", "8", "10", "11", "11", "12"]
    assert any("names of rules must differ" in fault for fault in found)
    assert any('write names: "*"' in fault for fault in found)


def test_what_does_not_fit_is_told_beside_values_that_are_wrong_by_themselves(
    policy: WritePolicy,
) -> None:
    path = policy(
        """
active: {cron: "61 * * * *"}
goals:
  - {goal: relieve, above: null, weight: heavy}
  - {goal: balance, resources: {cpu: much}}
  - {goal: balance}
  - {goal: geography, criterion: carbon, users: tokyo}
  - [movement]
rules:
  - {rule: spread, vms: {names: a}, at_most: 0, name: twin}
  - {rule: pin, vms: {}, name: twin, wieght: 2}
  - {rule: fence, vms: {}, to: {site: tokyo}, weight: -1}
limits: {migrations: some}
migration: {allow: []}
"""
    )

    found = faults(path)

    assert [":".join(fault.split(": ")[:2]) for fault in found] == [
        "4:active.cron",
        "6:goals[0].weight",
        "6:goals[0].above",
        "7:goals[1].resources.cpu",
        "8:goals[2]",
        "9:goals[3].users",
        "10:goals[4]",
        "12:rules[0].at_most",
        "13:rules[1].wieght",
        "13:rules[1].name",
        "14:rules[2].weight",
        "14:rules[2].vms",
        "15:limits.migrations",
        "16:migration.allow",
    ]


def test_a_fault_that_only_follows_from_another_one_is_not_told(policy: WritePolicy) -> None:
    misspelt = faults(policy("goals: [{goal: geography, criterion: carbn, users: tokyo}]"))
    other_version = policy("goals: []")
    other_version.write_text(other_version.read_text().replace(": 1", ": 9"))

    assert [fault.split(": ")[1] for fault in misspelt] == ["goals[0].criterion"]
    assert len(faults(other_version)) == 1


def test_latency_needs_to_know_whose(policy: WritePolicy) -> None:
    (fault,) = faults(policy("goals: [{goal: geography}]"))

    assert "goals[0].users" in fault


def test_days_of_the_week_by_number_are_refused(policy: WritePolicy) -> None:
    (fault,) = faults(policy('active: {cron: "0 8 * * 1-5"}'))

    assert "must be names" in fault


def test_hours_that_never_come_are_refused(policy: WritePolicy) -> None:
    (fault,) = faults(policy('active: {cron: "0 3 31 2 *"}'))

    assert "'0 3 31 2 *' never comes" in fault
    assert read_policy(policy('active: {cron: "0 3 29 2 *"}')).active.cron == "0 3 29 2 *"


def test_a_word_that_yaml_1_1_took_for_false_stays_a_word(policy: WritePolicy) -> None:
    (rule,) = read_policy(policy("rules: [{rule: pin, vms: {labels: {country: no}}}]")).rules

    assert rule.vms.labels == {"country": ("no",)}


def test_the_fingerprint_sees_meaning_and_not_layout(policy: WritePolicy) -> None:
    first = read_policy(policy("limits: {cooldown: 30m, link_share: 70%}")).fingerprint
    same = read_policy(policy("# why\nlimits:\n  link_share: 0.7\n  cooldown: 1800\n")).fingerprint
    other = read_policy(policy("limits: {cooldown: 31m}")).fingerprint

    assert first == same
    assert first != other
    assert len(first) == 16
    assert int(first, 16) >= 0


def test_the_fingerprint_tells_rules_of_different_kinds_apart(policy: WritePolicy) -> None:
    fence = read_policy(policy("rules: [{rule: fence, name: r, vms: {names: a}, to: {site: s}}]"))
    ban = read_policy(policy("rules: [{rule: ban, name: r, vms: {names: a}, hosts: {site: s}}]"))

    assert fence.fingerprint != ban.fingerprint


def test_a_policy_inside_another_file_needs_no_version_and_names_its_origin() -> None:
    assert parse_policy({"name": "inline"}, "s.yaml: policy").goals[0] == BalanceGoal()

    with pytest.raises(InvalidFileError, match=r"s\.yaml: policy: \$\.golas: unknown key"):
        parse_policy({"name": "inline", "golas": []}, "s.yaml: policy")


@pytest.mark.parametrize("path", sorted((ROOT / "policies").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_policies_of_the_project_are_valid_and_named_after_their_files(path: Path) -> None:
    assert read_policy(path).name == path.stem


def test_the_balance_policy_is_the_default_policy_spelt_out() -> None:
    spelt_out = read_policy(ROOT / "policies" / "balance.yaml")

    assert fingerprint_of(spelt_out) == fingerprint_of(Policy(name="balance"))


def test_every_key_of_a_policy_is_documented() -> None:
    page = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")

    missing = sorted(key for key in _keys(PolicyFile) if f"`{key}`" not in page)

    assert missing == []


def test_every_goal_rule_and_mode_is_documented() -> None:
    page = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")
    words = [*Mode, *Domain, *GeographyCriterion, *MovementMeasure, "balance", "relieve", "power"]
    words += ["geography", "movement", "drain", "spread", "together", "fence", "ban", "pin"]

    assert [str(word) for word in words if f"`{word}`" not in page] == []


def _keys(model: type[BaseModel]) -> set[str]:
    """The keys of a section and of those inside."""
    keys = {field.alias or name for name, field in model.model_fields.items()}
    for field in model.model_fields.values():
        for inner in _models(field.annotation):
            keys |= _keys(inner)
    return keys


def _models(annotation: object) -> list[type[BaseModel]]:
    if annotation in (GoalSection, RuleSection):
        annotation = annotation.__value__
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def test_every_example_in_the_documentation_is_valid(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)

    for number, example in enumerate(examples):
        path = tmp_path / f"{number}.yaml"
        path.write_text(example, encoding="utf-8")
        assert read_policy(path).name

    assert len(examples) >= 7


def test_every_command_to_try_a_policy_names_a_scenario_that_ships() -> None:
    page = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")

    named = re.findall(r"rebalancer simulate (\S+?)`", page)

    assert len(named) == len(list((ROOT / "policies").glob("*.yaml")))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_a_policy_without_any_goal_is_refused_with_what_to_write_instead() -> None:
    with pytest.raises(InvalidFileError, match=r"there is no goal.*goal: movement"):
        parse_policy({"name": "none", "goals": []}, "p.yaml")
