"""The API over real sockets: what it tells, what it does, whom it lets in."""

from __future__ import annotations

import json
import logging
import os
import socket
import ssl
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from rebalancer.cluster.inventory import HostId
from rebalancer.cluster.plan import MigrationState
from rebalancer.errors import UsageError
from rebalancer.rollout.records import RolloutStatus, state_entry
from rebalancer.rollout.wishes import Wishes
from rebalancer.service.api_server import open_unix_socket
from rebalancer.service.config import journal_url
from rebalancer.service.plan_file import plan_to_json
from rebalancer.service.recommendations import Recommendation, Recommendations
from tests.unit.service.api_world import (
    TOKEN,
    Served,
    after_a_cycle,
    make_certificate,
    make_token,
    served,
    settings_in,
)
from tests.unit.service.samples import a_plan


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as one:
        yield one


def wishes_of(one: Served) -> Wishes:
    with one.session.journal() as journal:
        return journal.wishes("test")


# What it tells -------------------------------------------------------------------------------


def test_the_status_says_where_each_policy_stands(api: Served) -> None:
    after_a_cycle(api.board)

    status = api.get("/v1/status").json()

    assert (status["schema_version"], status["cluster"], status["mode"]) == (1, "test", "recommend")
    (policy,) = status["policies"]
    assert policy["verdict"] == "recommended: move 1 VM"
    assert (policy["result"], policy["plan"]) == ("recommended", "plan-1")


def test_looking_makes_no_journal(api: Served, tmp_path: Path) -> None:
    answers = [api.get(path) for path in ("/v1/status", "/v1/history", "/v1/plans", "/metrics")]

    assert [answer.status_code for answer in answers] == [200] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["api.sock"]


def test_the_last_plan_of_each_policy_is_listed_and_can_be_had_whole(api: Served) -> None:
    after_a_cycle(api.board)

    (short,) = api.get("/v1/plans").json()["plans"]
    whole = api.get(f"/v1/plans/{short['id']}")

    assert (short["policy"], short["migrations"]) == ("balance", 1)
    assert whole.text == plan_to_json(a_plan())


def test_plans_that_were_applied_and_how_they_went_come_from_the_journal(api: Served) -> None:
    plan = a_plan(id="earlier")
    with api.session.journal() as journal, journal.hold("test") as lease:
        number = journal.begin(plan, lease, plan_to_json(plan))
        journal.write(number, [state_entry("m1", MigrationState.TRANSFER, "")], lease)
        journal.end(number, RolloutStatus.STOPPED, "on request", lease)

    (row,) = api.get("/v1/history").json()["rollouts"]

    assert (row["plan"], row["policy"], row["text"]) == ("earlier", "balance", "on request")
    assert api.get("/v1/plans/earlier").json()["id"] == "earlier"


# What it does --------------------------------------------------------------------------------


def test_pausing_and_resuming_are_wishes_in_the_journal(api: Served) -> None:
    paused = api.post("/v1/pause", {"by": "anna", "reason": "switch\x1b[31m is replaced"})
    wished = wishes_of(api)
    again = api.post("/v1/pause")
    resumed = api.post("/v1/resume")

    assert paused.json()["text"].startswith("paused until")
    assert (wished.paused_by, wished.reason) == (
        "anna through the API",
        "switch [31m is replaced",
    )
    assert "was paused already" in again.json()["text"]
    assert resumed.json()["text"].startswith("goes on")
    assert wishes_of(api).paused_at is None


def test_throttling_is_a_wish_and_can_be_taken_back(api: Served) -> None:
    slow = api.post("/v1/throttle", {"at_once": 2, "link_share": 0.3})
    wished = wishes_of(api)
    api.post("/v1/throttle", {"off": True})

    assert slow.json()["text"] == "migrates at most 2 at a time, with at most 30 % of each link"
    assert (wished.at_once, wished.link_share) == (2, 0.3)
    assert wishes_of(api) == Wishes()


