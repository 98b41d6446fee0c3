"""App versions as a device compares them: whatever text it is given, it compares numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_pipeline.device.recogniser import numbers


@given(parts=st.lists(st.integers(0, 999_999_999), min_size=3, max_size=3))
def test_a_dotted_version_is_its_numbers(parts: list[int]) -> None:
    assert numbers(".".join(map(str, parts))) == tuple(parts)


@pytest.mark.parametrize("part", ["\u00b2", "\u0663", "9" * 5_000, "-1", ""])
def test_what_is_no_number_of_at_most_nine_digits_counts_as_nought(part: str) -> None:
    assert numbers(f"1.{part}.2") == (1, 0, 2)


@given(version=st.text())
def test_any_text_is_a_version(version: str) -> None:
    assert len(numbers(version)) == 3
