"""A Prometheus that answers what a test says, on a real socket of this machine."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

_NAMED = re.compile(r'label_replace\(vector\(1\), "(\w+)", "([^"]+)", "", ""\)')
"""What a query picks out, as far as this knows PromQL."""

type Samples = Sequence[tuple[float, str]]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One series: labels, and values as Prometheus writes them, by instant."""

    labels: Mapping[str, str]
    samples: Samples


@dataclass(kw_only=True)
class FakePrometheus:
    """What is answered to a query that contains a word, and what was asked."""

    series: dict[str, list[Series]] = field(default_factory=dict)
    status: int = 200
    body: str | None = None
    """Answer this, whatever is asked."""
    refuses: str | None = None
    """Refuse queries in which this is."""
    hold: threading.Event | None = None
    """Answer only when this is set."""
    asked: list[Mapping[str, str]] = field(default_factory=list)
    url: str = ""

    def answer(self, asked: Mapping[str, str]) -> str:
        if self.body is not None:
            return self.body
        found = [
            one for word, series in self.series.items() if word in asked["query"] for one in series
        ]
        if named := _NAMED.findall(asked["query"]):
            found = [one for one in found if any(one.labels.get(k) == v for k, v in named)]
        first, last = float(asked["start"]), float(asked["end"])
        result = [
            {
                "metric": dict(one.labels),
                "values": [[when, value] for when, value in one.samples if first <= when <= last],
            }
            for one in found
        ]
        data = {"resultType": "matrix", "result": [one for one in result if one["values"]]}
        return json.dumps({"status": "success", "data": data})


@contextmanager
def serving(fake: FakePrometheus) -> Iterator[FakePrometheus]:
    """Serve it on a free port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = {k: v[0] for k, v in parse_qs(urlsplit(self.path).query).items()}
            fake.asked.append(asked)
            if fake.hold is not None:
                fake.hold.wait(30)
            refused = fake.refuses is not None and fake.refuses in asked["query"]
            body = b"no" if refused else fake.answer(asked).encode()
            try:
                self.send_response(422 if refused else fake.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                return  # whoever asked has gone

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        if fake.hold is not None:
            fake.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()
