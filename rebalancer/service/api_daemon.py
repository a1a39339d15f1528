"""The daemon's hold on its API: opened at the start, anew after each reload, closed at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rebalancer.service.api_notices import Noticeboard
from rebalancer.service.config import Settings
from rebalancer.service.session import Session

if TYPE_CHECKING:
    from rebalancer.service.api_server import ApiServer
    from rebalancer.service.metrics import Metrics

log = logging.getLogger(__name__)


class Api:
    """The API of one daemon, served or not."""

    def __init__(
        self,
        board: Noticeboard,
        session: Callable[[], Session],
        look_soon: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Answer from `board`, and from the journal that `session` has at the time.

        `look_soon` makes the daemon go through a policy's cycle as soon as it has time.
        """
        self._board = board
        self._session = session
        self._look_soon = look_soon
        self._server: ApiServer | None = None
        self._metrics: dict[tuple[str, int], Metrics] = {}

    def open(self, settings: Settings, environment: Mapping[str, str]) -> None:
        """Serve as the settings say, with the token and certificate as they are now.

        Whatever is in the way of that is a line in the log.
        """
        self.close()
        if not settings.api.enabled:
            return
        # FastAPI takes a third of a second to import, which no other command should wait for.
        from rebalancer.service.api import Desk, make_app
        from rebalancer.service.api_server import ApiServer

        metrics = self._metrics_for(settings)
        desk = Desk(
            session=self._session,
            board=self._board,
            metrics=metrics,
            look_soon=self._look_soon,
        )
        try:
            self._server = ApiServer(make_app(desk), settings.api, environment)
            self._server.start()
        except Exception:
            # Cycles matter more than being asked about them; the trace is in the log.
            log.exception("api_failed")

    def _metrics_for(self, settings: Settings) -> Metrics:
        """Count on over reloads, unless there is something else to count."""
        from rebalancer.service.metrics import Metrics

        key = (settings.cluster, settings.api.max_vm_series)
        if key not in self._metrics:
            self._metrics = {key: Metrics(self._board, *key)}
        return self._metrics[key]

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it is served just now."""
        return self._server.addresses if self._server is not None else ()

    def close(self) -> None:
        """Serve no more."""
        if self._server is not None:
            self._server.stop()
            self._server = None
