"""Accepting only what one is sure of: risk against coverage, and what that buys in word error rate.

Risk is the pooled word error rate (all errors over all reference words) of the clips that are accepted; coverage is the
share of clips accepted, surest first. El-Yaniv & Wiener, "On the foundations of noise-free selective classification",
JMLR 2010; area under the curve: Geifman, Uziel & El-Yaniv, ICLR 2019.

Arguments are `confidences`, `errors` and `words`, each of shape (N,), N ≥ 1, one value a clip. Clips of equal
confidence cannot be told apart: they share their errors and words evenly, so the order of the clips means nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class RiskCoverage:
    """Point n of N: the n+1 surest clips are accepted, a share `coverage[n]`, with word error rate `risk[n]`.

    `risk` is a fraction (0 where the accepted clips have no word), may exceed 1, and ends with the word error rate.
    """

    coverage: tuple[float, ...]
    risk: tuple[float, ...]

    @property
    def area(self) -> float:
        """Mean risk over all coverages (AURC); smaller is better, the word error rate itself for blind confidence."""
        return float(np.mean(self.risk))

    def risk_at(self, coverage: float) -> float:
        """Word error rate when the share `coverage` in (0, 1], rounded up to whole clips, is accepted."""
        if not 0 < coverage <= 1:
            raise ValueError(f"coverage must lie in (0, 1], not {coverage}")
        return self.risk[math.ceil(coverage * len(self.risk) - 1e-9) - 1]


def risk_coverage(confidences: ArrayLike, errors: ArrayLike, words: ArrayLike) -> RiskCoverage:
    """The curve over all N coverages.

    Raises:
        ValueError: columns empty or of different lengths.
    """
    p, e, w = (np.asarray(column, dtype=np.float64) for column in (confidences, errors, words))
    if p.ndim != 1 or not len(p) or not p.shape == e.shape == w.shape:
        raise ValueError(f"risk needs equally long, non-empty columns; got {p.shape}, {e.shape} and {w.shape}")
    order = np.argsort(-p, kind="stable")
    ties = np.unique(-p[order], return_inverse=True)[1]
    accepted_errors, accepted_words = _shared(e[order], ties), _shared(w[order], ties)
    risk = np.divide(accepted_errors, accepted_words, out=np.zeros_like(p), where=accepted_words > 0)
    coverage = np.arange(1, len(p) + 1) / len(p)
    return RiskCoverage(tuple(coverage.tolist()), tuple(risk.tolist()))


def wer_cut(confidences: ArrayLike, errors: ArrayLike, words: ArrayLike, coverage: float = 0.8) -> float:
    """Relative cut in word error rate, ≤ 1, when only the surest share `coverage` (rounded up to clips) is accepted.

    0.4 means that what is accepted has 40 % fewer errors a word than everything; negative means that the surest clips
    are worse. 0 where there is no error at all.
    """
    curve = risk_coverage(confidences, errors, words)
    whole = curve.risk[-1]
    return 1.0 - curve.risk_at(coverage) / whole if whole > 0 else 0.0


def _shared(values: NDArray[np.float64], ties: NDArray[np.int64]) -> NDArray[np.float64]:
    """Running sums, with the values of tied clips spread evenly among them."""
    counts = np.bincount(ties)
    means = np.bincount(ties, weights=values) / counts
    return np.cumsum(means[ties])
