"""Distances between two one-dimensional distributions, computed from sketches.

- PSI, population stability index: Σ (pᵢ − qᵢ) ln(pᵢ / qᵢ) over bins at the reference's deciles.
- JS, Jensen-Shannon divergence in bits over the same bins, in [0, 1] (Lin, 1991).
- KS, Kolmogorov-Smirnov D: the largest gap between the two CDFs, with its asymptotic two-sample p-value.

With no drift at all PSI is not 0 but about (bins − 1)(1/n + 1/m) (Yurdakul and Naranjo, "Statistical Properties of the
Population Stability Index", 2020), and JS, whose expansion is χ²/8 nats, is an eighth of that over ln 2. Both are
returned less that bias and never below 0. Bin counts are smoothed by ½ (Jeffreys), so an empty bin gives a large but
finite distance.

Legend: p window shares, q reference shares, shape (bins,).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from voice_pipeline.stats.sketches import Sketch

BINS = 10


@dataclass(frozen=True)
class Distance:
    """How far a window is from its reference. `psi` ≥ 0, `js` in [0, 1] bits, `ks` in [0, 1], `p_value` in [0, 1]."""

    psi: float
    js: float
    ks: float
    p_value: float
    reference_n: int
    window_n: int


def distance(reference: Sketch, window: Sketch, bins: int = BINS) -> Distance:
    """PSI, JS and KS of `window` against `reference`.

    Raises:
        ValueError: one of them is empty.
    """
    edges = bin_edges(reference, bins)
    q, p = bin_shares(reference, edges), bin_shares(window, edges)
    ks = ks_distance(reference, window)
    return Distance(
        psi=psi(p, q, window.n, reference.n),
        js=jensen_shannon(p, q, window.n, reference.n),
        ks=ks,
        p_value=ks_p_value(ks, reference.n, window.n),
        reference_n=reference.n,
        window_n=window.n,
    )


def bin_edges(reference: Sketch, bins: int = BINS) -> np.ndarray:
    """Inner edges of equal-share bins of the reference, ascending and distinct, shape (≤ bins − 1,).

    Ties in the reference (a constant, a few steps) leave fewer bins rather than empty ones.
    """
    return np.unique(reference.quantiles(np.arange(1, bins) / bins).astype(np.float32)).astype(np.float64)


def bin_shares(sketch: Sketch, edges: np.ndarray) -> np.ndarray:
    """Smoothed share of values in each bin, shape (len(edges) + 1,), all > 0, sum 1."""
    cdf = np.concatenate([[0.0], sketch.cdf(edges), [1.0]])
    counts = np.diff(cdf) * sketch.n + 0.5
    return np.asarray(counts / counts.sum())


def psi(p: np.ndarray, q: np.ndarray, n: int, m: int) -> float:
    """Bias-corrected population stability index of shares `p` (from `n` values) against `q` (from `m`)."""
    return max(0.0, float(np.sum((p - q) * np.log(p / q))) - _bias(len(p), n, m))


def jensen_shannon(p: np.ndarray, q: np.ndarray, n: int, m: int) -> float:
    """Bias-corrected Jensen-Shannon divergence in bits."""
    middle = (p + q) / 2
    raw = float(np.sum(p * np.log2(p / middle)) + np.sum(q * np.log2(q / middle))) / 2
    return max(0.0, raw - _bias(len(p), n, m) / (8 * math.log(2)))


def ks_distance(reference: Sketch, window: Sketch) -> float:
    """Largest gap between the two CDFs; exact while both sketches are."""
    points = np.union1d(reference.support(), window.support())
    return float(np.max(np.abs(reference.cdf(points) - window.cdf(points))))


def ks_p_value(ks: float, n: int, m: int) -> float:
    """Asymptotic two-sample p-value of the distance `ks` between samples of `n` and `m` values."""
    from scipy.special import kolmogorov

    return float(kolmogorov(ks * math.sqrt(n * m / (n + m))))


def _bias(bins: int, n: int, m: int) -> float:
    return (bins - 1) * (1 / n + 1 / m)
