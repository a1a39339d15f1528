"""`docs/configuration.md`, made from the texts under the settings so that it cannot go stale.

`python -m rebalancer.service.config_document > docs/configuration.md`
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from rebalancer.collect.snapshot_model import LinkEntry, SiteEntry
from rebalancer.service.config_format import (
    HookSettings,
    HostSettings,
    PolicySettings,
    RackSettings,
    Settings,
)
from rebalancer.service.power_format import HostPowerSettings

_HEAD = """\
# Configuration

What the program needs to know to do its work: where the hosts are, how patient to be.
What is wanted of the cluster stands in a [policy](policies.md) and not here.

The file is YAML.
[`config/rebalancer.yaml`](../config/rebalancer.yaml) has every key with its default.
A setting is taken from the last of these that has it:

1. the default below;
2. the file: `--config FILE`, else `$REBALANCER_CONFIG`, else `/etc/rebalancer/rebalancer.yaml`
   if there is one;
3. a variable: `REBALANCER_` and the key, with `__` for each dot, as in
   `REBALANCER_PLACEMENT__TIME_LIMIT_SECONDS=30`; lists are written as JSON, and an empty variable
   counts as none;
4. a flag of the command.

Sections are laid over each other key by key, lists as a whole.
A misspelt key is an error with its line and the key that was probably meant, and a misspelt
variable is an error, too.
`rebalancer config show --effective` prints every setting in force and where it comes from.

Durations are seconds or `500ms`, `30s`, `5m`, `6h`, `1d`; sizes are bytes or `512MiB`, `64GiB`;
rates are bytes per second or `200MiB/s`, `10Gbit/s`; ratios are `0.2` or `20%`.
"""

_SITES = {
    "name": "What hosts and links call it.",
    "energy_price_per_kwh": "In whatever currency, the same for all sites; may be below 0.",
    "energy_price_per_kwh_by_hour": "A price for each hour of the day, UTC, instead of the former.",
    "carbon_g_per_kwh": "Grams of CO₂ for each kilowatt hour.",
    "carbon_g_per_kwh_by_hour": "The same for each hour of the day, UTC.",
    "latency_ms": "Round-trip time to other sites and to groups of users, by name.",
}
_LINKS = {
    "name": "What reports call it.",
    "bytes_per_second": "What it carries in each direction.",
    "between": "The two sites that it joins.",
    "price_per_gib": "What sending a GiB costs, in the currency of the energy prices.",
    "carbon_g_per_gib": "Grams of CO₂ for each GiB sent.",
}


def document() -> str:
    """Return the page."""
    sections = [
        _section("The file", _rows(Settings, "")),
        _section("Each of `hosts`", _rows(HostSettings, "")),
        _section("`power` of each of `hosts`", _rows(HostPowerSettings, "")),
        _section("Each of `sites`", _rows(SiteEntry, "", _SITES)),
        _section("Each of `links`", _rows(LinkEntry, "", _LINKS)),
        _section("Each of `racks`", _rows(RackSettings, "")),
        _section("Each of `policies`", _rows(PolicySettings, "")),
        _section("Each of the lists in `hooks`", _rows(HookSettings, "")),
    ]
    return "\n".join([_HEAD, *sections])


def _section(title: str, rows: Iterator[tuple[str, str, str]]) -> str:
    lines = [f"## {title}", "", "| key | default | meaning |", "| --- | --- | --- |"]
    lines += [f"| `{key}` | {default} | {meaning} |" for key, default, meaning in rows]
    return "\n".join(lines) + "\n"


def _rows(
    model: type[BaseModel], prefix: str, meanings: dict[str, str] | None = None
) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield from _rows(type(field.default), f"{prefix}{name}.")
            continue
        meaning = (meanings or {}).get(name) or field.description or ""
        default = field.get_default(call_default_factory=True)
        shown = "required" if field.is_required() else _default(default)
        yield prefix + name, shown, " ".join(meaning.split())


def _default(value: Any) -> str:  # noqa: ANN401 - whatever a setting can be
    if value is None or value == () or value == {}:
        return "–"
    if isinstance(value, bool):
        return f"`{value}`".lower()
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value.value if isinstance(value, StrEnum) else value}`"


if __name__ == "__main__":
    sys.stdout.write(document())
