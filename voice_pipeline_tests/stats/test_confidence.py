"""A judgement says of a confidence what is known of it by construction, with intervals over speakers."""

from __future__ import annotations

import numpy as np
import pytest

from voice_pipeline.stats.bootstrap import cluster_bootstrap_statistic
from voice_pipeline.stats.confidence import ConfidenceJudgement, judge_confidence


def drawn(shift: float = 0.0, n: int = 400) -> ConfidenceJudgement:
    """Confidences whose log-odds are `shift` too high, of clips of four words of which one is wrong or none."""
    rng = np.random.default_rng(1)
    true = rng.beta(4, 1, n)
    right = rng.random(n) < true
    odds = np.log(true / (1 - true)) + shift
    sure = 1 / (1 + np.exp(-odds))
    return judge_confidence(sure, right, np.where(right, 0, 1), np.full(n, 4), [f"s{i % 8}" for i in range(n)])


def test_a_calibrated_confidence_is_told_from_one_that_boasts() -> None:
    honest, boasting = drawn(), drawn(shift=1.5)
    assert honest.sweep_calibration_error < 0.05 < boasting.sweep_calibration_error
    assert honest.expected_calibration_error < 2 * honest.calibration_error_by_chance
    assert boasting.expected_calibration_error > 2 * boasting.calibration_error_by_chance
    assert boasting.mean_confidence - boasting.right_share > 0.05
    assert (boasting.auc, boasting.aurc) == (honest.auc, honest.aurc), "ranking is the same"


def test_figures_hang_together() -> None:
    found = drawn()
    assert (found.clips, found.speakers) == (400, 8)
    assert found.wer == pytest.approx((1 - found.right_share) / 4)
    assert found.wer_cut_at_80_coverage == pytest.approx(1 - found.wer_at_80_coverage / found.wer)
    assert found.sweep_calibration_error_low <= found.sweep_calibration_error_high
    assert found.wer_cut_at_80_coverage_low < found.wer_cut_at_80_coverage < found.wer_cut_at_80_coverage_high


def test_one_clip_can_be_judged() -> None:
    found = judge_confidence([0.8], [False], [1], [2], ["s"])
    assert found.sweep_calibration_error == pytest.approx(0.8)
    assert found.auc == 0.5
    assert found.wer_cut_at_80_coverage == 0


def test_the_interval_of_one_speaker_is_its_value() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(60) < 0.7
    found = judge_confidence(rng.random(60), right, ~right, np.full(60, 3), ["s"] * 60)
    assert found.sweep_calibration_error_low == found.sweep_calibration_error == found.sweep_calibration_error_high
    assert found.wer_cut_at_80_coverage_low == found.wer_cut_at_80_coverage == found.wer_cut_at_80_coverage_high
    assert 0 < found.sweep_calibration_error < 1
    assert found.wer_cut_at_80_coverage != 0


def test_the_interval_draws_whole_speakers() -> None:
    values = np.array([0.0, 0.0, 10.0, 10.0])
    seen: list[set[float]] = []

    def mean(chosen: np.ndarray) -> float:
        seen.append(set(np.unique(chosen, return_counts=True)[1].tolist()))
        return float(values[chosen].mean())

    assert cluster_bootstrap_statistic(mean, ["a", "a", "b", "b"], n=50) == (0.0, 10.0)
    assert all(len(counts) == 1 for counts in seen), "both clips of a speaker are drawn equally often"
    assert cluster_bootstrap_statistic(mean, ["a"] * 4, n=5) == (5.0, 5.0)
