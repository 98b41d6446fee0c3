"""Everything that is told about a confidence on one set of clips: is it calibrated, does it tell right from wrong, what
does accepting only the surest clips buy. See `calibration` for which calibration error a goal refers to.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from voice_pipeline.stats.bootstrap import cluster_bootstrap_statistic
from voice_pipeline.stats.calibration import (
    area_under_roc,
    brier_score,
    calibration_error,
    chance_calibration_error,
    debiased_calibration_error,
    sweep_calibration_error,
)
from voice_pipeline.stats.selective import risk_coverage, wer_cut

COVERAGE = 0.8


@dataclass(frozen=True)
class ConfidenceJudgement:
    """How good a confidence is on `clips` clips of `speakers` speakers. Low and high: 95 % over speakers.

    Attributes:
        right_share, mean_confidence: what came true and what was said, on average.
        sweep_calibration_error: the figure that goals refer to.
        expected_calibration_error: over ten bins of equal count.
        calibration_error_by_chance: what that would be on average if every confidence were exactly right.
        debiased_calibration_error: root mean square, without that part.
        brier: mean squared gap; auc: 0.5 where all clips were right or all wrong.
        wer: of everything; aurc: mean WER over all coverages; wer_at_80_coverage: of the surest 80 % of clips;
        wer_cut_at_80_coverage: relative cut from `wer` to that.
    """

    clips: int
    speakers: int
    right_share: float
    mean_confidence: float
    sweep_calibration_error: float
    sweep_calibration_error_low: float
    sweep_calibration_error_high: float
    expected_calibration_error: float
    calibration_error_by_chance: float
    debiased_calibration_error: float
    brier: float
    auc: float
    wer: float
    aurc: float
    wer_at_80_coverage: float
    wer_cut_at_80_coverage: float
    wer_cut_at_80_coverage_low: float
    wer_cut_at_80_coverage_high: float


def judge_confidence(
    confidences: ArrayLike, right: ArrayLike, errors: ArrayLike, words: ArrayLike, speakers: Sequence[Hashable]
) -> ConfidenceJudgement:
    """Judge confidences on clips they were not fitted to.

    Args:
        confidences: probabilities in [0, 1], shape (N,), N ≥ 1.
        right: (N,), whether the text was entirely right.
        errors, words: (N,), word errors and reference words.
        speakers: N labels.

    Raises:
        ValueError: columns empty or of different lengths.
    """
    p, y = np.asarray(confidences, dtype=np.float64), np.asarray(right, dtype=np.float64)
    e, w = np.asarray(errors, dtype=np.float64), np.asarray(words, dtype=np.float64)
    curve = risk_coverage(p, e, w)
    sweep = sweep_calibration_error(p, y)

    def sweep_of(chosen: NDArray[np.int64]) -> float:
        return sweep_calibration_error(p[chosen], y[chosen])

    def cut_of(chosen: NDArray[np.int64]) -> float:
        return wer_cut(p[chosen], e[chosen], w[chosen], COVERAGE)

    sweep_low, sweep_high = cluster_bootstrap_statistic(sweep_of, speakers)
    cut_low, cut_high = cluster_bootstrap_statistic(cut_of, speakers)
    return ConfidenceJudgement(
        clips=len(p),
        speakers=len(set(speakers)),
        right_share=float(y.mean()),
        mean_confidence=float(p.mean()),
        sweep_calibration_error=sweep,
        sweep_calibration_error_low=sweep_low,
        sweep_calibration_error_high=sweep_high,
        expected_calibration_error=calibration_error(p, y),
        calibration_error_by_chance=chance_calibration_error(p),
        debiased_calibration_error=debiased_calibration_error(p, y),
        brier=brier_score(p, y),
        auc=area_under_roc(p, y),
        wer=curve.risk[-1],
        aurc=curve.area,
        wer_at_80_coverage=curve.risk_at(COVERAGE),
        wer_cut_at_80_coverage=wer_cut(p, e, w, COVERAGE),
        wer_cut_at_80_coverage_low=cut_low,
        wer_cut_at_80_coverage_high=cut_high,
    )
