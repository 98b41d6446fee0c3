"""Fixed-sample tests on rates of devices: sample-ratio mismatch and one-sided non-inferiority.

- Sample-ratio mismatch: Pearson's chi-square against the assigned shares (Fabijan et al., KDD 2019, "Diagnosing
  sample ratio mismatch in online controlled experiments").
- Non-inferiority: the upper one-sided confidence bound of the difference lies below the margin (FDA guidance
  "Non-Inferiority Clinical Trials", 2016, §IV). The unit is the device, never the event; Welch's t for two arms,
  Student's t for paired differences.
- Baseline adjustment: CUPED (Deng et al., WSDM 2013): a device's rate before the experiment explains most of what
  differs between devices and is independent of the arm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class NonInferiority:
    """One look. `upper` and `lower` are one-sided bounds of `difference` (candidate minus control) at `alpha`.

    `passes`: upper < margin. `fails`: lower > margin, i.e. inferior beyond doubt. Neither: not decided.
    """

    difference: float
    lower: float
    upper: float
    margin: float
    alpha: float
    candidate_n: int
    control_n: int

    @property
    def passes(self) -> bool:
        return self.upper < self.margin

    @property
    def fails(self) -> bool:
        return self.lower > self.margin


def sample_ratio_p_value(observed: Sequence[int], shares: Sequence[float]) -> float:
    """Chi-square p-value that `observed` counts were drawn with `shares` (summing to 1). 1.0 without observations."""
    total = sum(observed)
    if not math.isclose(sum(shares), 1.0, abs_tol=1e-9) or min(shares) <= 0 or len(shares) != len(observed):
        raise ValueError(f"shares {shares} must be positive, sum to 1 and match {len(observed)} counts")
    if total == 0:
        return 1.0
    from scipy.special import chdtrc

    expected = [total * share for share in shares]
    statistic = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    return float(chdtrc(len(shares) - 1, statistic))


def non_inferiority(candidate: ArrayLike, control: ArrayLike, margin: float, alpha: float) -> NonInferiority:
    """Welch's one-sided test on per-device rates (lower is better).

    Fewer than two devices in an arm leave the interval infinite: never a pass.
    """
    a, b = np.asarray(candidate, dtype=np.float64), np.asarray(control, dtype=np.float64)
    if len(a) < 2 or len(b) < 2:
        return NonInferiority(math.nan, -math.inf, math.inf, margin, alpha, len(a), len(b))
    va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    difference = float(a.mean() - b.mean())
    spread = va + vb
    freedom = spread**2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1)) if spread > 0 else len(a) + len(b) - 2
    half = _half_width(math.sqrt(spread), float(freedom), alpha)
    return NonInferiority(difference, difference - half, difference + half, margin, alpha, len(a), len(b))


def paired_non_inferiority(differences: ArrayLike, margin: float, alpha: float) -> NonInferiority:
    """The same for one difference (candidate minus control) a device. Fewer than two devices: never a pass."""
    d = np.asarray(differences, dtype=np.float64)
    if len(d) < 2:
        return NonInferiority(math.nan, -math.inf, math.inf, margin, alpha, len(d), len(d))
    half = _half_width(float(d.std(ddof=1)) / math.sqrt(len(d)), len(d) - 1, alpha)
    mean = float(d.mean())
    return NonInferiority(mean, mean - half, mean + half, margin, alpha, len(d), len(d))


def adjust_for_baseline(
    values: Sequence[float], baselines: Sequence[float | None], arms: Sequence[bool]
) -> NDArray[np.float64]:
    """CUPED: `values` with the part explained by each device's own `baselines` taken out.

    Args:
        values, baselines, arms: one entry a device; None = the device has no history, `arms` True = candidate.

    The slope is fitted within arms, so a true difference between the arms is left alone. Devices without history are
    given the mean baseline. Values come back unchanged where fewer than 10 devices have a history.
    """
    y = np.asarray(values, dtype=np.float64)
    known = np.array([b is not None for b in baselines], dtype=bool)
    if known.sum() < 10:
        return y
    x = np.array([b if b is not None else 0.0 for b in baselines], dtype=np.float64)
    x[~known] = x[known].mean()
    arm = np.asarray(arms, dtype=bool)
    xc, yc = x.copy(), y.copy()
    for side in (arm, ~arm):
        if side.any():
            xc[side] -= x[side].mean()
            yc[side] -= y[side].mean()
    variance = float(xc @ xc)
    if variance <= 1e-12:
        return y
    return np.asarray(y - (float(xc @ yc) / variance) * (x - x.mean()), dtype=np.float64)


def _half_width(standard_error: float, freedom: float, alpha: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - alpha)) * standard_error