def test_cancelling_ends_the_rollout_at_work(api: Served) -> None:
    nothing = api.post("/v1/cancel")
    with api.session.journal() as journal, journal.hold("test") as lease:
        number = journal.begin(a_plan(), lease, plan_to_json(a_plan()))
        stopped = api.post("/v1/cancel", {"abort": True})

    assert nothing.json()["text"] == "nothing is being carried out"
    assert stopped.json()["text"] == "plan plan-1 is being stopped: transfers are called off"
    assert (wishes_of(api).stop_rollout, wishes_of(api).stop_by_aborting) == (number, True)


LATER, BEFORE = datetime(2999, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)


def recommend(api: Served, plan: str = "plan-1", expires_at: datetime = LATER) -> None:
    with Recommendations.open(journal_url(api.session.settings)) as kept:
        kept.keep("balance", a_plan(id=plan, expires_at=expires_at), BEFORE)


def waiting(api: Served) -> Recommendation | None:
    with Recommendations.open(journal_url(api.session.settings)) as kept:
        return kept.waiting("test", "balance")


def test_approving_has_a_recommended_plan_carried_out_soon(api: Served) -> None:
    after_a_cycle(api.board)
    recommend(api)

    answer = api.post("/v1/plans/plan-1/approve", {"by": "anna"})

    found = waiting(api)
    assert (answer.status_code, api.looks) == (200, ["balance"])
    assert found is not None
    assert (found.plan_id, found.approved_by) == ("plan-1", "by anna through the API")


def test_the_plan_approved_last_is_the_one(api: Served) -> None:
    after_a_cycle(api.board)
    recommend(api, "plan-1")
    recommend(api, "plan-2")

    api.post("/v1/plans/plan-1/approve")
    api.post("/v1/plans/plan-2/approve")
    again = api.post("/v1/plans/plan-1/approve")

    found = waiting(api)
    assert found is not None
    assert found.plan_id == "plan-2"
    assert (again.status_code, again.json()["error"]) == (
        409,
        "plan plan-1 is over and done with: plan plan-2 was approved instead",
    )


def test_what_was_never_recommended_or_is_too_old_is_not_approved(api: Served) -> None:
    after_a_cycle(api.board)
    recommend(api, "old", expires_at=BEFORE)

    never, old = api.post("/v1/plans/other/approve"), api.post("/v1/plans/old/approve")

    assert (never.status_code, old.status_code) == (404, 409)
    assert "expired at 2020-01-01" in old.json()["error"]
    assert (waiting(api), api.looks) == (None, [])


def test_a_rejected_plan_cannot_be_approved_any_more(api: Served) -> None:
    after_a_cycle(api.board)
    recommend(api)

    never = api.post("/v1/plans/other/reject")
    rejected = api.post("/v1/plans/plan-1/reject", {"by": "anna", "reason": "too many"})
    approved = api.post("/v1/plans/plan-1/approve")

    assert (never.status_code, rejected.status_code, approved.status_code) == (404, 200, 409)
    assert "rejected by anna through the API: too many" in approved.json()["error"]


def test_a_plan_that_has_begun_is_cancelled_and_not_rejected(api: Served) -> None:
    recommend(api)
    with api.session.journal() as journal, journal.hold("test") as lease:
        journal.begin(a_plan(), lease, plan_to_json(a_plan()))

    answer = api.post("/v1/plans/plan-1/reject")

    assert answer.status_code == 409
    assert "rebalancer cancel" in answer.json()["error"]


def test_a_host_is_drained_and_used_again(tmp_path: Path) -> None:
    hosts = [{"name": "h1", "uri": "qemu+tcp://127.0.0.1:9/system"}]
    with served(tmp_path, hosts=hosts) as api:
        after_a_cycle(api.board)
        drained = api.post("/v1/hosts/h1/drain", {"by": "anna", "reason": "new memory"})
        unknown = api.post("/v1/hosts/h9/drain")
        with api.session.journal() as journal:
            marks = journal.drains("test")
        looks = list(api.looks)
        back = api.post("/v1/hosts/h1/undrain")
        with api.session.journal() as journal:
            after = journal.drains("test")

    assert (drained.status_code, unknown.status_code, back.status_code) == (200, 404, 200)
    assert marks[HostId("h1")].reason == "by anna through the API: new memory"
    assert looks == ["balance"]
    assert after == {}


