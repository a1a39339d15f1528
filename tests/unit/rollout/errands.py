"""Hooks that answer as a test wishes, and remember what they were asked."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from rebalancer.rollout.hooks import (
    HookCall,
    HookReply,
    HookTicket,
    Moment,
    Objected,
    Passed,
)


class ScriptedHooks:
    """In memory; each hook takes so many polls, and objects where the test says so."""

    def __init__(
        self,
        moments: Collection[Moment] = tuple(Moment),
        objections: Mapping[str, str] | None = None,
        polls: int = 3,
    ) -> None:
        self._moments = frozenset(moments)
        self._objections = objections or {}
        self._polls = polls
        self._left: dict[HookTicket, int] = {}
        self._calls: dict[HookTicket, HookCall] = {}
        self._called_off: set[HookTicket] = set()
        self.cancelled: list[str] = []
        self.asked: list[dict[str, Any]] = []

    def has(self, moment: Moment) -> bool:
        return moment in self._moments

    def start(self, call: HookCall) -> HookTicket:
        ticket = HookTicket(len(self._calls) + 1)
        self._calls[ticket], self._left[ticket] = call, self._polls
        self.asked.append(json.loads(call.document()))
        return ticket

    def poll(self, ticket: HookTicket) -> HookReply | None:
        self._left[ticket] -= 1
        if self._left[ticket] > 0:
            return None
        if ticket in self._called_off:
            return Objected(why="called off")
        call = self._calls[ticket]
        about = json.loads(call.document())
        vm = about.get("migration", {}).get("vm", "")
        for key in (f"{call.moment} {vm}".strip(), str(call.moment)):
            if key in self._objections:
                return Objected(why=self._objections[key])
        return Passed()

    def cancel(self, ticket: HookTicket) -> None:
        self.cancelled.append(str(self._calls[ticket].moment))
        self._called_off.add(ticket)
        self._left[ticket] = 0

    def close(self) -> None:
        self._left.clear()

    def told(self) -> list[str]:
        """Moments in order, with the VM and how it ended."""
        return [
            " ".join(
                filter(
                    None,
                    [
                        call["moment"],
                        call.get("migration", {}).get("vm", ""),
                        call.get("outcome", {}).get("state", ""),
                    ],
                )
            )
            for call in self.asked
        ]
