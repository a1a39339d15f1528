"""Where settings come from: defaults < the file < `REBALANCER_*` variables < flags.

Each layer is checked by itself, so that a fault is told as the line of the file or the name of the
variable that has it, and each setting remembers which layer gave it.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError
from sqlalchemy.engine import make_url

from rebalancer.collect.prometheus_source import without_password
from rebalancer.errors import InvalidFileError, UsageError
from rebalancer.files import Document, FileModel, open_yaml
from rebalancer.files.explain import explain
from rebalancer.files.tree import Finding, dotted
from rebalancer.rollout.database import shown_address
from rebalancer.service.api_format import api_findings
from rebalancer.service.config_format import HostSettings, RunMode, Settings
from rebalancer.service.configured import sites_of

__all__ = [
    "CONFIG_VARIABLE",
    "SYSTEM_CONFIG",
    "EffectiveSetting",
    "RunMode",
    "Settings",
    "effective_settings",
    "journal_url",
    "load_settings",
]

SYSTEM_CONFIG = Path("/etc/rebalancer/rebalancer.yaml")
CONFIG_VARIABLE = "REBALANCER_CONFIG"
"""Names the file; every other variable with the prefix is a setting."""

_PREFIX = "REBALANCER_"
_DELIMITER = "__"

type Layer = dict[str, Any]


class _Environment(BaseSettings, Settings):
    """How variables are named; nothing is ever made of this class but the names."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter=_DELIMITER, env_ignore_empty=True
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveSetting:
    """One setting as it is in force."""

    key: str
    value: object
    """In base units; passwords are masked."""
    origin: str
    """`default`, `file:line`, the variable, or `flag`."""


def load_settings(
    config: Path | str | None = None,
    flags: Mapping[str, object] | None = None,
    *,
    system_config: Path = SYSTEM_CONFIG,
) -> Settings:
    """Put the layers together.

    `config` is the file, else the variable `REBALANCER_CONFIG` or the system's file is taken, else
    there are only defaults. `flags` go by dotted key (`placement.time_limit_seconds`); those that
    are `None` were not given.

    Raises `InvalidFileError` for a fault in the file, `UsageError` for one in a variable or flag.
    """
    file = config or os.environ.get(CONFIG_VARIABLE) or _if_there(system_config)
    layers: list[tuple[Layer, Mapping[str, str]]] = []
    if file is not None:
        layers.append(_file_layer(open_yaml(file)))
    layers.append(_environment_layer())
    layers.append(_flags_layer(flags or {}))
    tree: Layer = {}
    origins: dict[str, str] = {}
    for layer, named in layers:
        tree = _merged(tree, layer)
        origins |= named
    settings = Settings.model_validate(tree)
    if findings := list(_findings(settings)):
        raise UsageError(_listed(findings, "the settings do not fit together"))
    settings.remember_origins(origins)
    return settings


def effective_settings(settings: Settings) -> tuple[EffectiveSetting, ...]:
    """List every setting in force with its origin, in the order of the format."""
    return tuple(_rows(settings, (), settings.origins))


def journal_url(settings: Settings) -> str:
    """Return the database of the journal; by default it depends on who runs the program."""
    if settings.journal is not None:
        return settings.journal
    # systemd lists several, separated by colons, if a unit has several
    if folder := os.environ.get("STATE_DIRECTORY", "").split(":")[0]:
        return f"sqlite:///{Path(folder) / 'journal.db'}"
    if os.geteuid() == 0:
        return "sqlite:////var/lib/rebalancer/journal.db"
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return f"sqlite:///{Path(state) / 'rebalancer' / 'journal.db'}"


def _if_there(path: Path) -> Path | None:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        # Whoever reads it will say why that is not possible; to go on without it would be to
        # use other settings than the operator wrote.
        return path
    return path


def _file_layer(document: Document) -> tuple[Layer, Mapping[str, str]]:
    settings = document.read(Settings)
    if findings := list(_findings(settings)):
        raise InvalidFileError([document.fault(*finding) for finding in findings])
    tree = document.tree
    assert isinstance(tree, dict)
    layer: Layer = dict(tree)
    if settings.policy is not None:
        layer["policy"] = str(Path(document.file).parent / settings.policy)
    if settings.policies:
        layer["policies"] = [
            entry | {"file": str(Path(document.file).parent / entry["file"])}
            for entry in layer["policies"]
        ]
    origins = {}
    for path in _leaves(layer):
        where = document.where(path).removeprefix("line ")
        origins[dotted(path)] = f"{document.file}:{where}" if where else document.file
    return layer, origins


def _environment_layer() -> tuple[Layer, Mapping[str, str]]:
    known = Settings.model_fields
    given = [name for name in os.environ if name.startswith(_PREFIX) and name != CONFIG_VARIABLE]
    unknown = [name for name in sorted(given) if _top_key(name) not in known]
    if unknown:
        names = ", ".join(f"{_PREFIX}{key.upper()}" for key in known)
        raise UsageError(
            f"{', '.join(unknown)}: not a setting; expected {names}, "
            f"with {_DELIMITER} before a key inside"
        )
    try:
        layer: Layer = EnvSettingsSource(_Environment)()
    except SettingsError as error:
        # Its text names the key in quotes, and classes of the library.
        key = next(iter(re.findall(r'"(\w+)"', str(error))), "*")
        raise UsageError(
            f"{_PREFIX}{key.upper()}: not valid JSON; lists and sections are written as JSON"
        ) from error
    _check(layer, _variable)
    return layer, {dotted(path): _variable(path) for path in _leaves(layer)}


