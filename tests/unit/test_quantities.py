"""Sizes, durations, ratios and rates, as people write them in YAML."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from rebalancer.files import Bytes, BytesPerSecond, Cores, Ratio, Seconds

SIZE = TypeAdapter[int](Bytes)
DURATION = TypeAdapter[float](Seconds)
RATIO = TypeAdapter[float](Ratio)
RATE = TypeAdapter[float](BytesPerSecond)
CORES = TypeAdapter[float](Cores)
NEVER: list[object] = [
    *(True, False, None, [], {}),
    *(-1, -0.5, math.nan, math.inf, -math.inf, 10**400),
    *("", " ", "nan", "inf", "1e999", "9" * 10_000, "٣"),
]
ALL = [SIZE, DURATION, RATIO, RATE, CORES]


@pytest.mark.parametrize(
    ("written", "size_bytes"),
    [
        (0, 0),
        (4096, 4096),
        (1e9, 10**9),
        ("4096", 4096),
        ("512MiB", 512 * 2**20),
        ("10GiB", 10 * 2**30),
        ("10 GiB", 10 * 2**30),
        ("1.5GB", 1_500_000_000),
        ("1kB", 1000),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("2TiB", 2 * 2**40),
        ("7B", 7),
    ],
)
def test_a_size_is_bytes_or_has_a_unit(written: object, size_bytes: int) -> None:
    assert SIZE.validate_python(written) == size_bytes


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (90, 90),
        (0.5, 0.5),
        ("500ms", 0.5),
        ("250us", 0.00025),
        ("5s", 5),
        ("30m", 1800),
        ("6h", 21_600),
        ("2d", 172_800),
        ("1w", 604_800),
        ("1.5h", 5400),
        ("1h30m", 5400),
        ("1d12h", 129_600),
        ("45", 45),
    ],
)
def test_a_duration_is_seconds_or_has_units(written: object, seconds: float) -> None:
    assert DURATION.validate_python(written) == seconds


@pytest.mark.parametrize(
    ("written", "ratio"), [(0, 0), (1, 1), (0.7, 0.7), ("70%", 0.7), ("2.5%", 0.025), ("0.7", 0.7)]
)
def test_a_ratio_is_a_number_or_a_percentage(written: object, ratio: float) -> None:
    assert RATIO.validate_python(written) == ratio


@pytest.mark.parametrize(
    ("written", "bytes_per_second"),
    [
        (1.25e9, 1.25e9),
        ("200MiB/s", 200 * 2**20),
        ("1GB/s", 1e9),
        ("10Gbit/s", 1.25e9),
        ("100 Mbit/s", 1.25e7),
        ("1Gbps", 1.25e8),
        ("8bit/s", 1),
    ],
)
def test_a_rate_is_in_bytes_or_in_bits(written: object, bytes_per_second: float) -> None:
    assert RATE.validate_python(written) == bytes_per_second


@pytest.mark.parametrize("written", [4, 0.5, "2"])
def test_cores_are_a_number(written: object) -> None:
    assert CORES.validate_python(written) == float(str(written))


@pytest.mark.parametrize("written", ["1G", "1K", "1gb", "1Gb", "1GBit", "1GiB/s", "1,5GB"])
def test_a_size_that_could_be_read_in_two_ways_is_refused(written: str) -> None:
    with pytest.raises(ValidationError, match="expected bytes, or a size such as"):
        SIZE.validate_python(written)


@pytest.mark.parametrize(
    ("quantity", "written"),
    [
        (SIZE, 1.5),
        (SIZE, "2000PiB"),
        (SIZE, 2**61),
        (DURATION, "5x"),
        (DURATION, "5 minutes"),
        (DURATION, "1h30"),
        (DURATION, "-5s"),
        (DURATION, "101w1000w10000w"),
        (RATIO, 1.01),
        (RATIO, "101%"),
        (RATIO, 70),
        (RATE, "200MiB"),
        (RATE, "10Gbit"),
        (CORES, "4c"),
        (CORES, 1e300),
    ],
)
def test_what_is_no_such_quantity_is_refused(quantity: TypeAdapter[float], written: object) -> None:
    with pytest.raises(ValidationError, match="expected"):
        quantity.validate_python(written)


@pytest.mark.parametrize("quantity", ALL)
@pytest.mark.parametrize("written", NEVER, ids=lambda value: str(value)[:12])
def test_no_quantity_is_negative_infinite_or_not_a_number(
    quantity: TypeAdapter[float], written: object
) -> None:
    with pytest.raises(ValidationError):
        quantity.validate_python(written)


@pytest.mark.parametrize("quantity", ALL)
@given(written=st.text() | st.from_regex(r"\A[0-9.eE+-]{0,8} ?[A-Za-z/%]{0,6}\Z"))
def test_any_text_is_a_quantity_in_range_or_is_refused(
    quantity: TypeAdapter[float], written: str
) -> None:
    try:
        number = quantity.validate_python(written)
    except ValidationError:
        return
    assert 0 <= number <= 2**60


@given(st.integers(0, 2**60))
def test_a_size_in_bytes_is_kept_to_the_byte(size_bytes: int) -> None:
    assert SIZE.validate_python(size_bytes) == size_bytes
    assert SIZE.validate_python(f"{size_bytes}B") == size_bytes
