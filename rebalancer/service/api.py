"""The HTTP API of the daemon: what is going on, and what operators want of it.

Whatever changes something writes a wish into the journal, as the commands do; nothing here moves a
VM, and nothing here makes the daemon's cycle wait. Who may call is decided in `api_access`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

import rebalancer
from rebalancer.cluster.inventory import HostId
from rebalancer.cluster.plan import Plan
from rebalancer.errors import (
    JournalError,
    LockHeldError,
    PausedError,
    PlanRefusedError,
    RebalancerError,
    UsageError,
)
from rebalancer.service.api_bodies import ApproveBody, CancelBody, PauseBody, ThrottleBody
from rebalancer.service.api_notices import Notice, Noticeboard
from rebalancer.service.approving import approved_text, ask_to_reject, refuse_if_paused
from rebalancer.service.clock import SystemClock
from rebalancer.service.config import RunMode, journal_url
from rebalancer.service.looking import history_row, status_of
from rebalancer.service.metrics import CONTENT_TYPE, Metrics
from rebalancer.service.plan_file import plan_to_json
from rebalancer.service.recommendations import Recommendations
from rebalancer.service.report import to_json
from rebalancer.service.session import Session
from rebalancer.service.steering import (
    ask_to_cancel,
    ask_to_pause,
    ask_to_resume,
    ask_to_throttle,
)

log = logging.getLogger(__name__)

_STATUS_OF_ERROR: tuple[tuple[type[RebalancerError], int], ...] = (
    (JournalError, 503),
    (UsageError, 422),
    (PausedError, 409),
    (PlanRefusedError, 409),
    (LockHeldError, 409),
)

type PlanId = Annotated[str, Path(max_length=200)]
type HostName = Annotated[str, Path(max_length=200)]
type Limit = Annotated[int, Query(ge=1, le=100)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What the API answers from."""

    session: Callable[[], Session]
    """The settings in force."""
    board: Noticeboard
    metrics: Metrics
    look_soon: Callable[[str], None]
    """Have the daemon go through a policy's cycle as soon as it has time."""


def make_app(desk: Desk) -> FastAPI:
    """Put the API together."""
    app = FastAPI(title="rebalancer", version=rebalancer.__version__, docs_url=None, redoc_url=None)
    _answer_errors(app)
    _add_metrics(app, desk)
    _add_views(app, desk)
    _add_wishes(app, desk)
    _add_approval(app, desk)
    _add_drains(app, desk)
    return app


def _add_metrics(app: FastAPI, desk: Desk) -> None:
    @app.get("/metrics", response_class=Response)
    def metrics() -> Response:
        """Metrics for Prometheus."""
        try:
            with desk.session().existing_journal() as journal:
                text = desk.metrics.text(journal)
        except JournalError as error:
            log.warning("metrics_without_journal", extra={"error": str(error)})
            text = desk.metrics.text(None, is_readable=False)
        return Response(text, media_type=CONTENT_TYPE)


def _add_views(app: FastAPI, desk: Desk) -> None:
    @app.get("/v1/status")
    def status() -> Response:
        """What is going on, and where each policy stands."""
        now, notices = status_of(desk.session()), desk.board.read()
        told = {field.name: getattr(now, field.name) for field in dataclasses.fields(now)}
        policies = [_policy_tree(name, notice) for name, notice in notices.policies.items()]
        standing = {"role": notices.role, "leader": notices.leader}
        return _json(told | standing | {"cycle_of": notices.running, "policies": policies})

    @app.get("/v1/plans")
    def plans() -> Response:
        """The last plan of each policy, in short."""
        notices = desk.board.read().policies
        return _json(
            {
                "plans": [
                    _plan_tree(notice.seen.plan)
                    for notice in notices.values()
                    if notice.seen is not None
                ]
            }
        )

    @app.get("/v1/plans/{plan_id}")
    def plan(plan_id: PlanId) -> Response:
        """A plan as `rebalancer plan -o json` writes it: recommended, or applied."""
        text = _plan_text(desk, plan_id)
        if not text:
            raise HTTPException(404, f"no plan {plan_id} was recommended or applied")
        return Response(text, media_type="application/json")

    @app.get("/v1/history")
    def history(limit: Limit = 20) -> Response:
        """What was rolled out, newest first."""
        session = desk.session()
        with session.existing_journal() as journal:
            rows = (
                [history_row(journal, row) for row in journal.rollouts(_cluster(desk), limit)]
                if journal is not None
                else []
            )
        return _json({"rollouts": rows})