def test_nothing_is_approved_while_paused_or_for_a_policy_that_acts_itself(api: Served) -> None:
    after_a_cycle(api.board)
    recommend(api)
    api.post("/v1/pause", {"reason": "switch"})
    paused = api.post("/v1/plans/plan-1/approve")
    api.post("/v1/resume")
    api.board.expect({"balance": ("auto", None)})
    automatic = api.post("/v1/plans/plan-1/approve")

    assert (paused.status_code, automatic.status_code) == (409, 409)
    assert "switch" in paused.json()["error"]
    assert "only recommends" in automatic.json()["error"]
    assert waiting(api) is None


# What it refuses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/v1/throttle", {}, "say at_once or link_share"),
        ("/v1/throttle", {"at_once": 0}, "at_once: Input should be greater than"),
        ("/v1/throttle", {"at_once": "2"}, "at_once: Input should be a valid integer"),
        ("/v1/throttle", {"at_once": 1, "off": True}, "say at_once or link_share"),
        ("/v1/throttle", {"link_share": 30}, "link_share: Input should be less than"),
        ("/v1/cancel", {"abrot": True}, "abrot: unknown key"),
        ("/v1/pause", ["reason"], "expected a JSON object"),
        ("/v1/pause", {"reason": "x" * 501}, "reason: String should have at most 500"),
    ],
)
def test_what_makes_no_sense_is_told_in_a_sentence(
    api: Served, path: str, body: object, says: str
) -> None:
    answer = api.post(path, body)

    assert answer.status_code == 422
    assert answer.json()["error"].startswith(says)
    assert wishes_of(api) == Wishes()


def test_what_is_no_json_is_told_so(api: Served) -> None:
    with api.client() as client:
        answer = client.post(
            "/v1/pause", content=b"reason=fans", headers={"Content-Type": "application/json"}
        )

    assert answer.status_code == 422
    assert answer.json()["error"].startswith("the body is not valid JSON: ")


def test_unknown_plans_and_paths_are_not_found(api: Served) -> None:
    unknown, elsewhere, how = (
        api.get("/v1/plans/nothing"),
        api.get("/v2/status"),
        api.get("/v1/pause"),
    )

    assert [answer.status_code for answer in (unknown, elsewhere, how)] == [404, 404, 405]
    assert "no plan nothing was recommended or applied" in unknown.json()["error"]


def test_a_journal_that_cannot_be_used_is_said_and_metrics_go_on(
    api: Served, tmp_path: Path
) -> None:
    (tmp_path / "journal.db").write_bytes(b"this is not a database, whatever else" * 40)

    status, metrics = api.get("/v1/status"), api.get("/metrics")

    assert status.status_code == 503
    assert "is damaged" in status.json()["error"]
    assert "\nrebalancer_journal_up 0.0\n" in metrics.text
    assert "rebalancer_paused " not in metrics.text


def test_a_bug_is_one_sentence_for_the_client_and_a_trace_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(tmp_path) as api, monkeypatch.context() as patch:
        patch.setattr(api.board, "read", lambda: 1 / 0)
        answer = api.get("/v1/plans")

    assert answer.status_code == 500
    assert "bug in rebalancer" in answer.json()["error"]
    assert "Traceback" not in answer.text
    assert any(record.exc_info for record in caplog.records)


def test_large_bodies_and_endless_ones_are_refused(api: Served) -> None:
    with api.client() as client:
        large = client.post("/v1/pause", content=b" " * 20_000)
        endless = client.post("/v1/pause", content=iter([b"{}"]))

    assert (large.status_code, endless.status_code) == (413, 411)
    assert wishes_of(api) == Wishes()


# The unix socket -----------------------------------------------------------------------------


