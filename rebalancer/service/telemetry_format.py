"""The settings about what is measured: hosts, dirty rates, past use; part of `config_format`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, Field

from rebalancer.collect.dirty_rate_probe import ProbePlan
from rebalancer.collect.prometheus_source import HOST_CPU_QUERY, VM_CPU_QUERY
from rebalancer.collect.snapshot_model import Name
from rebalancer.files import FileModel, Ratio, Seconds

type Duration = Annotated[Seconds, Field(gt=0)]


def _http_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # such as a port that is no number
        is_usable = False
    if not is_usable or any(character.isspace() for character in text):
        raise ValueError("is not an address of a web server; expected such as http://prom1:9090")
    return text


class _Section(FileModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class CollectSettings(_Section):
    """How hosts are observed."""

    sampling_seconds: Annotated[Duration, Field(le=600)] = 4.0
    """CPU use is what was used between two looks this far apart. Longer is steadier, and every
    command that looks at the cluster waits for it; the rest is asked meanwhile."""
    count_waiting: bool = False
    """Take for the CPU use of a VM what it would have used had its vCPUs not waited for a
    processor: the time that they were ready to run and did not (steal time) counts, up to all of
    its vCPUs. So a host with too little CPU is seen to be over 100 %, and not just full."""
    timeout_seconds: Annotated[Duration, Field(le=600)] = 10.0
    """A host that has not answered after this long, beside the sampling, is `unknown` in the
    snapshot: nothing is moved there, and what it runs is not guessed."""


class DirtyRateProbing(StrEnum):
    """When guests are measured without anybody asking for it."""

    ACTING = "acting"
    ALWAYS = "always"
    NEVER = "never"


class DirtyRateSettings(_Section):
    """How fast guests write to their memory: what their migrations take follows from that."""

    probe: DirtyRateProbing = DirtyRateProbing.ACTING
    """When the VMs that are to move are measured first. `acting`: before VMs are moved (`--yes`,
    `auto`). `always`: for dry runs, too. `never`: only with `--probe`. Measuring takes 7 seconds
    for every two guests of a host and reads some of their memory; for that, and only for that, a
    connection that may write is opened. Guests that something is being done with are left alone."""
    fresh_seconds: Annotated[Duration, Field(le=7 * 86_400)] = 1800.0
    """What was measured so lately is not measured again."""
    keep_seconds: Annotated[Duration, Field(le=90 * 86_400)] = 7 * 86_400.0
    """What was measured so long ago is still used, as uncertain by half, where nobody may measure.
    Then the rate is unknown, and a busy guest is assumed."""
    at_once_per_host: Annotated[int, Field(ge=1, le=64)] = 2
    """How many guests of a host are measured beside each other."""
    budget_seconds: Annotated[Duration, Field(le=3600)] = 120.0
    """After so long no more are measured; those with the most memory come first."""

    def probe_plan(self) -> ProbePlan:
        """Return what the probe is told."""
        return ProbePlan(at_once_per_host=self.at_once_per_host, budget_seconds=self.budget_seconds)


class PrometheusSettings(_Section):
    """Where past CPU use is read, so that plans are for what is to come."""

    url: Annotated[str, AfterValidator(_http_url)] | None = None
    """The Prometheus server, such as `http://prom1:9090`. Default: none, and plans go by what
    libvirt measured just now."""
    vm_cpu_query: Annotated[str, Field(min_length=1, max_length=4096)] = VM_CPU_QUERY
    """PromQL that gives the cores that each VM used; `$window` in it becomes the length of a
    sample. The default is for Debian's prometheus-libvirt-exporter."""
    vm_label: Name = "uuid"
    """The label that has the VM's libvirt UUID."""
    host_cpu_query: Annotated[str, Field(min_length=1, max_length=4096)] | None = HOST_CPU_QUERY
    """The same for hosts, all that runs there included. The default is for node exporter; `null`
    leaves hosts out."""
    host_label: Name = "instance"
    """The label that tells the host."""
    history_seconds: Annotated[Duration, Field(ge=600, le=60 * 86_400)] = 7 * 86_400.0
    """How far back is read. Daily habits need four days, weekly ones need 15; every command that
    plans waits for the reading."""
    step_seconds: Annotated[Duration, Field(ge=10, le=3600)] = 300.0
    """The length of one sample: four times the interval at which exporters are scraped, or more."""
    timeout_seconds: Annotated[Duration, Field(le=600)] = 30.0
    """How long one question may take. Without an answer a plan is made from what libvirt measured,
    and nothing is carried out unasked."""
    max_age_seconds: Annotated[Duration, Field(ge=20, le=86_400)] = 900.0
    """With a newest sample that is older than this nothing is carried out unasked."""
    min_coverage: Annotated[Ratio, Field(gt=0)] = 0.95
    """Nor with a smaller share of running VMs, or of hosts, that have so recent a sample."""
