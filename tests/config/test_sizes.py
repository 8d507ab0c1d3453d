"""Numbers as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espalier.config.sizes import number, shown, size_bytes
from espalier.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4096", 4096),
        ("32k", 32_000),
        ("32K", 32_000),
        ("32Ki", 32_768),
        ("1Mi", 2**20),
        ("1.5m", 1_500_000),
        ("1_000", 1000),
        ("-5", -5),
    ],
)
def test_numbers_may_have_units(text: str, value: int) -> None:
    assert number(text, "x") == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("6GB", 6 * 2**30),
        ("6GiB", 6 * 2**30),
        ("6g", 6 * 2**30),
        ("0.5 GB", 2**29),
        ("512MB", 2**29),
        ("1024", 1024),
        ("1 TB", 2**40),
    ],
)
def test_sizes_count_as_memory_is_reported(text: str, value: int) -> None:
    assert size_bytes(text, "x") == value


@pytest.mark.parametrize(
    "text", ["", "k", "1.5", "1..5k", "3q", "6GB", "١٢", "nan", "1e3", "9" * 40]
)
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="x = "):
        number(text, "x")


@pytest.mark.parametrize("text", ["", "GB", "-6GB", "six", "1.5", "99999999999TB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="x = "):
        size_bytes(text, "x")


@given(st.integers(0, 2**62))
def test_a_plain_number_is_itself(value: int) -> None:
    assert number(str(value), "x") == value == size_bytes(str(value), "x")


def test_sizes_are_shown_in_the_unit_that_reads_best() -> None:
    assert [shown(size) for size in (512, 2048, 3 << 20, 6 << 30)] == [
        "512 B",
        "2.00 KiB",
        "3.00 MiB",
        "6.00 GiB",
    ]