def _flags_layer(flags: Mapping[str, object]) -> tuple[Layer, Mapping[str, str]]:
    layer: Layer = {}
    for key, value in flags.items():
        if value is not None:
            nested: Any = value
            for step in reversed(key.split(".")):
                nested = {step: nested}
            layer = _merged(layer, nested)
    _check(layer, lambda path: f"flag for {dotted(path)}")
    return layer, {dotted(path): "flag" for path in _leaves(layer)}


def _top_key(variable: str) -> str:
    return variable.removeprefix(_PREFIX).split(_DELIMITER)[0].lower()


def _variable(path: Sequence[str | int]) -> str:
    named = list(itertools.takewhile(lambda step: isinstance(step, str), path))
    variable = _PREFIX + _DELIMITER.join(str(step).upper() for step in named)
    inside = dotted(tuple(path[len(named) :]))
    return variable + inside


def _check(layer: Layer, name: Any) -> None:  # noqa: ANN401
    try:
        Settings.model_validate(layer)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        lines = [
            f"{name(finding.path)}: {'; '.join(filter(None, finding[1:]))}"
            for finding in explain(errors, Settings, layer)
        ]
        raise UsageError("\n".join(lines)) from None


def _merged(lower: Layer, upper: Layer) -> Layer:
    """Lay one layer over another: sections key by key, anything else as a whole."""
    both = dict(lower)
    for key, value in upper.items():
        below = both.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            both[key] = _merged(below, value)
        else:
            both[key] = value
    return both


def _leaves(layer: Layer, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in layer.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*prefix, key))
        else:
            yield (*prefix, key)


def _findings(settings: Settings) -> Iterator[Finding]:
    """Find what more than one field is needed to see."""
    yield from _twice([host.name for host in settings.hosts], "hosts", "name")
    # Under two names a host's guests would be seen twice.
    yield from _twice([host.uri for host in settings.hosts], "hosts", "uri")
    yield from _twice([site.name for site in settings.sites], "sites", "name")
    yield from _twice([entry.name for entry in settings.policies], "policies", "name")
    yield from _twice([link.name for link in settings.links], "links", "name")
    yield from _twice([rack.name for rack in settings.racks], "racks", "name")
    racks = {host.rack for host in settings.hosts if host.rack is not None}
    for index, rack in enumerate(settings.racks):
        if rack.name not in racks:
            named = ", ".join(sorted(racks)) or "racks, of which hosts name none"
            yield Finding(
                ("racks", index, "name"),
                f"no host says that it is in rack {rack.name}",
                f"expected one of {named}",
            )
    known = {site.name for site in sites_of(settings)}
    for index, link in enumerate(settings.links):
        if strangers := [end for end in link.between if end not in known]:
            sites = ", ".join(sorted(known)) or "the sites, of which there are none"
            yield Finding(
                ("links", index, "between"),
                f"no host and no site is called {', '.join(strangers)}",
                f"expected two of {sites}",
            )
    for index, host in enumerate(settings.hosts):
        yield from _host_findings(host, ("hosts", index))
    if settings.prometheus.max_age_seconds < 2 * settings.prometheus.step_seconds:
        # The newest sample ends up to one step before now, and may still be on its way.
        yield Finding(
            ("prometheus", "max_age_seconds"),
            "is less than two samples",
            "raise it, or lower step_seconds",
        )
    yield from api_findings(settings.api)


def _twice(values: Sequence[str], section: str, key: str) -> Iterator[Finding]:
    seen: Counter[str] = Counter()
    for index, value in enumerate(values):
        seen[value] += 1
        if seen[value] > 1:
            yield Finding((section, index, key), f"{value} is there already")


def _host_findings(host: HostSettings, path: tuple[str | int, ...]) -> Iterator[Finding]:
    if host.cpu_cores == 0:
        yield Finding((*path, "cpu_cores"), "a host without cores", "expected more than 0")
    if host.memory is not None and host.memory <= (host.reserved_memory or 0):
        yield Finding((*path, "memory"), "leaves guests nothing after reserved_memory")
    if (host.idle_watts or 0) > (host.max_watts if host.max_watts is not None else math.inf):
        yield Finding((*path, "idle_watts"), "more than max_watts")


def _rows(
    section: FileModel | Settings, prefix: tuple[str, ...], origins: Mapping[str, str]
) -> Iterator[EffectiveSetting]:
    for name in type(section).model_fields:
        value, path = getattr(section, name), (*prefix, name)
        if isinstance(value, FileModel):
            yield from _rows(value, path, origins)
        elif isinstance(value, tuple) and value:
            origin = _origin(path, origins)
            yield from (
                EffectiveSetting(
                    key=f"{dotted(path)}.{getattr(entry, 'name', place)}.{key}",
                    value=it,
                    origin=origin,
                )
                for place, entry in enumerate(value)
                for key, it in entry.model_dump(exclude_unset=True, mode="json").items()
                if key != "name"
            )
        else:
            shown = _journal_shown(section) if path == ("journal",) else value
            if path == ("prometheus", "url") and value is not None:
                shown = without_password(value)
            yield EffectiveSetting(
                key=dotted(path), value=_shown(shown), origin=_origin(path, origins)
            )


def _origin(path: Sequence[str], origins: Mapping[str, str]) -> str:
    return origins.get(dotted(tuple(path)), "default")


def _journal_shown(settings: object) -> str:
    assert isinstance(settings, Settings)
    return shown_address(make_url(journal_url(settings)))


def _shown(value: object) -> object:
    return str(value) if isinstance(value, Path) else [] if value == () else value


def _listed(findings: Sequence[Finding], head: str) -> str:
    lines = (f"{dotted(f.path)}: {'; '.join(filter(None, f[1:]))}" for f in findings)
    return "\n".join([f"{head}:", *lines])
