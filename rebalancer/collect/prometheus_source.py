"""Past CPU use from a Prometheus server, over its HTTP API.

The only module that knows `prometheus_api_client`, which is imported when the first question is
asked: whoever has no Prometheus need not have it. What the server answers is put on one grid here
and not judged; whether it is enough to act on, `past_use` says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray

from rebalancer.cluster.inventory import HostId, UsageHistory, VmId
from rebalancer.collect.remembered_use import rows_of
from rebalancer.errors import ObservationError

VM_CPU_QUERY = (
    "sum by (uuid) (rate(libvirt_domain_info_cpu_time_seconds_total[$window])"
    " unless on (uuid, instance) (libvirt_domain_state_code == 3))"
)
"""Cores of each VM, from Debian's prometheus-libvirt-exporter.

`rate` sees to counters that begin again. During a migration the target exports its paused copy
(state 3), too: it is left out. The rates of both hosts are added up and not the larger taken, since
a window in which a VM moved has one part of its use in the one counter, and the rest in the other.
"""
HOST_CPU_QUERY = (
    'sum by (instance) (rate(node_cpu_seconds_total{mode!~"idle|iowait|steal"}[$window]))'
)
"""Cores in use of each host, guests and all, from node exporter."""

MOST_SAMPLES_AT_ONCE = 50_000
"""An answer with so many takes some 10 MB while it is read, twenty times what is kept of it."""
MOST_POINTS_AT_ONCE = 11_000
"""A server refuses more points of one series than this, whatever its settings."""
MOST_NAMED_AT_ONCE = 32
"""VMs in one question: some 4 KB of its address, of which proxies let 8 KB through."""
_PLAIN_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_.:-]+")
_SHOWN_CHARACTERS = 300

type Cores = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQueries:
    """What to ask. Each query gives cores; `$window` in it becomes the length of one sample."""

    vm_cpu: str = VM_CPU_QUERY
    vm_label: str = "uuid"
    """The label that tells the VM, by its libvirt UUID."""
    host_cpu: str | None = HOST_CPU_QUERY
    """`None`: hosts are not asked about."""
    host_label: str = "instance"
    """The label that tells the host; a port at its end is ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusSource:
    """Asks a Prometheus how much CPU VMs and hosts used.

    `hosts` has every host under each name that the server may call it by.
    """

    url: str
    hosts: Mapping[str, HostId]
    queries: UsageQueries = field(default_factory=UsageQueries)
    step_seconds: float = 300.0
    timeout_seconds: float = 30.0
    """For one question; a long history is several."""

    def history(self, vms: Collection[VmId], start: datetime, end: datetime) -> UsageHistory:
        """Return the use of `vms` and of all hosts on one grid; unknown samples are NaN.

        Raises `ObservationError` when the server cannot be asked, or answers what makes no sense.
        """
        grid = self._grid(start, end)
        hosts = dict.fromkeys(self.hosts.values())
        host_cores = dict(rows_of(hosts, grid.samples))
        heard: dict[str, list[_Series]] = {}
        with _Server(self.url, self.timeout_seconds) as server:
            vm_cores = self._vm_cores(server, self.queries.vm_cpu, vms, grid)
            for part in grid.parts(len(hosts)) if self.queries.host_cpu is not None else ():
                label = _Label(setting="prometheus.host_cpu_query", name=self.queries.host_label)
                for series in server.series(self.queries.host_cpu or "", part, label):
                    heard.setdefault(series.called, []).append(series)
            for host, called in self._called(heard):
                for series in heard[called]:
                    _fill(host_cores[host], series, grid)
        return UsageHistory(
            start=grid.start,
            interval_seconds=self.step_seconds,
            vm_cpu_cores=vm_cores,
            host_cpu_cores=host_cores,
        )

    def history_of_few(
        self, vms: Collection[VmId], start: datetime, end: datetime
    ) -> UsageHistory | None:
        """Return the use of `vms` alone; `None` if they are too many to be named in a question.

        Raises as `history` does.
        """
        query = picking(self.queries.vm_cpu, self.queries.vm_label, vms)
        if query is None:
            return None
        grid = self._grid(start, end)
        with _Server(self.url, self.timeout_seconds) as server:
            vm_cores = self._vm_cores(server, query, vms, grid)
        return UsageHistory(
            start=grid.start,
            interval_seconds=self.step_seconds,
            vm_cpu_cores=vm_cores,
            host_cpu_cores={},
        )

    def _grid(self, start: datetime, end: datetime) -> _Grid:
        return _Grid(
            start=start.astimezone(UTC),
            step_seconds=self.step_seconds,
            samples=max(0, int((end - start).total_seconds() / self.step_seconds + 1e-9)),
        )

    def _vm_cores(
        self, server: _Server, query: str, vms: Collection[VmId], grid: _Grid
    ) -> dict[VmId, Cores]:
        wanted = {str(vm): vm for vm in vms}
        cores = dict(rows_of(dict.fromkeys(vms), grid.samples))
        label = _Label(setting="prometheus.vm_cpu_query", name=self.queries.vm_label)
        for part in grid.parts(len(wanted)):
            for series in server.series(query, part, label):
                if (vm := wanted.get(series.called)) is not None:
                    _add(cores[vm], series, grid)
        return cores

    def _called(self, heard: Collection[str]) -> Iterator[tuple[HostId, str]]:
        """Find hosts by what the server calls them: `h1:9100`, `h1.example.org` or just `h1`.

        The surest comes first: a server may know hosts of other clusters, too, and another `h1`.
        """
        for form in (str, _without_port, _short):
            for called in sorted(heard):
                if (host := self.hosts.get(form(called))) is not None:
                    yield host, called


