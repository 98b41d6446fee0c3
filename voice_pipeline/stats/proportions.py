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

LEAST_ERROR = 1e-6
"""Standard errors count as at least this: figures without any spread give no infinite information."""


@dataclass(frozen=True)
class Difference:
    """Candidate minus control, by device, with its standard error and the degrees of freedom of Student's t.

    Fewer than two devices in an arm: `value` is NaN and `standard_error` infinite, which never passes any test.
    """

    value: float
    standard_error: float
    freedom: float
    candidate_n: int
    control_n: int

    @property
    def information(self) -> float:
        """1 / variance; 0 where nothing is known."""
        return 0.0 if math.isinf(self.standard_error) else self.standard_error**-2

    def bound(self, level: float) -> float:
        """Half the width of an interval that leaves out `level` on either side; infinite at level 0."""
        from scipy.special import stdtrit

        if level <= 0 or math.isinf(self.standard_error):
            return math.inf
        return float(stdtrit(self.freedom, 1 - level)) * self.standard_error


@dataclass(frozen=True)
class NonInferiority:
    """One look. `upper` is the one-sided bound of `difference` at `level`, `lower` that at `harm_level`.

    `passes`: upper < margin. `fails`: lower > margin, i.e. inferior beyond doubt. Neither: not decided.
    """

    difference: float
    lower: float
    upper: float
    margin: float
    level: float
    harm_level: float
    information: float
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


def arm_difference(candidate: ArrayLike, control: ArrayLike) -> Difference:
    """Welch's difference of means; one value a device."""
    return _between(_mean(candidate), _mean(control))


@dataclass(frozen=True)
class Shares:
    """What the devices of an arm did, one entry a device: `shares` in [0, 1] of its `trials`, of which it had one at
    least, and how much it counts: `weights` are positive, and known before anything was observed.
    """

    shares: Sequence[float]
    trials: Sequence[int]
    weights: Sequence[float]


def share_difference(candidate: Shares, control: Shares, margin: float) -> Difference:
    """Difference of the weighted means of devices' shares, with variances by device and no less than at the margin.

    By weights, not by devices alike: devices differ in how much they are used, and in a plain mean one that is used
    once weighs, and errs, as much as fifty that are used daily. By weights known beforehand, not by trials: what the
    candidate does to people changes how many trials there are. (Direct standardisation; Hernán & Robins, "Causal
    Inference: What If", 2020, ch. 2.) The variance is that of devices about the mean (Hájek's estimator; Cochran,
    "Sampling Techniques", 1977, ch. 6), so trials of one device need not be independent; devices that weigh unevenly
    tell as much of it as fewer would that weigh alike (Kish, "Survey Sampling", 1965, ch. 11).

    Events may be so rare that a sample shows few or none, and hence little variance, just where it flatters: a plain
    interval is then too narrow. The variance is taken as at least that of independent trials at the rate under the null
    hypothesis, `p = control + margin` (Farrington & Manning, Statistics in Medicine 1990), times the design effect: by
    how much devices vary more than trials that have nothing to do with one another.
    """
    rate = _rate(control)
    null = min(1.0, rate + margin)
    return _between(_weighted(candidate, null), _weighted(control, rate))


def paired_difference(differences: ArrayLike) -> Difference:
    """Mean of one difference (candidate minus control) a device."""
    d = np.asarray(differences, dtype=np.float64)
    if len(d) < 2:
        return Difference(math.nan, math.inf, 1.0, len(d), len(d))
    error = max(LEAST_ERROR, float(d.std(ddof=1)) / math.sqrt(len(d)))
    return Difference(float(d.mean()), error, len(d) - 1.0, len(d), len(d))


def non_inferiority(found: Difference, margin: float, level: float, harm_level: float) -> NonInferiority:
    """Is the candidate shown to be worse by less than `margin` (at `level`), or by more (at `harm_level`)?

    Args:
        level, harm_level: one-sided, in [0, 1); 0 decides nothing.
    """
    return NonInferiority(
        difference=found.value,
        lower=found.value - found.bound(harm_level) if found.information else -math.inf,
        upper=found.value + found.bound(level) if found.information else math.inf,
        margin=margin,
        level=level,
        harm_level=harm_level,
        information=found.information,
        candidate_n=found.candidate_n,
        control_n=found.control_n,
    )


@dataclass(frozen=True)
class _Arm:
    """An estimate of one arm with its variance, of `n` devices that tell as much as `alike` of equal weight."""

    value: float
    variance: float
    n: int
    alike: float


def _mean(values: ArrayLike) -> _Arm:
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return _Arm(math.nan, math.inf, len(x), len(x))
    return _Arm(float(x.mean()), float(x.var(ddof=1)) / len(x), len(x), len(x))


def _rate(arm: Shares) -> float:
    return float(np.average(arm.shares, weights=arm.weights)) if arm.shares else 0.0


def _weighted(arm: Shares, least_at: float) -> _Arm:
    """The weighted mean share, with no less variance than at the rate `least_at`."""
    n = len(arm.shares)
    if n < 2:
        return _Arm(math.nan, math.inf, n, n)
    shares, trials, weights = (np.asarray(of, dtype=np.float64) for of in (arm.shares, arm.trials, arm.weights))
    rate = _rate(arm)
    weights = weights / weights.sum()
    apart = weights * (shares - rate)
    alike = max(1 / float(weights @ weights), 1 + LEAST_ERROR)
    variance = float(apart @ apart) * alike / (alike - 1)
    own, least = (p * (1 - p) * float((weights**2 / trials).sum()) for p in (rate, least_at))
    design_effect = max(1.0, variance / own) if own > 0 else 1.0
    return _Arm(rate, max(variance, design_effect * least), n, alike)


def _between(a: _Arm, b: _Arm) -> Difference:
    """Welch's difference of two estimates."""
    if min(a.n, b.n) < 2:
        return Difference(math.nan, math.inf, 1.0, a.n, b.n)
    spread = a.variance + b.variance
    parts = a.variance**2 / (a.alike - 1) + b.variance**2 / (b.alike - 1)
    freedom = spread**2 / parts if parts > 0 else a.alike + b.alike - 2
    error = max(LEAST_ERROR, math.sqrt(spread))
    return Difference(a.value - b.value, error, float(freedom), a.n, b.n)


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