def test_the_socket_is_for_owner_and_group_and_goes_away(tmp_path: Path) -> None:
    mask = os.umask(0o077)
    try:
        with served(tmp_path) as api:
            mode = stat.S_IMODE(api.socket.stat().st_mode)
    finally:
        os.umask(mask)

    assert mode == 0o660
    assert not api.socket.exists()


def test_what_a_killed_daemon_left_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "api.sock"))

    with served(tmp_path) as api:
        assert api.get("/v1/status").status_code == 200


def test_another_daemon_s_socket_is_left_to_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with served(tmp_path) as first:
        with served(tmp_path) as second:
            assert second.api.addresses == ()
        assert first.get("/v1/status").status_code == 200

    (line,) = [record for record in caplog.records if record.getMessage() == "api_failed"]
    assert "another process serves there" in line.__dict__["error"]


def test_a_file_in_the_way_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    path.write_text("precious")

    with pytest.raises(UsageError, match="is no socket"):
        open_unix_socket(path)

    assert path.read_text() == "precious"


def test_a_socket_that_cannot_be_made_is_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with served(tmp_path, api__socket=str(tmp_path / "missing" / "api.sock")) as api:
        assert api.api.addresses == ()

    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert line.getMessage() == "api_failed"


def test_nothing_is_served_where_that_is_not_wanted(tmp_path: Path) -> None:
    with served(tmp_path, api__enabled=False) as api:
        assert api.api.addresses == ()
        assert not api.socket.exists()


def test_a_slow_client_keeps_nobody_waiting(api: Served) -> None:
    with socket.socket(socket.AF_UNIX) as slow:
        slow.connect(str(api.socket))
        slow.sendall(b"GET /v1/status HTTP/1.1\r\nHost: ")

        assert api.get("/v1/status").status_code == 200


# TCP -----------------------------------------------------------------------------------------


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[tuple[str, ssl.SSLContext]]:
    certificate, key = make_certificate(tmp_path)
    settings = {"api__listen": "127.0.0.1:0", "api__token_file": str(make_token(tmp_path))}
    settings |= {"api__tls_certificate": str(certificate), "api__tls_key": str(key)}
    with served(tmp_path, **settings) as one:
        _, address = one.api.addresses
        port = address.rpartition(", ")[2].rstrip(")")
        yield f"https://127.0.0.1:{port}", ssl.create_default_context(cafile=str(certificate))


def test_over_tcp_the_token_opens_the_door(remote: tuple[str, ssl.SSLContext]) -> None:
    address, trusting = remote
    with httpx.Client(base_url=address, verify=trusting, timeout=30) as client:
        told = client.get("/v1/status", headers={"Authorization": f"Bearer {TOKEN}"})
        scraped = client.get("/metrics", headers={"Authorization": f"bearer {TOKEN}"})

    assert (told.status_code, scraped.status_code) == (200, 200)
    assert told.json()["cluster"] == "test"


@pytest.mark.parametrize(
    "given",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": "Bearer"}],
)
def test_without_it_nothing_is_told_and_nothing_done(
    remote: tuple[str, ssl.SSLContext], given: dict[str, str]
) -> None:
    address, trusting = remote
    with httpx.Client(base_url=address, verify=trusting, timeout=30) as client:
        answers = [
            client.get("/v1/status", headers=given),
            client.get("/metrics", headers=given),
            client.get("/openapi.json", headers=given),
            client.get("/nothing", headers=given),
            client.post("/v1/pause", headers=given),
        ]

    assert {answer.status_code for answer in answers} == {401}
    assert {answer.headers["www-authenticate"] for answer in answers} == {"Bearer"}
    assert len({answer.text for answer in answers}) == 1
    assert TOKEN not in answers[0].text


def test_over_tcp_nothing_goes_without_tls(remote: tuple[str, ssl.SSLContext]) -> None:
    plain = remote[0].replace("https:", "http:")

    with httpx.Client(base_url=plain, timeout=30) as client, pytest.raises(httpx.TransportError):
        client.get("/v1/status", headers={"Authorization": f"Bearer {TOKEN}"})


