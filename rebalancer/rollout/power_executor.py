"""Switches hosts, one at a time: it writes down what it is going to do, then does it, then looks.

The process may die at any line of this file. A mark says then that a host was, or may have been,
told something; `settle` of the next one looks at the host, and what it sees decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rebalancer.cluster.inventory import Host, HostId
from rebalancer.cluster.plan import PowerAction
from rebalancer.rollout.driver import Clock, Failed, Pending
from rebalancer.rollout.lease import Lease
from rebalancer.rollout.power import (
    Census,
    CensusTaker,
    CutPower,
    NoCensus,
    PowerCommand,
    PowerDriver,
    PowerReturned,
    PowerState,
    ReadPower,
    Sleep,
    Wake,
)
from rebalancer.rollout.power_journal import PowerJournal
from rebalancer.rollout.power_steps import (
    IN_TRANSIT,
    Phase,
    PowerMark,
    PowerSight,
    PowerTimes,
    Size,
    is_late,
    next_mark,
)
from rebalancer.rollout.steps import StopRequest

POLL_SECONDS = 0.2
HEARTBEAT_SECONDS = 10.0

type Judge = Callable[[Census | NoCensus], Sequence[str]]
"""Says what speaks against switching a host, by a look at the whole cluster right now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerOutcome:
    """What became of one host."""

    host: HostId
    action: PowerAction
    done: bool
    """It sleeps, or it is awake and its libvirt answers."""
    text: str
    tried: bool = True
    """`False`: something spoke against it, so it was told nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerTools:
    """What hosts are switched and looked at with."""

    driver: PowerDriver
    census: CensusTaker
    journal: PowerJournal
    lease: Lease
    clock: Clock
    times: PowerTimes
    cuts_power: bool = False
    """Whether the power of an empty host that does not shut down is taken."""
    should_stop: Callable[[], StopRequest | bool] = lambda: False

    def mark(self, host: HostId) -> PowerMark | None:
        """What is written of a host."""
        return self.journal.marks(self.lease.cluster).get(host)


def wake(host: HostId, tools: PowerTools, against: Sequence[str] = ()) -> PowerOutcome:
    """Switch a host on and wait until its libvirt answers; if it does not, quarantine it.

    The libvirt of a host that shuts down answers almost to the end. So one that was, or may have
    been, told to sleep is waited for: awake is one that did not go, or that has come back.
    """
    if against:
        return _left_alone(host, PowerAction.WAKE, against)
    before = tools.mark(host)
    if before is not None and before.phase is Phase.FALLING_ASLEEP:
        fallen = _awaited(host, PowerAction.WAKE, tools)
        before = tools.mark(host)
        if before is None or before.phase is not Phase.ASLEEP:
            return fallen
    mark = PowerMark(
        host=host,
        phase=Phase.WAKING,
        since=tools.clock.now(),
        size=before.size if before is not None else None,
    )
    tools.journal.keep(host, mark, "is going to be told to wake", tools.lease)
    failed = _tell(Wake(host=host), mark, tools)
    if failed is not None and not failed.timed_out:
        _quarantine(mark, f"it could not be told to wake: {failed.text}", tools)
    return _awaited(host, PowerAction.WAKE, tools)


def sleep(host: Host, tools: PowerTools, judge: Judge) -> PowerOutcome:
    """Ask an empty host to shut down and wait until it is off.

    `judge` is asked with what the host's libvirt says right before, and once more after that
    is written down, as the last thing before the command.
    """
    if against := judge(tools.census(host.id)):
        return _left_alone(host.id, PowerAction.SLEEP, against)
    power, why = read_power(host.id, tools)
    if power is not PowerState.ON:
        # What cannot be asked whether it is on will never be known to be off.
        said = f"its power is {power}{f': {why}' if why else ''}, though its libvirt answers"
        return _left_alone(host.id, PowerAction.SLEEP, [said])
    mark = PowerMark(
        host=host.id, phase=Phase.FALLING_ASLEEP, since=tools.clock.now(), size=size_of(host)
    )
    tools.journal.keep(host.id, mark, "is going to be told to sleep", tools.lease)
    guests = tools.census(host.id)
    if isinstance(guests, NoCensus) or not guests.is_empty:
        tools.journal.keep(host.id, None, "was not told: it is not empty any more", tools.lease)
        return _left_alone(host.id, PowerAction.SLEEP, ["it is not empty any more"])
    failed = _tell(Sleep(host=host.id), mark, tools)
    if failed is not None:
        # An error is no proof that it was not heard, so the mark stays until that is sure.
        text = f"it could not be told to sleep: {failed.text}; nothing is placed on it for now"
        return PowerOutcome(host=host.id, action=PowerAction.SLEEP, done=False, text=text)
    return _awaited(host.id, PowerAction.SLEEP, tools)


def note_asleep(host: Host, tools: PowerTools) -> PowerOutcome:
    """Note of a host that somebody else switched off that it may be woken when it is needed."""
    power, why = read_power(host.id, tools)
    is_silent = isinstance(tools.census(host.id), NoCensus)
    if power is not PowerState.OFF or not is_silent:
        said = f"its power is {power}{f': {why}' if why else ''}"
        return _left_alone(host.id, PowerAction.SLEEP, [said if is_silent else "libvirt answers"])
    before = tools.mark(host.id)
    mark = PowerMark(
        host=host.id,
        phase=Phase.ASLEEP,
        since=tools.clock.now(),
        reason="it was off",
        size=size_of(host) or (before.size if before else None),
    )
    tools.journal.keep(host.id, mark, "was found off, and counts as asleep", tools.lease)
    return PowerOutcome(host=host.id, action=PowerAction.SLEEP, done=True, text="it is off")


def settle(tools: PowerTools) -> tuple[PowerOutcome, ...]:
    """Look once at every host that is not simply awake, and write down what follows."""
    marks = tools.journal.marks(tools.lease.cluster).values()
    open_ = [mark for mark in marks if mark.phase is not Phase.QUARANTINED]
    looked = [(mark, _look_once(mark, tools)) for mark in open_]
    return tuple(_outcome(before, after) for before, after in looked if after != before)


def read_power(host: HostId, tools: PowerTools) -> tuple[PowerState, str]:
    """Whether a host has power, and if nobody knows, why."""
    reply = _reply_to(ReadPower(host=host), tools)
    if isinstance(reply, Failed):
        return PowerState.UNKNOWN, reply.text
    return reply.state or PowerState.UNKNOWN, ""


def size_of(host: Host) -> Size | None:
    """What has to be remembered of a host; `None` when nothing is known of it."""
    if host.cpu_cores <= 0 or host.memory_bytes <= 0:
        return None
    return Size(
        cpu_cores=host.cpu_cores,
        memory_bytes=host.memory_bytes,
        reserved_memory_bytes=host.reserved_memory_bytes,
    )


# One host ------------------------------------------------------------------------------------


def _tell(command: PowerCommand, mark: PowerMark, tools: PowerTools) -> Failed | None:
    """Issue a command that is written down, and write down whether it was taken."""
    reply = _reply_to(command, tools)
    if isinstance(reply, Failed):
        text = f"{type(command).__name__}: {reply.text}"
        kept = replace(mark, told=reply.timed_out)
        tools.journal.keep(mark.host, kept, text, tools.lease)
        return reply
    told = replace(mark, told=True)
    tools.journal.keep(mark.host, told, f"{type(command).__name__} was taken", tools.lease)
    return None


def _reply_to(command: PowerCommand, tools: PowerTools) -> PowerReturned | Failed:
    ticket = tools.driver.issue(command)
    renewed_at = tools.clock.now()
    while isinstance(reply := tools.driver.poll(ticket), Pending):
        tools.clock.sleep(POLL_SECONDS)
        if (tools.clock.now() - renewed_at).total_seconds() >= HEARTBEAT_SECONDS:
            tools.journal.heartbeat(tools.lease)
            renewed_at = tools.clock.now()
    return reply


def _awaited(host: HostId, action: PowerAction, tools: PowerTools) -> PowerOutcome:
    """Look again and again until the host is where it should be, or is given up."""
    while True:
        mark = tools.mark(host)
        after = None if mark is None else _look_once(mark, tools)
        if after is None or after.phase not in IN_TRANSIT:
            return _result(host, action, after)
        if tools.should_stop():
            text = f"{after.phase}; the next start looks after it"
            return PowerOutcome(host=host, action=action, done=False, text=text)
        tools.journal.heartbeat(tools.lease)
        tools.clock.sleep(tools.times.tick_seconds)


def _look_once(mark: PowerMark, tools: PowerTools) -> PowerMark | None:
    """Power first, then libvirt: a host that went off in between is not taken for two."""
    power, why = read_power(mark.host, tools)
    guests = _guests(mark, power, tools)
    sight = PowerSight(power=power, guests=guests, why=why)
    now = tools.clock.now()
    after = next_mark(mark, sight, now, tools.times)
    if _may_be_cut(mark, after, sight, tools):
        return _cut(mark, tools)
    if after != mark:
        tools.journal.keep(mark.host, after, _line(mark, after), tools.lease)
    return after


def _guests(mark: PowerMark, power: PowerState, tools: PowerTools) -> Census | NoCensus:
    """Ask libvirt; not that of a host that sleeps on, which would cost its whole time limit."""
    if mark.phase is Phase.ASLEEP and power is not PowerState.ON:
        return NoCensus(host=mark.host, why="it was not asked, as it sleeps")
    return tools.census(mark.host)


def _may_be_cut(
    mark: PowerMark, after: PowerMark | None, sight: PowerSight, tools: PowerTools
) -> bool:
    """Only a host that hangs in shutting down: it took the command, and libvirt has ended."""
    return (
        tools.cuts_power
        and mark.phase is Phase.FALLING_ASLEEP
        and mark.told
        and after is not None
        and after.phase is Phase.QUARANTINED
        and sight.power is PowerState.ON
        and not sight.answers
        and is_late(mark, tools.clock.now(), tools.times.shutdown_seconds)
    )


def _cut(mark: PowerMark, tools: PowerTools) -> PowerMark | None:
    """Take the power, once: the mark that is written first lets nobody try again."""
    cutting = replace(
        mark,
        phase=Phase.QUARANTINED,
        since=tools.clock.now(),
        reason="it did not shut down, so its power was cut",
    )
    tools.journal.keep(mark.host, cutting, "is going to lose its power", tools.lease)
    reply = _reply_to(CutPower(host=mark.host), tools)
    if isinstance(reply, Failed):
        why = f"it did not shut down, and its power could not be cut: {reply.text}"
        failed = replace(cutting, reason=why)
        tools.journal.keep(mark.host, failed, why, tools.lease)
        return failed
    # Whether it really is off is seen by the next look, and not believed before.
    again = replace(mark, since=tools.clock.now(), told=False)
    tools.journal.keep(mark.host, again, "CutPower was taken", tools.lease)
    return again


def _quarantine(mark: PowerMark, why: str, tools: PowerTools) -> None:
    after = replace(mark, phase=Phase.QUARANTINED, since=tools.clock.now(), reason=why)
    tools.journal.keep(mark.host, after, why, tools.lease)


def _line(before: PowerMark, after: PowerMark | None) -> str:
    phase = after.phase if after is not None else "awake"
    why = f": {after.reason}" if after is not None and after.reason else ""
    return f"{before.phase} -> {phase}{why}"


def _left_alone(host: HostId, action: PowerAction, against: Sequence[str]) -> PowerOutcome:
    return PowerOutcome(host=host, action=action, done=False, text="; ".join(against), tried=False)


def _outcome(before: PowerMark, after: PowerMark | None) -> PowerOutcome:
    fell = before.phase is Phase.FALLING_ASLEEP
    return _result(before.host, PowerAction.SLEEP if fell else PowerAction.WAKE, after)


def _result(host: HostId, action: PowerAction, after: PowerMark | None) -> PowerOutcome:
    wanted = None if action is PowerAction.WAKE else Phase.ASLEEP
    phase = after.phase if after is not None else None
    text = "it is awake" if after is None else f"it is {after.phase}"
    if after is not None and after.reason:
        text += f": {after.reason}"
    return PowerOutcome(host=host, action=action, done=phase is wanted, text=text)
