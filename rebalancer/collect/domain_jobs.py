"""Which jobs run on a host's domains, although a domain with a job may be the one that hangs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from rebalancer.collect.hypervisor import Job, JobOperation
from rebalancer.collect.patience import Abandoned, Patience

_SECONDS = 2.0
"""A domain that hangs in the switch-over of a migration tells nothing until that is over."""

_SECONDS_EACH = 0.1
"""A round trip to the other side of the earth, for a host whose domains all answer."""

type AskForJob = Callable[[], Job | None]


def running_jobs(
    questions: Mapping[str, AskForJob],
    *,
    seconds: float = _SECONDS,
    seconds_each: float = _SECONDS_EACH,
) -> Mapping[str, Job]:
    """Ask each domain for its job, by UUID; one that does not answer has an unknown job.

    They are asked one after the other in one thread: a thread for each domain of each host
    would be thousands.
    """
    found: dict[str, Job | None] = {}
    waiting = dict(questions)
    while waiting:
        answer = _ask(waiting, found, seconds + seconds_each * len(waiting))
        waiting = {uuid: ask for uuid, ask in waiting.items() if uuid not in found}
        if isinstance(answer, Abandoned) and waiting:
            hanging = next(iter(waiting))
            found[hanging] = Job(operation=JobOperation.UNKNOWN)
            del waiting[hanging]
    return {uuid: job for uuid, job in list(found.items()) if job is not None}


def _ask(
    waiting: Mapping[str, AskForJob],
    found: dict[str, Job | None],
    timeout_seconds: float,
) -> Abandoned | None:
    def ask_all() -> None:
        for uuid, ask in list(waiting.items()):
            if uuid not in found:
                found.setdefault(uuid, ask())

    patience = Patience(monotonic=time.monotonic)
    return patience.run({"jobs": ask_all}, timeout_seconds=timeout_seconds)["jobs"]
