"""A server that answers range queries as Prometheus does, in a process of its own."""

from __future__ import annotations

import multiprocessing
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from urllib.parse import parse_qs, urlsplit

_NAMED = re.compile(r'label_replace\(vector\(1\), "\w+", "([^"]+)", "", ""\)')
"""What a question picks out; else all series are told."""
_DIFFERENT = 997
"""So many values are made beforehand: what is measured is who reads them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What is answered to queries that contain a word: a series for each name, about a mean."""

    word: str
    label: str
    names: Sequence[str]
    mean: float


@contextmanager
def serving(metrics: Sequence[Metric]) -> Iterator[str]:
    """Serve on a free port of this machine, and yield the address."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(tuple(metrics), theirs), daemon=True
    )
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


def _serve(metrics: Sequence[Metric], told: Connection) -> None:
    chance = random.Random(1)
    noise = [chance.gauss(1.0, 0.1) for _ in range(_DIFFERENT)]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = {name: got[0] for name, got in parse_qs(urlsplit(self.path).query).items()}
            metric = next(metric for metric in metrics if metric.word in asked["query"])
            named = _NAMED.findall(asked["query"])
            body = _answer(metric, named or metric.names, noise, asked).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.send(server.server_port)
    server.serve_forever()


def _answer(
    metric: Metric, names: Sequence[str], noise: Sequence[float], asked: dict[str, str]
) -> str:
    first, step = float(asked["start"]), float(asked["step"])
    count = int((float(asked["end"]) - first) / step + 1e-6) + 1
    instants = [f"{first + step * sample:.0f}" for sample in range(count)]
    series = ",".join(
        f'{{"metric":{{"{metric.label}":"{name}"}},"values":['
        + ",".join(
            f'[{instant},"{metric.mean * noise[(31 * number + place) % _DIFFERENT]:.9f}"]'
            for place, instant in enumerate(instants)
        )
        + "]}"
        for number, name in enumerate(names)
    )
    return f'{{"status":"success","data":{{"resultType":"matrix","result":[{series}]}}}}'
