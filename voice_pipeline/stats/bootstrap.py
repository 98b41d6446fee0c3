"""Intervals that respect who spoke: the bootstrap resamples whole clusters (speakers, devices), never single clips.

Clips of one speaker share accent and microphone, so resampling clips would make intervals far too narrow.
Method: cluster bootstrap with percentile intervals (Davison & Hinkley 1997, §3.8 and §5.3); for word error rates
Bisani & Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004, whose
"probability of improvement" is the complement of `PairedComparison.probability_worse`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_BLOCK_CELLS = 4_000_000  # bounds memory: at most this many resampling weights at once


@dataclass(frozen=True)
class PairedComparison:
    """Two systems on the same material.

    Attributes:
        relative_improvement: `(baseline - candidate) / baseline` of the error rates; positive = candidate is better.
        low, high: percentile interval of that figure.
        absolute_change: `candidate - baseline` error rate; positive = candidate is worse.
        absolute_low, absolute_high: percentile interval of the absolute change.
        probability_worse: share of resamples in which the candidate has the higher error rate, ties counted half.
        clusters: how many clusters were resampled.
    """

    relative_improvement: float
    low: float
    high: float
    absolute_change: float
    absolute_low: float
    absolute_high: float
    probability_worse: float
    clusters: int


def cluster_bootstrap_ratio(
    numerators: ArrayLike,
    denominators: ArrayLike,
    clusters: Sequence[Hashable],
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """The pooled ratio `sum(numerators) / sum(denominators)` with its percentile interval over clusters.

    Args:
        numerators, denominators: shape (N,), one pair an utterance, e.g. word errors and words.
        clusters: N labels, e.g. speakers.
        n: resamples.
        level: coverage of the interval, in (0, 1).

    Returns:
        (value, low, high). All three are 0.0 where the denominators sum to 0. With one cluster, low = value = high.
    """
    sums = _cluster_sums(clusters, numerators, denominators)
    value = _ratio(sums.sum(axis=1))
    draws = np.concatenate([_ratios(block[0], block[1]) for block in _resampled(sums, n, seed)])
    low, high = np.quantile(draws, _tails(level))
    return value, float(low), float(high)


def paired_bootstrap_relative(
    baseline_errors: ArrayLike,
    candidate_errors: ArrayLike,
    words: ArrayLike,
    clusters: Sequence[Hashable],
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> PairedComparison:
    """Compare two systems that heard the same utterances, resampling clusters with both systems kept together.

    Args:
        baseline_errors, candidate_errors, words: shape (N,), the same utterance at the same index.
        clusters: N labels, e.g. speakers.

    A baseline without errors gives relative improvement 0.0 if the candidate has none either, else -inf.
    """
    sums = _cluster_sums(clusters, baseline_errors, candidate_errors, words)
    base, cand, total = sums.sum(axis=1)
    relative, absolute, worse = [], [], 0.0
    for block in _resampled(sums, n, seed):
        relative.append(_improvement(block[0], block[1]))
        absolute.append(_ratios(block[1] - block[0], block[2]))
        worse += float((block[1] > block[0]).sum()) + 0.5 * float((block[1] == block[0]).sum())
    tails = _tails(level)
    # A resample without baseline errors is -inf when the candidate has some: 'lower' never interpolates inf - inf.
    low, high = np.quantile(np.concatenate(relative), tails, method="lower")
    absolute_low, absolute_high = np.quantile(np.concatenate(absolute), tails)
    return PairedComparison(
        relative_improvement=float(_improvement(np.array([base]), np.array([cand]))[0]),
        low=float(low),
        high=float(high),
        absolute_change=_ratio(np.array([cand - base, total])),
        absolute_low=float(absolute_low),
        absolute_high=float(absolute_high),
        probability_worse=worse / n,
        clusters=sums.shape[1],
    )


def cluster_bootstrap_statistic(
    statistic: Callable[[NDArray[np.int64]], float],
    clusters: Sequence[Hashable],
    n: int = 300,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval (low, high) over clusters of any figure that is no ratio of sums.

    Args:
        statistic: the figure of the clips at these positions; a cluster drawn twice gives its positions twice.
        clusters: one label a clip, at least one.

    A figure that is biased for few clips, as calibration errors are, is biased in the interval too.
    """
    members: dict[Hashable, list[int]] = {}
    for position, label in enumerate(clusters):
        members.setdefault(label, []).append(position)
    if not members:
        raise ValueError("bootstrap needs at least one clip")
    positions = [np.array(found, dtype=np.int64) for found in members.values()]
    drawn = np.random.default_rng(seed).integers(len(positions), size=(n, len(positions)))
    figures = [statistic(np.concatenate([positions[cluster] for cluster in draw])) for draw in drawn]
    low, high = np.quantile(figures, _tails(level))
    return float(low), float(high)


def _cluster_sums(clusters: Sequence[Hashable], *columns: ArrayLike) -> NDArray[np.float64]:
    """Each column summed by cluster, shape (columns, clusters), clusters in order of first appearance."""
    index: dict[Hashable, int] = {}
    codes = np.array([index.setdefault(label, len(index)) for label in clusters], dtype=np.int64)
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    if not len(codes) or any(array.shape != codes.shape for array in arrays):
        shapes = [array.shape for array in arrays]
        raise ValueError(f"bootstrap needs equally long, non-empty columns; got {shapes} for {len(codes)} clusters")
    return np.stack([np.bincount(codes, weights=array, minlength=len(index)) for array in arrays])


def _resampled(sums: NDArray[np.float64], n: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Column sums of `n` cluster resamples, in blocks of shape (columns, block)."""
    rng = np.random.default_rng(seed)
    count = sums.shape[1]
    block = max(1, min(n, _BLOCK_CELLS // count))
    for start in range(0, n, block):
        weights = rng.multinomial(count, np.full(count, 1.0 / count), size=min(block, n - start))
        yield sums @ weights.T


def _ratios(numerators: NDArray[np.float64], denominators: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(numerators, denominators, out=np.zeros_like(numerators), where=denominators > 0)


def _ratio(pair: NDArray[np.float64]) -> float:
    return float(pair[0] / pair[1]) if pair[1] > 0 else 0.0


def _improvement(base: NDArray[np.float64], cand: NDArray[np.float64]) -> NDArray[np.float64]:
    without_base = np.where(cand > 0, -np.inf, 0.0)
    return np.divide(base - cand, base, out=without_base, where=base > 0)


def _tails(level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), not {level}")
    return (1 - level) / 2, (1 + level) / 2