@pytest.mark.parametrize(
    ("token", "mode", "says"),
    [
        (TOKEN, 0o644, "others may read or change it"),
        ("short", 0o600, "16 characters or more"),
        ("two words of a token", 0o600, "one word"),
    ],
)
def test_a_poor_token_is_refused_and_the_socket_serves_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, token: str, mode: int, says: str
) -> None:
    certificate, key = make_certificate(tmp_path)
    settings = {"api__listen": "127.0.0.1:0", "api__tls_key": str(key)}
    settings |= {"api__token_file": str(make_token(tmp_path, token, mode))}
    settings |= {"api__tls_certificate": str(certificate)}
    with served(tmp_path, **settings) as api:
        assert api.get("/v1/status").status_code == 200
        assert len(api.api.addresses) == 1

    (line,) = [record for record in caplog.records if record.getMessage() == "api_failed"]
    assert says in line.__dict__["error"]
    assert token not in line.__dict__["error"]


def test_a_key_that_is_not_the_certificate_s_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, _ = make_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    _, other_key = make_certificate(tmp_path / "other")
    settings = {"api__listen": "127.0.0.1:0", "api__tls_key": str(other_key)}
    settings |= {"api__token_file": str(make_token(tmp_path))}
    settings |= {"api__tls_certificate": str(certificate)}
    with served(tmp_path, **settings) as api:
        assert len(api.api.addresses) == 1

    assert "cannot be used" in caplog.records[-1].__dict__.get("error", caplog.text)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"api__listen": "0.0.0.0:9469"}, "token_file, tls_certificate, tls_key are not set"),
        (
            {"api__listen": "[::]:9469", "api__token_file": "/t", "api__tls_key": "/k"},
            "tls_certificate is not set",
        ),
        ({"api__token_file": "/t"}, "of no use without api.listen"),
        ({"api__listen": "9469"}, "expected such as 10.0.0.5:9469"),
        ({"api__listen": "::1:9469"}, "expected such as 10.0.0.5:9469"),
        ({"api__listen": "h1:99999"}, "expected such as 10.0.0.5:9469"),
        ({"api__socket": "api.sock"}, "not an absolute path"),
        ({"api__socket": "/" + "x" * 120}, "too long for a socket"),
    ],
)
def test_settings_that_would_leave_the_door_open_are_refused(
    tmp_path: Path, settings: dict[str, str], says: str
) -> None:
    with pytest.raises(UsageError, match="(?s).*" + says.replace("[", r"\[")):
        settings_in(tmp_path, **settings)


def test_reloading_takes_the_new_token(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    path = make_token(tmp_path)
    settings = {"api__listen": "127.0.0.1:0", "api__token_file": str(path)}
    settings |= {"api__tls_certificate": str(certificate), "api__tls_key": str(key)}
    trusting = ssl.create_default_context(cafile=str(certificate))
    with served(tmp_path, **settings) as one:
        path.write_text("another-token-of-some-length")
        one.api.open(one.session.settings, {})
        port = one.api.addresses[1].rpartition(", ")[2].rstrip(")")
        with httpx.Client(verify=trusting, timeout=30) as client:
            codes = [
                client.get(
                    f"https://127.0.0.1:{port}/v1/status",
                    headers={"Authorization": f"Bearer {token}"},
                ).status_code
                for token in (TOKEN, "another-token-of-some-length")
            ]

    assert codes == [401, 200]


def test_the_api_tells_what_it_can(api: Served) -> None:
    described = json.loads(api.get("/openapi.json").text)

    assert sorted(described["paths"]) == [
        "/metrics",
        "/v1/cancel",
        "/v1/history",
        "/v1/hosts/{host}/drain",
        "/v1/hosts/{host}/undrain",
        "/v1/pause",
        "/v1/plans",
        "/v1/plans/{plan_id}",
        "/v1/plans/{plan_id}/approve",
        "/v1/plans/{plan_id}/reject",
        "/v1/resume",
        "/v1/status",
        "/v1/throttle",
    ]
