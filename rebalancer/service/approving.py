"""`rebalancer approve` and `reject`: what becomes of plans that the daemon recommended.

A daemon that runs here is asked over its socket, so that it begins at once; without one it is
written into the journal, where the daemon that leads finds it at its next look.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from pathlib import Path
from typing import Annotated, Any

import typer

from rebalancer.errors import ExitCode, PausedError, PlanRefusedError, RebalancerError, UsageError
from rebalancer.service import options
from rebalancer.service.api_format import SOCKET_NAME, socket_path
from rebalancer.service.clock import SystemClock
from rebalancer.service.config import Settings, journal_url
from rebalancer.service.recommendations import Recommendations
from rebalancer.service.session import Session, open_session, who_is_asking

RUN_FOLDER = Path("/run/rebalancer")
"""What systemd makes for the daemon."""
ANSWERS_WITHIN_SECONDS = 10.0

PlanName = Annotated[
    str | None,
    typer.Argument(metavar="PLAN", help="Its id; without it, those that may be are listed."),
]


def approve(plan: PlanName = None, config: options.Config = None) -> ExitCode:
    """Have a plan carried out that the daemon recommended, if it still fits the cluster then."""
    session = open_session(config)
    if plan is None:
        return _list(session)
    who = who_is_asking()
    said = _ask_daemon(session.settings, f"/v1/plans/{plan}/approve", {"by": who})
    if said is None:
        refuse_if_paused(session)
        with Recommendations.open(journal_url(session.settings)) as kept:
            kept.approve(session.settings.cluster, plan, f"by {who}", SystemClock().now())
        said = approved_text(plan)
    return _say(session, said)


def reject(
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="Its id.")],
    config: options.Config = None,
    reason: Annotated[str, typer.Option("--reason", help="For those who wonder why.")] = "",
) -> ExitCode:
    """Let nobody approve a plan that was recommended, and take back an approval of it."""
    session = open_session(config)
    return _say(session, ask_to_reject(session, plan, who_is_asking(), reason))


def refuse_if_paused(session: Session) -> None:
    """Raise `PausedError`: an approval would be over before anything may begin."""
    with session.journal() as journal:
        if why := journal.wishes(session.settings.cluster).why_paused:
            raise PausedError(f"the cluster is paused {why}; resume it first")


def approved_text(plan: str) -> str:
    """What is said of a plan that was just approved."""
    return f"plan {plan} is approved; it begins if it still fits the cluster"


def ask_to_reject(session: Session, plan: str, who: str, reason: str) -> str:
    """Have a plan not carried out; return a sentence about it."""
    with session.journal() as journal:
        if journal.applied(plan):
            raise PlanRefusedError(f"plan {plan} was begun already: `rebalancer cancel` stops it")
    text = f"it was rejected by {who}{f': {reason}' if reason else ''}"
    with Recommendations.open(journal_url(session.settings)) as kept:
        kept.reject(session.settings.cluster, plan, text)
    return f"plan {plan} is rejected"


def _list(session: Session) -> ExitCode:
    now = SystemClock().now()
    with Recommendations.open(journal_url(session.settings)) as kept:
        found = kept.approvable(session.settings.cluster, now)
    for one in found:
        state = f"approved {one.approved_by}" if one.approved_at is not None else "recommended"
        until = f"until {one.expires_at:%Y-%m-%d %H:%M:%S} UTC"
        line = f"{one.plan_id}  {one.policy}  {state}  {until}"
        session.out.print(line, highlight=False, markup=False, soft_wrap=True)
    if not found:
        session.out.print("no plan waits for an approval", highlight=False)
    return ExitCode.SUCCESS


def _say(session: Session, text: str) -> ExitCode:
    said = f"cluster {session.settings.cluster}: {text}"
    session.out.print(said, highlight=False, markup=False, soft_wrap=True)
    return ExitCode.SUCCESS


class _ToSocket(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("rebalancer", timeout=ANSWERS_WITHIN_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _ask_daemon(settings: Settings, path: str, body: dict[str, str]) -> str | None:
    """What the daemon here says to it; `None` if there is none, or it cannot tell."""
    if not settings.api.enabled:
        return None
    address = socket_path(settings.api, os.environ) or RUN_FOLDER / SOCKET_NAME
    try:
        _, about = _exchange(address, "GET", "/v1/status")
        if about.get("cluster") != settings.cluster:
            return None  # it looks after another one
        status, tree = _exchange(address, "POST", path, body)
    except (OSError, http.client.HTTPException, ValueError):
        return None
    if status == http.HTTPStatus.OK:
        return str(tree["text"])
    raise _error_for(status, str(tree.get("error", "the daemon gave no reason")))


def _exchange(
    address: Path, method: str, path: str, body: dict[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    connection = _ToSocket(address)
    try:
        said = json.dumps(body) if body is not None else None
        connection.request(method, path, said, headers={"Content-Type": "application/json"})
        answer = connection.getresponse()
        tree: dict[str, Any] = json.loads(answer.read())
        return answer.status, tree
    finally:
        connection.close()


def _error_for(status: int, text: str) -> RebalancerError:
    match status:
        case http.HTTPStatus.NOT_FOUND | http.HTTPStatus.UNPROCESSABLE_ENTITY:
            return UsageError(text)
        case http.HTTPStatus.CONFLICT:
            return PlanRefusedError(text)
        case _:
            return RebalancerError(text)
