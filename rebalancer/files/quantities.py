"""Quantities as people write them: `10GiB`, `30m`, `70%`, `10Gbit/s`.

Each type reads a plain number in its base unit, or text with a unit, and yields the plain number
that the rest of the program works with. None takes a negative number, `true`, or infinity.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

_DECIMAL_PREFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_BINARY_PREFIXES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}
# A bare K, M or G is missing on purpose: to libvirt it means 1024, to disk makers 1000.
_BYTES = {
    f"{prefix}B": Decimal(factor)
    for prefix, factor in {**_DECIMAL_PREFIXES, "K": 10**3, **_BINARY_PREFIXES}.items()
}
_BITS = {
    prefix + unit: Decimal(factor) / 8
    for prefix, factor in _DECIMAL_PREFIXES.items()
    for unit in ("bit/s", "bps")
}
_RATES = {f"{unit}/s": factor for unit, factor in _BYTES.items()} | _BITS
_TIMES = {
    "us": Decimal("1e-6"),
    "ms": Decimal("1e-3"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86_400),
    "w": Decimal(604_800),
}

_NUMBER = r"([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?)"
_TERM = re.compile(_NUMBER + r" ?([A-Za-z/%]*)")
_MOST_CHARACTERS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quantity:
    """How one kind of quantity is written."""

    noun: str
    example: str
    units: Mapping[str, Decimal]
    most: float
    """No such thing in a data centre is larger, and larger numbers break sums further on."""
    is_sum: bool = False
    """Whether terms may follow one another, as in `1h30m`."""

    def read(self, value: object) -> float:
        """Return `value` in base units, as a validator of pydantic."""
        if isinstance(value, str):
            number = self._read_text(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            number = self._check_range(value)
        else:
            raise self._refused()
        return number

    def read_whole(self, value: object) -> int:
        """Return `value` in base units; a plain number has to be whole."""
        number = self.read(value)
        if isinstance(value, float) and not value.is_integer():
            raise self._refused("is not a whole number of bytes")
        return int(number)

    def _read_text(self, text: str) -> float:
        total = Decimal(0)
        terms = list(_TERM.finditer(text)) if len(text) <= _MOST_CHARACTERS else []
        if "".join(term[0] for term in terms) != text or not terms:
            raise self._refused()
        if len(terms) > 1 and not (self.is_sum and all(term[2] for term in terms)):
            raise self._refused()
        for term in terms:
            factor = self.units.get(term[2]) if term[2] else Decimal(1)
            if factor is None:
                raise self._refused()
            total += Decimal(term[1]) * factor
        whole = total == total.to_integral_value() and total < 2**63
        return self._check_range(int(total) if whole else float(total))

    def _check_range(self, number: float) -> float:
        if number < 0:
            raise self._refused("is negative")
        if not number <= self.most:  # nor is NaN
            raise self._refused(f"is too large for {self.noun}")
        return number

    def _refused(self, problem: str = "") -> PydanticCustomError:
        return PydanticCustomError(
            "quantity",
            "{problem}; expected {example}",
            {
                "problem": problem or f"is not {self.noun}",
                "noun": self.noun,
                "example": self.example,
            },
        )


_SIZE = _Quantity(
    noun="a size",
    example="bytes, or a size such as 512MiB, 10GiB or 1.5GB",
    units=_BYTES,
    most=2**60,
)
_DURATION = _Quantity(
    noun="a duration",
    example="seconds, or a duration such as 500ms, 5s, 30m, 6h or 1d12h",
    units=_TIMES,
    most=100 * 366 * 86_400,
    is_sum=True,
)
_SHARE = _Quantity(
    noun="a ratio",
    example="a number from 0 to 1, or a percentage such as 70%",
    units={"%": Decimal("0.01")},
    most=1,
)
_RATE = _Quantity(
    noun="a rate",
    example="bytes per second, or a rate such as 200MiB/s or 10Gbit/s",
    units=_RATES,
    most=1e15,
)
_CORE_COUNT = _Quantity(
    noun="a number of cores",
    example="a number such as 4 or 0.5",
    units={},
    most=1e6,
)

_HOURS_OF_A_DAY = 24


def _one_for_each_hour(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(values) not in (0, _HOURS_OF_A_DAY):
        raise PydanticCustomError(
            "quantity",
            "{problem}; expected {example}",
            {
                "problem": f"has {len(values)} values",
                "noun": "a value for each hour",
                "example": "24 values, one for each hour of the day in UTC, from midnight on",
            },
        )
    return values


ByHour = Annotated[
    tuple[Annotated[float, Field(ge=0, le=1e18)], ...], AfterValidator(_one_for_each_hour)
]
"""A value for each hour of the day, UTC: 24 of them, or none."""

Price = Annotated[float, Field(ge=-1e18, le=1e18, allow_inf_nan=False)]
"""In whatever currency; below 0 where one is paid for taking it, as energy at times is."""

PriceByHour = Annotated[tuple[Price, ...], AfterValidator(_one_for_each_hour)]
"""A price for each hour of the day, UTC: 24 of them, or none."""

Bytes = Annotated[int, BeforeValidator(_SIZE.read_whole)]
"""A size: `1073741824`, `1GiB`, `1.5GB`. A bare `1G` is refused, because it means two things."""

Seconds = Annotated[float, BeforeValidator(_DURATION.read)]
"""A duration: `90`, `500ms`, `30m`, `6h`, `1d12h`."""

Ratio = Annotated[float, BeforeValidator(_SHARE.read)]
"""A part of a whole: `0.7` or `70%`."""

BytesPerSecond = Annotated[float, BeforeValidator(_RATE.read)]
"""A rate: `1.25e9`, `200MiB/s`, `10Gbit/s`."""

Cores = Annotated[float, BeforeValidator(_CORE_COUNT.read)]
"""A number of CPU cores, in fractions if need be."""