def picking(query: str, label: str, values: Collection[str]) -> str | None:
    """Write a query for what `query`, whatever it is, gives for some values of a label.

    What an expression gives cannot be filtered in PromQL, but what another one gives as well can
    be kept: `(query) and on (label) (label_replace(vector(1), "label", "value", "", "") or …)`.
    `None` for values that are too many for the address of a question, or would mean something
    else in there.
    """
    plain = _PLAIN_LABEL.fullmatch(label) and all(map(_PLAIN_VALUE.fullmatch, values))
    if not plain or not 0 < len(values) <= MOST_NAMED_AT_ONCE:
        return None
    named = " or ".join(
        f'label_replace(vector(1), "{label}", "{value}", "", "")' for value in values
    )
    # A comment at the end of the operator's query ends with its line.
    return f"(\n{query}\n) and on ({label}) ({named})"


def without_password(url: str) -> str:
    """Return an address as it may be shown."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    _, _, place = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{place}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """Sample `k` is of the time from `start + k·step` to `start + (k + 1)·step`."""

    start: datetime
    step_seconds: float
    samples: int

    def end_of(self, sample: int) -> datetime:
        return self.start + timedelta(seconds=(sample + 1) * self.step_seconds)

    def index(self, instants: NDArray[np.float64]) -> NDArray[np.int64]:
        """Which samples end at these instants, in seconds since 1970."""
        passed = (instants - self.start.timestamp()) / self.step_seconds
        return np.rint(passed).astype(np.int64) - 1

    def parts(self, series: int) -> Iterator[_Part]:
        """Divide the time so that no answer gets too large."""
        most = max(1, min(MOST_POINTS_AT_ONCE, MOST_SAMPLES_AT_ONCE // max(1, series)))
        for first in range(0, self.samples, most):
            last = min(first + most, self.samples) - 1
            yield _Part(
                first=self.end_of(first), last=self.end_of(last), step_seconds=self.step_seconds
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Instants at which a query is evaluated."""

    first: datetime
    last: datetime
    step_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Label:
    """The label that tells what a series is of, and the setting whose query must give it."""

    setting: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Series:
    """One series of an answer."""

    called: str
    instants: NDArray[np.float64]
    cores: Cores


