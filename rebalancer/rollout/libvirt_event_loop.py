"""The one event loop of this process that libvirt's keep-alives need."""

from __future__ import annotations

import threading
from typing import Any

_EVENT_LOOP = threading.Lock()
_event_loop_runs = False


def start_event_loop(libvirt: Any) -> None:  # noqa: ANN401
    """Start it, unless it runs already: keep-alives of all connections need one."""
    global _event_loop_runs
    with _EVENT_LOOP:
        if _event_loop_runs:
            return
        libvirt.virEventRegisterDefaultImpl()
        # libvirt prints every error to stderr unless told not to.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)

        def run() -> None:
            # The loop blocks while nothing happens: a timer keeps it turning.
            libvirt.virEventAddTimeout(1000, lambda _timer, _opaque: None, None)
            while libvirt.virEventRunDefaultImpl() == 0:
                pass

        threading.Thread(target=run, name="libvirt events", daemon=True).start()
        _event_loop_runs = True
