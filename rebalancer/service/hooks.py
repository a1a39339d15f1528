"""The operator's hooks as the settings have them, and those around a drain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rebalancer.cluster.inventory import HostId
from rebalancer.errors import HookObjectionError
from rebalancer.rollout.driver import Clock
from rebalancer.rollout.hook_processes import HookCommand, HookProcesses
from rebalancer.rollout.hooks import HookCall, Hooks, Moment, Objected, about_drain
from rebalancer.service.config_format import Settings

_LOOK_SECONDS = 0.1


def hooks_of(settings: Settings) -> HookProcesses:
    """Make the port to the hooks that are configured; close it when the work is done."""
    return HookProcesses(
        {
            moment: [
                HookCommand(words=entry.command, timeout_seconds=entry.timeout_seconds)
                for entry in getattr(settings.hooks, moment)
            ]
            for moment in Moment
        }
    )


def before_drain(
    hooks: Hooks, cluster: str, hosts: Sequence[str], clock: Clock, alive: Callable[[], None]
) -> None:
    """Ask whether hosts may be drained; raise `HookObjectionError` if not.

    `alive` is called again and again meanwhile, so that the cluster's lock is kept.
    """
    why = _ask(hooks, Moment.BEFORE_DRAIN, cluster, about_drain(hosts, None), clock, alive)
    if why:
        raise HookObjectionError(f"{', '.join(hosts)} not drained, nothing was changed: {why}")


def after_drain(
    hooks: Hooks,
    cluster: str,
    left: Mapping[HostId, Sequence[str]],
    clock: Clock,
    alive: Callable[[], None],
) -> str:
    """Tell what is left on which host; return what went wrong with the hooks, if anything did."""
    about = about_drain(list(left), {str(host): vms for host, vms in left.items()})
    return _ask(hooks, Moment.AFTER_DRAIN, cluster, about, clock, alive)


def _ask(
    hooks: Hooks,
    moment: Moment,
    cluster: str,
    about: Mapping[str, object],
    clock: Clock,
    alive: Callable[[], None],
) -> str:
    if not hooks.has(moment):
        return ""
    ticket = hooks.start(HookCall(moment=moment, cluster=cluster, at=clock.now(), about=about))
    while (reply := hooks.poll(ticket)) is None:
        alive()
        clock.sleep(_LOOK_SECONDS)
    return reply.why if isinstance(reply, Objected) else ""