def _add_wishes(app: FastAPI, desk: Desk) -> None:
    @app.post("/v1/pause")
    def pause(request: Request, body: PauseBody | None = None) -> Response:
        """Have nothing new started until it is resumed."""
        asked = body or PauseBody()
        return _said(
            desk, request, ask_to_pause(desk.session(), _who(request, asked.by), asked.reason)
        )

    @app.post("/v1/resume")
    def resume(request: Request) -> Response:
        """Let migrations be started again."""
        return _said(desk, request, ask_to_resume(desk.session()))

    @app.post("/v1/cancel")
    def cancel(request: Request, body: CancelBody | None = None) -> Response:
        """End the rollout at work."""
        asked = body or CancelBody()
        return _said(desk, request, ask_to_cancel(desk.session(), abort=asked.abort))

    @app.post("/v1/throttle")
    def throttle(request: Request, body: ThrottleBody) -> Response:
        """Hold migrations to less than their policy allows, or to that again."""
        said = ask_to_throttle(desk.session(), body.at_once, body.link_share, off=body.off)
        return _said(desk, request, said)


def _add_approval(app: FastAPI, desk: Desk) -> None:
    @app.post("/v1/plans/{plan_id}/approve")
    def approve(request: Request, plan_id: PlanId, body: ApproveBody | None = None) -> Response:
        """Have a plan carried out that the daemon recommended, at its next look."""
        settings, now = desk.session().settings, SystemClock().now()
        refuse_if_paused(desk.session())
        with Recommendations.open(journal_url(settings)) as kept:
            found = kept.find(settings.cluster, plan_id)
            if found is None:
                raise HTTPException(404, f"no plan {plan_id} was recommended")
            notice = desk.board.read().policies.get(found.policy)
            if notice is None or notice.mode != RunMode.RECOMMEND:
                raise PlanRefusedError(
                    f"policy {found.policy} is not one that this daemon only recommends plans for"
                )
            who = _who(request, (body or ApproveBody()).by)
            kept.approve(settings.cluster, plan_id, f"by {who}", now)
        desk.look_soon(found.policy)
        return _said(desk, request, approved_text(plan_id))

    @app.post("/v1/plans/{plan_id}/reject")
    def reject(request: Request, plan_id: PlanId, body: PauseBody | None = None) -> Response:
        """Let nobody approve a plan that was recommended, and take back an approval of it."""
        settings, asked = desk.session().settings, body or PauseBody()
        with Recommendations.open(journal_url(settings)) as kept:
            if kept.find(settings.cluster, plan_id) is None:
                raise HTTPException(404, f"no plan {plan_id} was recommended")
        said = ask_to_reject(desk.session(), plan_id, _who(request, asked.by), asked.reason)
        return _said(desk, request, said)


def _add_drains(app: FastAPI, desk: Desk) -> None:
    @app.post("/v1/hosts/{host}/drain")
    def drain(request: Request, host: HostName, body: PauseBody | None = None) -> Response:
        """Have a host emptied and kept empty; it is looked at soon."""
        session, asked = desk.session(), body or PauseBody()
        _refuse_if_unknown(desk, host)
        who = _who(request, asked.by)
        with session.journal() as journal:
            reason = f"by {who}{f': {asked.reason}' if asked.reason else ''}"
            journal.mark_drain(session.settings.cluster, HostId(host), reason)
        for policy in desk.board.read().policies:
            desk.look_soon(policy)
        return _said(desk, request, f"{host} is to be emptied, and kept so until it is undrained")

    @app.post("/v1/hosts/{host}/undrain")
    def undrain(request: Request, host: HostName) -> Response:
        """Let VMs be placed on a host again; nothing moves by that alone."""
        session = desk.session()
        _refuse_if_unknown(desk, host)
        with session.journal() as journal:
            journal.unmark_drain(session.settings.cluster, HostId(host), "undrained over the API")
        return _said(desk, request, f"{host} may be used again")


