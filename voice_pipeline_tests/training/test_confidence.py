"""Confidence is judged out of fold, by measures that mean what their names say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.speech.confidence import INPUT_NAMES
from voice_pipeline.training.confidence import HeardClip, area_under_roc, calibrate, calibration_error


def heard(count: int, signal: float, seed: int = 0, speakers: int = 10) -> list[HeardClip]:
    """Clips whose first input tells with strength `signal` whether they are right; all else is noise."""
    rng = np.random.default_rng(seed)
    clips = []
    for n in range(count):
        right = bool(rng.random() < 0.6)
        inputs = rng.normal(size=len(INPUT_NAMES))
        inputs[0] += signal if right else -signal
        clips.append(HeardClip(f"s{n % speakers}", inputs, right))
    return clips


def test_a_telling_input_gives_a_sharp_and_calibrated_confidence() -> None:
    calibration = calibrate(heard(600, signal=1.5), "dev")
    assert calibration.auc > 0.9
    assert calibration.expected_calibration_error < 0.08
    assert calibration.brier < 0.12
    assert (calibration.clips, calibration.speakers) == (600, 10)


def test_noise_is_not_mistaken_for_knowledge_because_speakers_are_held_out() -> None:
    assert calibrate(heard(200, signal=0.0), "dev").auc == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("right", [True, False])
def test_one_class_alone_still_gives_figures(right: bool) -> None:
    clips = [HeardClip(c.speaker, c.inputs, right) for c in heard(30, signal=1.0)]
    calibration = calibrate(clips, "dev")
    assert calibration.auc == 0.5
    assert calibration.right_share == float(right)
    assert calibration.expected_calibration_error < 0.1


def test_one_speaker_alone_is_judged_in_sample() -> None:
    assert calibrate(heard(40, signal=1.5, speakers=1), "dev").auc > 0.8


def test_a_confidence_that_is_always_sure_and_half_right_is_half_wrong() -> None:
    right = np.array([True, False] * 50)
    assert calibration_error(np.ones(100), right) == pytest.approx(0.5)
    assert calibration_error(np.full(100, 0.5), right) == pytest.approx(0.0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_measures_stay_in_range_and_auc_mirrors(cases: list[tuple[float, bool]]) -> None:
    probabilities = np.array([p for p, _ in cases])
    right = np.array([r for _, r in cases])
    assert 0 <= calibration_error(probabilities, right) <= 1
    assert area_under_roc(probabilities, right) + area_under_roc(-probabilities, right) == pytest.approx(1)
