"""What the doctor makes of what was found out, and which exit code that leads to."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rebalancer.cluster.inventory import Host, HostState, Snapshot
from rebalancer.cluster.policy import Overcommit
from rebalancer.cluster.rules import Fence, Spread
from rebalancer.cluster.selection import HostSelector, VmSelector
from rebalancer.collect.host_check import HostCheck
from rebalancer.collect.hypervisor import DomainRecord, JobOperation
from rebalancer.collect.past_use import Coverage
from rebalancer.errors import ExitCode
from rebalancer.service.doctor import blocks, diagnose, exit_code, summary, to_json
from rebalancer.service.doctor_checks import proof_command, version_text
from rebalancer.service.doctor_facts import (
    AddressFacts,
    Facts,
    Finding,
    HookFacts,
    JournalFacts,
    Level,
)
from rebalancer.service.layout import to_markdown
from tests.builders import GIB, NOON, a_host, a_policy, a_snapshot, a_vm

DAY = timedelta(days=1)


def a_check(name: str = "h1", *domains: DomainRecord, **changed: Any) -> HostCheck:
    facts: dict[str, Any] = {
        "uri": f"qemu+ssh://root@{name}/system",
        "hostname": name,
        "libvirt_version": 9_000_000,
        "hypervisor_version": 7_002_000,
        "domains": domains,
    }
    return HostCheck(name=name, **(facts | changed))


def a_domain(name: str = "db", uuid: str = "", **changed: Any) -> DomainRecord:
    facts: dict[str, Any] = {"is_active": True, "xml": None}
    return DomainRecord(uuid=uuid or f"uuid-{name}", name=name, **(facts | changed))


def an_address(host: str, **changed: Any) -> AddressFacts:
    facts: dict[str, Any] = {
        "peer_uri": f"qemu+ssh://root@{host}/system",
        "transport": "ssh",
        "peer_name": host,
        "peer_addresses": ("10.0.0.1",),
        "memory_name": host,
        "memory_addresses": ("10.0.0.1",),
    }
    return AddressFacts(host=host, **(facts | changed))


ALL_PROVED = frozenset({("h1", "h2"), ("h2", "h1")})


def facts(**changed: Any) -> Facts:
    """Two hosts with which all is well."""
    sound: dict[str, Any] = {
        "now": NOON,
        "cluster": "test",
        "mode": "auto",
        "user": "rebalancer@mgmt",
        "is_root": False,
        "tls": False,
        "policies": {"balance.yaml": ""},
        "journal": JournalFacts(url="sqlite:///j", free_bytes=50 * GIB, moved=ALL_PROVED),
        "hosts": (a_check("h1"), a_check("h2")),
        "addresses": {name: an_address(name) for name in ("h1", "h2")},
        "snapshot": a_snapshot(vms=[a_vm("db", on="h1")]),
    }
    return Facts(**(sound | changed))


def found(given: Facts, area: str, level: Level | None = None) -> list[Finding]:
    return [f for f in diagnose(given) if f.area == area and level in (None, f.level)]


def wrong(given: Facts) -> list[Finding]:
    return [f for f in diagnose(given) if f.level >= Level.WARNING]


def the_one(given: Facts) -> Finding:
    (finding,) = wrong(given)
    return finding


def test_a_sound_cluster_ends_with_success() -> None:
    findings = diagnose(facts())

    assert wrong(facts()) == []
    assert exit_code(findings) is ExitCode.SUCCESS
    assert "nothing is wrong" in summary(findings)


def test_warnings_and_errors_have_exit_codes_of_their_own() -> None:
    warning = facts(policies={}, hooks=(HookFacts(moment="after_plan", command="/x", fault="no"),))
    error = facts(policies={"p.yaml": "line 3: unknown key"})

    assert exit_code(diagnose(warning)) is ExitCode.PARTIAL
    assert exit_code(diagnose(error)) is ExitCode.BLOCKED


def test_a_bad_policy_is_named_with_what_is_wrong() -> None:
    finding = the_one(facts(policies={"good.yaml": "", "bad.yaml": "bad.yaml:3: unknown key"}))

    assert (finding.about, finding.text) == ("bad.yaml", "bad.yaml:3: unknown key")


def test_rules_that_protect_nothing_are_warned_of_with_file_rule_and_selector() -> None:
    slip = VmSelector(labels={"app": ("dbb",)})
    apart = a_policy(Spread(name="db-apart", vms=slip))
    fenced = a_policy(
        Fence(name="in-tokyo", vms=VmSelector(names=("db",)), to=HostSelector(sites=("tokio",)))
    )
    general = a_policy(
        Spread(name="apart", vms=VmSelector(labels={"anti_affinity": ("*",)})),
        Spread(name="one", vms=VmSelector(names=("db",))),
    )
    given = facts(in_force={"a.yaml": apart, "f.yaml": fenced, "g.yaml": general})

    no_vm, no_host = wrong(given)
    (note,) = found(given, "policy", Level.NOTE)

    assert no_vm.about == "a.yaml"
    assert no_vm.text == "rule db-apart protects nothing: no VM matches {labels: {app: dbb}}"
    assert no_host.about == "f.yaml"
    assert no_host.text == "rule in-tokyo protects nothing: no host matches {site: tokio}"
    assert note.about == "g.yaml"
    assert exit_code(diagnose(given)) is ExitCode.PARTIAL


def test_root_is_told_to_try_as_the_daemons_user() -> None:
    (_, note) = found(facts(is_root=True), "settings")

    assert note.todo == "sudo -u rebalancer rebalancer doctor"


@pytest.mark.parametrize(
    ("journal", "level"),
    [
        (JournalFacts(url="u", fault="it cannot be written"), Level.ERROR),
        (JournalFacts(url="u", free_bytes=1000), Level.ERROR),
        (JournalFacts(url="u", free_bytes=GIB), Level.WARNING),
        (JournalFacts(url="u", unfinished=("p1",)), Level.ERROR),
        (JournalFacts(url="u", paused="by joe"), Level.WARNING),
        (JournalFacts(url="u", exists=False), Level.OK),
        (JournalFacts(url="u", unfinished=("p1",), busy="process 3"), Level.NOTE),
    ],
)
def test_the_journal(journal: JournalFacts, level: Level) -> None:
    given = facts(journal=replace(journal, moved=ALL_PROVED))

    assert max(f.level for f in found(given, "journal")) is level


def test_a_host_that_cannot_be_looked_at_is_an_error_with_the_command_that_shows_it() -> None:
    given = facts(hosts=(a_check("h1"), a_check("h2", read_error="refused")))

    finding = the_one(given)

    assert finding.level is Level.ERROR
    assert "refused" in finding.text
    assert finding.todo.startswith("virsh -c 'qemu+ssh://root@h2/system' hostname")


def test_a_host_that_may_only_be_looked_at_is_an_error() -> None:
    finding = the_one(facts(hosts=(a_check("h1"), a_check("h2", write_error="access denied"))))

    assert "not changed: access denied" in finding.text


def test_a_sleeping_host_is_only_noted() -> None:
    assert wrong(facts(hosts=(a_check("h1"), a_check("h2", stated=HostState.ASLEEP)))) == []


def test_one_machine_under_two_names_is_an_error() -> None:
    unknown = a_host("h2", state=HostState.UNKNOWN, state_reason="leads to the same machine as h1")
    snapshot = a_snapshot([a_host("h1"), unknown], [])

    assert "same machine" in the_one(facts(snapshot=snapshot)).text


def test_versions_that_differ_are_told_with_who_has_which() -> None:
    given = facts(hosts=(a_check("h1"), a_check("h2", hypervisor_version=8_001_002)))

    assert the_one(given).text == "7.2.0 on h1; 8.1.2 on h2"


def test_libvirts_numbers_are_written_as_people_do() -> None:
    assert version_text(9_001_002) == "9.1.2"


# Ways ---------------------------------------------------------------------------------------


def addresses(**of_h2: Any) -> dict[str, AddressFacts]:
    return {"h1": an_address("h1"), "h2": an_address("h2", **of_h2)}


def test_a_local_uri_is_no_address_for_other_hosts() -> None:
    given = addresses(peer_uri="qemu:///system", peer_name="", transport="")

    finding = the_one(facts(addresses=given))

    assert finding.level is Level.ERROR
    assert "set peer_uri of h2" in finding.todo


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"peer_addresses": ()}, "means nothing"),
        ({"peer_addresses": ("127.0.1.1",)}, "whatever machine asks"),
        ({"peer_addresses": ("::1",)}, "whatever machine asks"),
        ({"peer_port_error": "port 22: Connection refused"}, "no connection from here"),
        (
            {"memory_name": "m2", "memory_addresses": (), "is_memory_stated": True},
            "m2 means nothing",
        ),
    ],
)
def test_names_and_ports_that_lead_nowhere(changed: dict[str, Any], said: str) -> None:
    assert said in the_one(facts(addresses=addresses(**changed))).text


def test_a_host_name_of_a_targets_own_is_only_noted_for_qemu_conf_may_say_otherwise() -> None:
    given = facts(addresses=addresses(memory_name="node2", memory_addresses=()))

    assert wrong(given) == []
    (note,) = found(given, "migration path", Level.NOTE)
    assert "migration_uri" in note.todo


def test_one_host_alone_needs_no_way_to_another() -> None:
    alone = addresses(peer_uri="qemu:///system", peer_name="", transport="")
    given = facts(hosts=(a_check("h2"),), addresses=alone, snapshot=a_snapshot([a_host("h2")]))

    assert wrong(given) == []


def test_what_no_migration_has_proved_comes_with_the_command_that_does() -> None:
    journal = JournalFacts(url="u", moved=frozenset({("h1", "h2"), ("h9", "h1")}))

    overall, left = found(facts(journal=journal), "source to target")

    assert overall.text.startswith("1 of 2 pairs")
    assert left.about == "h2"
    assert left.todo == (
        """ssh root@h2 'for u in qemu+ssh://root@h1/system; do virsh -c "$u" hostname; done'"""
    )


def test_the_command_that_proves_a_way_is_one_that_a_shell_understands() -> None:
    target = an_address("h2", peer_uri="qemu+ssh://root@h2/system?keyfile=/a b")
    command = proof_command(an_address("h1"), [target])

    told = subprocess.run(
        ["/bin/sh", "-c", 'ssh() { shift; eval "$@"; }; virsh() { echo "$2"; }; ' + command],
        capture_output=True,
        text=True,
        check=True,
    )

    assert told.stdout == "qemu+ssh://root@h2/system?keyfile=/a b\n"


@pytest.mark.parametrize(
    ("days", "level"), [(-1, Level.ERROR), (10, Level.WARNING), (300, Level.OK)]
)
def test_certificates_that_end(days: int, level: Level) -> None:
    given = facts(addresses=addresses(transport="tls", certificate_ends_at=NOON + days * DAY))

    (finding,) = found(given, "TLS")

    assert finding.level is level


def test_qemus_own_certificates_cannot_be_seen() -> None:
    (note,) = found(facts(tls=True), "TLS")

    assert "openssl x509" in note.todo


# Definitions --------------------------------------------------------------------------------


def definitions(*hosts: HostCheck) -> list[Finding]:
    return [f for f in found(facts(hosts=hosts), "definitions") if f.level >= Level.WARNING]


def test_a_vm_that_two_hosts_would_start_at_boot() -> None:
    (boot, stale) = definitions(
        a_check("h1", a_domain(autostart=True)),
        a_check("h2", a_domain(autostart=True, is_active=False)),
    )

    assert boot.level is Level.ERROR
    assert boot.text.startswith("h1, h2 would each start it")
    assert stale.level is Level.WARNING


def test_a_definition_that_was_left_behind() -> None:
    (stale,) = definitions(a_check("h1", a_domain()), a_check("h2", a_domain(is_active=False)))

    assert stale.text.startswith("runs on h1, and h2 has a definition of it, too")
    assert "virsh undefine db" in stale.todo


def test_a_vm_that_is_off_and_defined_twice() -> None:
    off = a_domain(is_active=False)

    (stale,) = definitions(a_check("h1", off), a_check("h2", off))

    assert stale.text.startswith("is off, and h1, h2 have a definition of it each")


def test_two_active_copies_are_an_error_unless_one_is_being_migrated() -> None:
    moving = a_domain(job=JobOperation.MIGRATION_OUT)

    (split,) = definitions(a_check("h1", a_domain()), a_check("h2", a_domain()))

    assert split.level is Level.ERROR
    assert definitions(a_check("h1", moving), a_check("h2", a_domain())) == []


def test_a_name_for_two_vms() -> None:
    (named,) = definitions(a_check("h1", a_domain(uuid="a")), a_check("h2", a_domain(uuid="b")))

    assert "different VMs" in named.text


# The cluster --------------------------------------------------------------------------------


def seen(hosts: Sequence[Host], **vm: Any) -> Snapshot:
    return a_snapshot(hosts, [a_vm("db", on="h1", **vm)])


def test_memory_that_is_promised_twice_is_warned_of_unless_a_policy_allows_it() -> None:
    hosts = [a_host("h1", memory_bytes=8 * GIB), a_host("h2")]
    snapshot = seen(hosts, memory_bytes=9 * GIB)
    allowing = {"p.yaml": a_policy(overcommit=Overcommit(memory=1.5))}

    warning = the_one(facts(snapshot=snapshot))
    (note,) = found(facts(snapshot=snapshot, in_force=allowing), "memory")
    (fine,) = found(facts(snapshot=seen([a_host("h1"), a_host("h2")])), "memory")

    assert warning.text == "more is promised to guests than there is on h1 (112 %)"
    assert "the kernel ends one of them" in warning.todo
    assert exit_code(diagnose(facts(snapshot=snapshot))) is ExitCode.PARTIAL
    assert (note.level, note.text[-20:]) == (Level.NOTE, ", as a policy allows")
    assert fine.level is Level.OK


def test_what_a_host_that_is_down_is_said_to_run_promises_nothing() -> None:
    hosts = [a_host("h1", memory_bytes=8 * GIB, state=HostState.DOWN), a_host("h2")]

    (fine,) = found(facts(snapshot=seen(hosts, memory_bytes=9 * GIB)), "memory")

    assert fine.level is Level.OK


def test_cpus_that_differ_matter_to_vms_that_see_them() -> None:
    hosts = [a_host("h1", cpu_model="Milan"), a_host("h2", cpu_model="Rome")]

    plain = found(facts(snapshot=seen(hosts)), "CPU")
    bound = found(facts(snapshot=seen(hosts, cpu_model="host-passthrough")), "CPU")

    assert [f.level for f in plain] == [Level.NOTE]
    assert [f.level for f in bound] == [Level.WARNING]


def test_storage_that_some_host_lacks_is_told_if_a_vm_needs_it() -> None:
    hosts = [
        a_host("h1", storage=frozenset({"nfs", "unused"})),
        a_host("h2", storage=frozenset({"nfs"})),
        a_host("h3", storage=frozenset()),
    ]

    (finding,) = found(facts(snapshot=seen(hosts, storage=frozenset({"nfs"}))), "storage")

    assert (finding.level, finding.about) == (Level.WARNING, "nfs")
    assert "is not on h3, so its 1 VM" in finding.text


def test_vms_that_cannot_move_are_counted_by_reason() -> None:
    vms = [
        a_vm("pinned", movable=False),
        a_vm("backup1", blockers=("a backup is running",)),
        a_vm("backup2", blockers=("a backup is running",)),
        a_vm("big", memory_bytes=65 * GIB),
        a_vm("good"),
    ]

    findings = found(facts(snapshot=a_snapshot(vms=vms)), "VMs")

    assert findings[0].text == "1 of 5 VMs can move to some host"
    told = {f.about: f.level for f in findings[1:] if "backup" in f.text or "owner" in f.text}
    assert told == {"2 VMs": Level.WARNING, "1 VM": Level.NOTE}
    assert any("no other host will do" in f.text and "big" in f.text for f in findings)


def test_a_cluster_that_cannot_be_observed_is_an_error() -> None:
    given = facts(snapshot=None, snapshot_fault="no host can be looked at")

    assert the_one(given).text == "cannot be observed: no host can be looked at"


def test_telemetry_with_its_coverage() -> None:
    coverage = Coverage(newest_age_seconds=40.0, vm_ratio=0.5, host_ratio=1.0)
    snapshot = replace(a_snapshot(), usage_fault="past use is not good enough")

    good = facts(prometheus_url="http://p", coverage=coverage)
    bad = facts(prometheus_url="http://p", coverage=coverage, snapshot=snapshot)

    assert "50 %" in found(good, "Prometheus")[0].text.replace("50%", "50 %")
    assert found(bad, "Prometheus")[0].level is Level.WARNING
    assert found(facts(), "Prometheus")[0].level is Level.NOTE


def test_a_before_hook_that_cannot_run_is_an_error_for_nothing_would_start() -> None:
    hook = HookFacts(moment="before_plan", command="/x", fault="is not there", may_object=True)

    assert the_one(facts(hooks=(hook,))).level is Level.ERROR


# How it is shown ----------------------------------------------------------------------------


def test_json_says_everything() -> None:
    tree = json.loads(to_json(diagnose(facts(policies={"p": "bad"}))))

    assert tree["exit_code"] == 4
    assert {"level": "error", "area": "policy", "about": "p", "text": "bad"}.items() <= next(
        row for row in tree["findings"] if row["level"] == "error"
    ).items()


def test_of_many_hosts_the_sound_ones_are_counted_and_the_others_shown() -> None:
    many = [a_check(f"h{n}", read_error="refused" if n > 8 else "") for n in range(1, 11)]
    findings = diagnose(facts(hosts=tuple(many), addresses={}))

    page = to_markdown(blocks(findings))

    assert "h5" in page
    assert "h6" not in page
    assert "h9" in page
    assert "h10" in page
    assert "3 more like these" in page
