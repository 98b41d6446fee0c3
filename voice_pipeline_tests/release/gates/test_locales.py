"""Sensitive locales: language ranges as RFC 4647 matches them, and what did not tell its language."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_pipeline.release.gates.locales import matching
from voice_pipeline.schema.release import Outcome
from voice_pipeline_tests.release.gate_evidence import judged, sound, with_rule


@pytest.mark.parametrize(
    ("language_range", "tag", "matches"),
    [
        ("de-de", "de-DE-1996", True),  # the examples of RFC 4647, 3.3.1
        ("de-de", "de-Deva", False),
        ("de-de", "de-Latn-DE", False),
        ("ar", "ar", True),
        ("ar", "ar-EG", True),
        ("AR", "ar-eg", True),
        ("ar-eg", "AR-EG", True),
        ("ar-EG", "ar", False),
        ("ar", "arn", False),
        ("ar", "en-AR", False),
        ("ar", "ar_EG", True),  # as Android writes it
        ("*", "sgn-ase", True),
    ],
)
def test_a_range_names_a_locale_as_the_standard_says(language_range: str, tag: str, matches: bool) -> None:
    assert matching([language_range], [tag]) == ([tag] if matches else [])


@pytest.mark.parametrize("tag", ["und", "UND", "und-Arab", ""])
def test_what_did_not_tell_its_language_may_be_a_sensitive_one(tag: str) -> None:
    assert matching(["ar"], [tag]) == [tag]
    assert matching([], [tag]) == []


tags = st.from_regex(r"\A[a-z]{2,3}(-[A-Z]{2})?\Z").filter(lambda tag: not tag.startswith("und"))


@given(st.lists(tags), tags)
def test_more_ranges_never_let_a_locale_go(ranges: list[str], tag: str) -> None:
    assert set(matching(ranges, [tag])) <= set(matching([*ranges, "ar"], [tag])) <= set(matching(["*"], [tag]))


def test_a_sensitive_locale_of_any_case_or_region_asks_for_a_sign_off() -> None:
    gates = with_rule("coverage", "sensitive_locales", ["AR", "pt-br"])
    for told, named in (("ar-EG", True), ("PT-BR", True), ("und", True), ("pt-PT", False), ("en-US", False)):
        found = judged(sound(locales=frozenset({"en-US", told})), "coverage", gates)
        assert found.outcome is (Outcome.INCONCLUSIVE if named else Outcome.PASS)
        assert (f"sensitive locale {told}" in found.detail) is named
