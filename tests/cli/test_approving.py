"""`rebalancer approve` and `reject`, with a daemon on this machine and without."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from rebalancer.errors import ExitCode
from rebalancer.service.clock import SystemClock
from rebalancer.service.recommendations import Recommendation, Recommendations
from tests.cli.conftest import Rebalancer
from tests.unit.service.api_world import after_a_cycle, served
from tests.unit.service.samples import a_plan

LATER = datetime(2999, 1, 1, tzinfo=UTC)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'journal.db'}"


@pytest.fixture(autouse=True)
def _of_cluster_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REBALANCER_CLUSTER", "test")
    monkeypatch.setenv("REBALANCER_API__SOCKET", str(tmp_path / "api.sock"))


def recommend(url: str, *plans: str) -> None:
    with Recommendations.open(url) as kept:
        for plan in plans:
            kept.keep("balance", a_plan(id=plan, expires_at=LATER), SystemClock().now())


def waiting(url: str) -> Recommendation | None:
    with Recommendations.open(url) as kept:
        return kept.waiting("test", "balance")


def test_without_a_daemon_here_an_approval_waits_in_the_journal(
    rebalancer: Rebalancer, url: str
) -> None:
    recommend(url, "plan-1")

    ran = rebalancer("approve", "plan-1")

    found = waiting(url)
    assert ran.code == ExitCode.SUCCESS
    assert ran.out.startswith("cluster test: plan plan-1 is approved")
    assert found is not None
    assert found.approved_by.startswith("by ")


def test_a_daemon_that_runs_here_is_asked_and_looks_at_once(
    rebalancer: Rebalancer, url: str, tmp_path: Path
) -> None:
    recommend(url, "plan-1")
    with served(tmp_path) as api:
        after_a_cycle(api.board)
        ran = rebalancer("approve", "plan-1")
        unknown = rebalancer("approve", "plan-9")

        assert api.looks == ["balance"]

    found = waiting(url)
    assert ran.code == ExitCode.SUCCESS
    assert found is not None
    assert "through the API" in found.approved_by
    assert (unknown.code, unknown.err) == (
        ExitCode.USAGE,
        "rebalancer: no plan plan-9 was recommended\n",
    )


def test_a_daemon_of_another_cluster_is_not_asked(
    rebalancer: Rebalancer, url: str, tmp_path: Path
) -> None:
    recommend(url, "plan-1")
    with served(tmp_path, cluster="other") as api:
        ran = rebalancer("approve", "plan-1")

        assert api.looks == []
    assert ran.code == ExitCode.SUCCESS
    assert waiting(url) is not None


def test_without_a_name_the_plans_that_wait_are_listed(rebalancer: Rebalancer, url: str) -> None:
    nothing = rebalancer("approve")
    recommend(url, "plan-1", "plan-2")
    rebalancer("approve", "plan-2")

    listed = rebalancer("approve").out.splitlines()

    assert nothing.out == "no plan waits for an approval\n"
    assert [line.split()[:3] for line in listed] == [
        ["plan-1", "balance", "recommended"],
        ["plan-2", "balance", "approved"],
    ]


def test_a_rejected_plan_is_not_approved_and_an_approval_is_taken_back(
    rebalancer: Rebalancer, url: str
) -> None:
    recommend(url, "plan-1")
    rebalancer("approve", "plan-1")

    rejected = rebalancer("reject", "plan-1", "--reason", "change freeze")
    again = rebalancer("approve", "plan-1")

    assert rejected.out == "cluster test: plan plan-1 is rejected\n"
    assert waiting(url) is None
    assert again.code == ExitCode.REFUSED
    assert "change freeze" in again.err
    assert rebalancer("reject", "plan-1").code == ExitCode.REFUSED
    assert rebalancer("reject", "plan-7").code == ExitCode.USAGE


def test_nothing_is_approved_while_the_cluster_is_paused(rebalancer: Rebalancer, url: str) -> None:
    recommend(url, "plan-1")
    rebalancer("pause", "--reason", "new switch")

    ran = rebalancer("approve", "plan-1")

    assert ran.code == ExitCode.BLOCKED
    assert "new switch" in ran.err
    assert waiting(url) is None