def _refuse_if_unknown(desk: Desk, host: str) -> None:
    session = desk.session()
    known = {entry.name for entry in session.settings.hosts}
    with session.existing_journal() as journal:
        if journal is not None:
            known |= set(journal.drains(session.settings.cluster))
    if host not in known:
        raise HTTPException(404, f"no host called {host} in cluster {session.settings.cluster}")


def _answer_errors(app: FastAPI) -> None:
    """Answer every error with one sentence; traces go to the log."""

    @app.exception_handler(RebalancerError)
    def expected(_: Request, error: RebalancerError) -> Response:
        status = next((s for kind, s in _STATUS_OF_ERROR if isinstance(error, kind)), 500)
        return _json({"error": str(error)}, status)

    @app.exception_handler(RequestValidationError)
    def misspelt(_: Request, error: RequestValidationError) -> Response:
        faults = (_fault_text(fault) for fault in error.errors())
        return _json({"error": "; ".join(faults)}, 422)

    @app.exception_handler(HTTPException)
    def refused(_: Request, error: HTTPException) -> Response:
        return _json({"error": error.detail}, error.status_code)

    @app.exception_handler(Exception)
    def unexpected(_: Request, error: Exception) -> Response:
        del error  # the server logs it with its trace
        return _json({"error": "this is a bug in rebalancer; the daemon's log has the trace"}, 500)


def _fault_text(fault: dict[str, Any]) -> str:
    path = ".".join(str(step) for step in fault["loc"] if step not in ("body", "query", "path"))
    match fault["type"]:
        case "json_invalid":
            # Its path is where in the text the parser gave up.
            return f"the body is not valid JSON: {fault['ctx']['error']}"
        case "model_attributes_type":
            text = "expected a JSON object"
        case "extra_forbidden":
            text = "unknown key"
        case "value_error":
            text = str(fault["ctx"]["error"])
        case _:
            text = str(fault["msg"])
    return f"{path}: {text}" if path else text


def _json(tree: dict[str, Any], status: int = 200) -> Response:
    return Response(to_json(tree) + "\n", status_code=status, media_type="application/json")


def _said(desk: Desk, request: Request, text: str) -> Response:
    address = request.client.host if request.client else "unix socket"
    log.info("wish", extra={"path": request.url.path, "from": address, "text": text})
    return _json({"cluster": _cluster(desk), "text": text})


def _cluster(desk: Desk) -> str:
    return desk.session().settings.cluster


def _who(request: Request, by: str) -> str:
    """Name the caller for the record; over the unix socket there is no address."""
    address = f" from {request.client.host}" if request.client and request.client.host else ""
    return f"{by or 'somebody'} through the API{address}"


def _plan_text(desk: Desk, plan_id: str) -> str:
    notices = desk.board.read().policies.values()
    for seen in (notice.seen for notice in notices):
        if seen is not None and seen.plan.id == plan_id:
            return plan_to_json(seen.plan)
    with desk.session().existing_journal() as journal:
        if journal is None:
            return ""
        row = journal.rollout(plan_id)
        if row is not None:
            return journal.plan_text(row.id)
    with Recommendations.open(journal_url(desk.session().settings)) as kept:
        found = kept.find(_cluster(desk), plan_id)
        return found.plan_text if found is not None else ""


def _policy_tree(name: str, notice: Notice) -> dict[str, Any]:
    return {
        "policy": name,
        "mode": notice.mode,
        "verdict": notice.verdict,
        "result": notice.result,
        "ended_at": notice.ended_at,
        "took_seconds": notice.took_seconds,
        "next_at": notice.next_at,
        "plan": notice.seen.plan.id if notice.seen else None,
    }


def _plan_tree(plan: Plan) -> dict[str, Any]:
    return {
        "id": plan.id,
        "policy": plan.policy,
        "created_at": plan.created_at,
        "expires_at": plan.expires_at,
        "verdict": plan.verdict,
        "migrations": len(plan.migrations),
        "makespan_seconds": plan.makespan_seconds,
        "gap_ratio": plan.objective.gap_ratio if plan.objective else None,
        "captured_ratio": plan.objective.captured_ratio if plan.objective else None,
    }
