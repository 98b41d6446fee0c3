"""Every route is reachable, and each for its own reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_pipeline.labeling.routing import Candidate, Coverage, Signals, originals, route
from voice_pipeline.schema.labeling import Route
from voice_pipeline.schema.labeling_policy import LabelingPolicy

POLICY = LabelingPolicy()
CLIP = Candidate(
    clip_id="c1",
    capture_date="2026-11-02",
    content_sha256="aa",
    received_at="2026-11-02T10:00:00+00:00",
    duration_s=2.0,
    cohort="phone_mid|built_in|en-US",
    accent="",
    failure_mode="low_confidence",
    hypothesis="stop one two",
    confidence=0.5,
    scopes=frozenset({"transcribe_review", "train"}),
)
COVERED = Coverage(
    accents={"scottish": 1000}, cohorts={CLIP.cohort: 1000}, vocabulary=frozenset({"stop", "one", "two", "three"})
)


@pytest.mark.parametrize(
    ("change", "expected", "reason"),
    [
        ({"scopes": frozenset({"train"})}, Route.REJECT, "no_review_consent"),
        ({"duration_s": 0.05}, Route.REJECT, "too_short"),
        ({"signals": Signals(loudness_dbfs=-90.0)}, Route.REJECT, "silent"),
        ({"signals": Signals(clipping=0.9)}, Route.REJECT, "clipped"),
        ({"signals": Signals(snr_db=-8.0)}, Route.AUGMENT, "too_noisy_to_transcribe"),
        ({"confidence": 0.99, "failure_mode": "none"}, Route.ACCEPT, "confident"),
        ({"confidence": 0.99, "failure_mode": "user_corrected"}, Route.TRANSCRIPTION_QA, "disagreement"),
        ({"accent": "welsh"}, Route.ACCENT_REVIEW, "novel_accent"),
        ({"accent": "scottish"}, Route.TRANSCRIPTION_QA, "uncertainty"),
        ({"hypothesis": "stop qwyx zrbl"}, Route.PHONETIC_REVIEW, "unknown_words"),
        ({"hypothesis": None, "confidence": None}, Route.TRANSCRIPTION_QA, "no_hypothesis"),
    ],
)
def test_a_clip_takes_the_route_its_state_calls_for(change: dict[str, object], expected: Route, reason: str) -> None:
    routed = route(POLICY, replace(CLIP, **change), COVERED, None)  # type: ignore[arg-type]
    assert routed.route is expected
    assert reason in routed.reasons


def test_a_copy_is_a_duplicate_and_names_its_original() -> None:
    routed = route(POLICY, CLIP, COVERED, "c0")
    assert routed.route is Route.DUPLICATE
    assert routed.reasons == ("duplicate_of:c0",)
    assert not routed.auditable


@given(
    st.floats(0, 1), st.floats(0, 1), st.sampled_from(["", "welsh", "scottish"]), st.floats(-10, 60), st.floats(0, 0.2)
)
def test_priority_is_a_fraction_and_falls_as_the_device_grows_surer(
    low: float, high: float, accent: str, snr: float, rate: float
) -> None:
    signals = Signals(snr_db=max(snr, 0.0), correction_rate=rate)
    unsure, sure = (
        route(POLICY, replace(CLIP, accent=accent, confidence=c, signals=signals), COVERED, None)
        for c in (min(low, high), max(low, high))
    )
    assert 0 <= sure.priority <= unsure.priority <= 1


def test_the_original_is_the_one_already_chosen_else_the_first_that_may_be_heard() -> None:
    first = replace(CLIP, clip_id="a", received_at="1", scopes=frozenset({"train"}))
    second, third = replace(CLIP, clip_id="b", received_at="2"), replace(CLIP, clip_id="c", received_at="3")
    assert originals([third, second, first]) == {"aa": "b"}
    assert originals([second, replace(third, selected=True)]) == {"aa": "c"}
