"""What a daemon is to do, as its files have it: settings, and a duty for each policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rebalancer.errors import UsageError
from rebalancer.service.config import RunMode, Settings
from rebalancer.service.duty import Duty, duty_of
from rebalancer.service.policy_file import parse_policy, read_policy
from rebalancer.service.session import Session, open_session


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a daemon does, as its files have it."""

    session: Session
    duties: Mapping[str, Duty]

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.session.settings

    @property
    def summary(self) -> str:
        """Say it in one line."""
        duties = ", ".join(f"{duty.name} ({duty.mode})" for duty in self.duties.values())
        hosts = len(self.settings.hosts)
        return f"cluster {self.settings.cluster}, {hosts} hosts, policies: {duties}"


type Load = Callable[[], Setup]


def load_setup(config: Path | None, policy: Path | None = None, *, auto: bool = False) -> Setup:
    """Read settings and policies; raise what is wrong with them."""
    session = open_session(config)
    settings = session.settings
    if not settings.hosts:
        raise UsageError(
            "no hosts are configured: list them in a file and name it with --config "
            "(config/rebalancer.yaml explains every key)"
        )
    mode = RunMode.AUTO if auto else settings.mode
    duties = list(_duties(settings, policy, mode))
    names = [duty.name for duty in duties]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"two policies are called {', '.join(twice)}: rename one of them")
    return Setup(session=session, duties={duty.name: duty for duty in duties})


def _duties(settings: Settings, named: Path | None, mode: RunMode) -> Iterator[Duty]:
    main = named or settings.policy
    found = [(read_policy(main), mode)] if main is not None else []
    if named is None:
        found += [(read_policy(entry.file), entry.mode or mode) for entry in settings.policies]
    if not found:
        default = {"schema_version": 1, "name": "default"}
        found = [(parse_policy(default, origin="the default policy"), mode)]
    return (duty_of(settings, policy, own) for policy, own in found)