class _Server:
    """One connection, on which whatever goes wrong is told as an `ObservationError`."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        try:
            from prometheus_api_client.exceptions import PrometheusApiClientException
            from prometheus_api_client.prometheus_connect import PrometheusConnect
        except ImportError as error:
            raise ObservationError(
                "prometheus.url is set, but prometheus-api-client is not installed: "
                "pip install 'vm-rebalancer[prometheus]', or take the setting out"
            ) from error
        self._shown_url = without_password(url)
        self._timeout_seconds = timeout_seconds
        self._refusal = PrometheusApiClientException
        # No second try: the next cycle is one.
        patience: Any = timeout_seconds  # whole seconds to its types, fractions to what it calls
        self._client = PrometheusConnect(url=url.rstrip("/"), retry=0, timeout=patience)

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def series(self, query: str, part: _Part, label: _Label) -> list[_Series]:
        """Ask one query over some time."""
        window = f"{round(part.step_seconds)}s"
        answer = self._answer(query.replace("$window", window), part, label)
        try:
            if unlabelled := [s["metric"] for s in answer if label.name not in s["metric"]]:
                raise ObservationError(_wrong_labels(label, unlabelled, self._shown_url))
            return [_parsed(series, label.name) for series in answer]
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ObservationError(
                f"{self._shown_url} answered {label.setting} with something that is not a table of "
                f"samples ({_shown(error)}); check that prometheus.url is that of a Prometheus"
            ) from error

    def _answer(self, query: str, part: _Part, label: _Label) -> Sequence[Mapping[str, Any]]:
        try:
            answer = self._client.custom_query_range(
                query,
                start_time=part.first,
                end_time=part.last,
                step=f"{part.step_seconds:g}",
                params={"timeout": f"{max(1, math.ceil(self._timeout_seconds))}s"},
            )
        except self._refusal as error:
            raise ObservationError(
                f"Prometheus at {self._shown_url} refused {label.setting}: {_shown(error)}"
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            raise ObservationError(
                f"{self._shown_url} does not answer like a Prometheus ({_shown(error)}); "
                "check prometheus.url"
            ) from error
        except OSError as error:  # every error of the connection is one, and a time-out, too
            raise ObservationError(
                f"no answer from Prometheus at {self._shown_url} within "
                f"{self._timeout_seconds:g} s: {_shown(error)}; check prometheus.url, "
                "and that the server runs"
            ) from error
        return answer if isinstance(answer, list) else []


def _add(row: Cores, series: _Series, grid: _Grid) -> None:
    """Add a series to what is known already: it is another part of the same use."""
    columns, cores = _usable(series, grid)
    row[columns] = np.where(np.isfinite(row[columns]), row[columns] + cores, cores)


def _fill(row: Cores, series: _Series, grid: _Grid) -> None:
    """Fill gaps from a series that tells the same as others."""
    columns, cores = _usable(series, grid)
    row[columns] = np.where(np.isfinite(row[columns]), row[columns], cores)


def _usable(series: _Series, grid: _Grid) -> tuple[NDArray[np.int64], Cores]:
    columns = grid.index(series.instants)
    usable = (columns >= 0) & (columns < grid.samples)
    usable &= np.isfinite(series.cores) & (series.cores >= 0)
    return columns[usable], series.cores[usable]


def _parsed(series: Mapping[str, Any], label: str) -> _Series:
    values = series["values"]
    return _Series(
        called=str(series["metric"][label]),
        instants=np.array([instant for instant, _ in values], dtype=np.float64),
        cores=np.array([value for _, value in values], dtype=np.float64),
    )


def _wrong_labels(label: _Label, metrics: Sequence[Mapping[str, str]], url: str) -> str:
    seen = sorted({name for metric in metrics for name in metric})
    return (
        f"{label.setting} gives series without the label {label.name!r}, which tells whose they "
        f"are; {f'it gives {", ".join(seen)}' if seen else 'it gives no labels'} (from {url}). "
        "Change the query or the label's name"
    )


def _without_port(called: str) -> str:
    name, colon, port = called.rpartition(":")
    return name.strip("[]") if colon and port.isdecimal() and name else called.strip("[]")


def _short(called: str) -> str:
    bare = _without_port(called)
    return bare if _is_address(bare) else bare.split(".")[0]


def _is_address(name: str) -> bool:
    return ":" in name or name.replace(".", "").isdecimal()


def _shown(error: Exception) -> str:
    # Of a page for browsers, which a proxy sends, only the status before it tells anything.
    text = " ".join(re.split(r"\(b'\s*<", str(error))[0].split())
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
