"""App versions as the server and a device compare them: whatever text they are given, they compare numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_pipeline.trust import is_older, version_numbers


@given(parts=st.lists(st.integers(0, 999_999_999), min_size=3, max_size=3))
def test_a_dotted_version_is_its_numbers(parts: list[int]) -> None:
    assert version_numbers(".".join(map(str, parts))) == tuple(parts)


@pytest.mark.parametrize("part", ["\u00b2", "\u0663", "9" * 5_000, "-1", ""])
def test_what_is_no_number_of_at_most_nine_digits_counts_as_nought(part: str) -> None:
    assert version_numbers(f"1.{part}.2") == (1, 0, 2)


@given(version=st.text())
def test_any_text_is_a_version(version: str) -> None:
    assert len(version_numbers(version)) == 3


@pytest.mark.parametrize(("app", "than"), [("1.9.9", "1.10.0"), ("1.4", "1.4.1"), ("", "0.0.1"), ("9", "10")])
def test_an_older_version_is_older_and_not_the_other_way_round(app: str, than: str) -> None:
    assert is_older(app, than)
    assert not is_older(than, app)
    assert not is_older(app, app)
