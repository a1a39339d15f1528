"""How rules are written: the `rules` of a policy file, and the selectors that they use.

Each section turns itself into its noun, with the noun's own defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from rebalancer.cluster.rules import Ban, Domain, Fence, Pin, Presence, Rule, Spread, Together
from rebalancer.cluster.selection import HostSelector, VmSelector
from rebalancer.files import FileModel

type OneOrMore = (
    Annotated[str, Field(min_length=1)]
    | Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
)
"""`tokyo` or `[tokyo, osaka]`. An empty list is a fault: it would match everything."""

type AtLeastOne = Annotated[int, Field(ge=1, le=1_000_000)]


class VmSelectorSection(FileModel):
    """Which VMs: all fields given must match, one value of each will do."""

    names: OneOrMore | None = None
    """Names or UUIDs; `*`, `?` and `[…]` are wildcards."""
    labels: Mapping[str, OneOrMore] = {}
    """Label names with the values (wildcards allowed) that a VM must have."""

    def noun(self) -> VmSelector:
        """Return the selector that this means."""
        return VmSelector(names=_tuple(self.names), labels=_labels(self.labels))


class HostSelectorSection(FileModel):
    """Which hosts: all fields given must match, one value of each will do."""

    names: OneOrMore | None = None
    """Host names; `*`, `?` and `[…]` are wildcards."""
    labels: Mapping[str, OneOrMore] = {}
    """Label names with the values (wildcards allowed) that a host must have."""
    site: OneOrMore | None = None
    """Sites, exactly as the configuration names them."""
    rack: OneOrMore | None = None
    """Racks, exactly as the configuration names them."""

    def noun(self) -> HostSelector:
        """Return the selector that this means."""
        return HostSelector(
            names=_tuple(self.names),
            labels=_labels(self.labels),
            sites=_tuple(self.site),
            racks=_tuple(self.rack),
        )


class _RuleSection(FileModel):
    name: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """What reports call the rule; made up from what it says unless given."""
    vms: VmSelectorSection
    """The VMs that the rule is about."""
    hard: bool = True
    """Whether it must hold; a soft rule only costs its weight when it is broken."""
    weight: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 1.0
    """With `hard: false`: the cost of each violation, beside the weights of the goals."""


class SpreadSection(_RuleSection):
    """Keep VMs apart."""

    rule: Literal["spread"]
    over: Domain = Domain.HOST
    """`host`, `rack` or `site`."""
    at_most: AtLeastOne | None = None
    """So many of them may be in one place; 1 unless `at_least` is given."""
    at_least: Annotated[int, Field(ge=2, le=1_000_000)] | None = None
    """They have to be in so many different places, however many are in each."""
    by: Annotated[str, Field(min_length=1)] | None = None
    """A label: the VMs of each of its values form a group of their own."""

    def noun(self, name: str) -> Rule:
        """Return the rule that this means."""
        if self.at_least is not None:
            return Presence(
                name=name,
                vms=self.vms.noun(),
                over=self.over,
                at_least=self.at_least,
                by_label=self.by,
                hard=self.hard,
                weight=self.weight,
            )
        return Spread(
            name=name,
            vms=self.vms.noun(),
            over=self.over,
            at_most=1 if self.at_most is None else self.at_most,
            by_label=self.by,
            hard=self.hard,
            weight=self.weight,
        )

    def title(self) -> str:
        """Describe it in a few words."""
        if self.at_least is None:
            return f"spread {_vms_text(self.vms, self.by)} over {self.over}"
        places = self.over if self.at_least == 1 else f"{self.over}s"
        return f"spread {_vms_text(self.vms, self.by)} over at least {self.at_least} {places}"


class TogetherSection(_RuleSection):
    """Keep VMs in one place."""

    rule: Literal["together"]
    over: Domain = Domain.HOST
    """`host`, `rack` or `site`."""
    by: Annotated[str, Field(min_length=1)] | None = None
    """A label: the VMs of each of its values form a group of their own."""

    def noun(self, name: str) -> Rule:
        """Return the rule that this means."""
        return Together(
            name=name,
            vms=self.vms.noun(),
            over=self.over,
            by_label=self.by,
            hard=self.hard,
            weight=self.weight,
        )

    def title(self) -> str:
        """Describe it in a few words."""
        return f"together {_vms_text(self.vms, self.by)} in one {self.over}"


class FenceSection(_RuleSection):
    """Keep VMs on some hosts."""

    rule: Literal["fence"]
    to: HostSelectorSection
    """The hosts that they may be on."""

    def noun(self, name: str) -> Rule:
        """Return the rule that this means."""
        return Fence(
            name=name,
            vms=self.vms.noun(),
            to=self.to.noun(),
            hard=self.hard,
            weight=self.weight,
        )

    def title(self) -> str:
        """Describe it in a few words."""
        return f"fence {_vms_text(self.vms)} to {_hosts_text(self.to)}"


class BanSection(_RuleSection):
    """Keep VMs off some hosts."""

    rule: Literal["ban"]
    hosts: HostSelectorSection
    """The hosts that they must not be on."""

    def noun(self, name: str) -> Rule:
        """Return the rule that this means."""
        return Ban(
            name=name,
            vms=self.vms.noun(),
            hosts=self.hosts.noun(),
            hard=self.hard,
            weight=self.weight,
        )

    def title(self) -> str:
        """Describe it in a few words."""
        return f"ban {_vms_text(self.vms)} from {_hosts_text(self.hosts)}"


class PinSection(_RuleSection):
    """Leave VMs where they are."""

    rule: Literal["pin"]

    def noun(self, name: str) -> Rule:
        """Return the rule that this means."""
        return Pin(name=name, vms=self.vms.noun(), hard=self.hard, weight=self.weight)

    def title(self) -> str:
        """Describe it in a few words."""
        return f"pin {_vms_text(self.vms)}"


type RuleSection = Annotated[
    SpreadSection | TogetherSection | FenceSection | BanSection | PinSection,
    Field(discriminator="rule"),
]


def says_something(selector: FileModel) -> bool:
    """Whether a selector leaves anything out at all."""
    return any(getattr(selector, name) for name in type(selector).model_fields)


def _vms_text(vms: VmSelectorSection, by: str | None = None) -> str:
    parts = [_values_text(vms.names)] if vms.names else []
    parts += [f"{label}={_values_text(values)}" for label, values in sorted(vms.labels.items())]
    parts += [f"by {by}"] if by else []
    return " ".join(parts)


def _hosts_text(hosts: HostSelectorSection) -> str:
    parts = [_values_text(hosts.names)] if hosts.names else []
    parts += [f"{label}={_values_text(value)}" for label, value in sorted(hosts.labels.items())]
    parts += [f"site {_values_text(hosts.site)}"] if hosts.site else []
    parts += [f"rack {_values_text(hosts.rack)}"] if hosts.rack else []
    return " ".join(parts)


def _values_text(values: OneOrMore) -> str:
    given = _tuple(values)
    return "|".join(given[:3]) + (f"|… {len(given) - 3} more" if len(given) > 3 else "")


def _tuple(values: OneOrMore | None) -> tuple[str, ...]:
    return () if values is None else (values,) if isinstance(values, str) else tuple(values)


def _labels(labels: Mapping[str, OneOrMore]) -> dict[str, tuple[str, ...]]:
    return {name: _tuple(values) for name, values in labels.items()}
