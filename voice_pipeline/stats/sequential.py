"""Anytime-valid bounds on a mean: may be looked at after every observation, and keep their error rate over all looks.

Method: a betting confidence sequence (Waudby-Smith & Ramdas, "Estimating means of bounded random variables by
betting", JRSS-B 2023, §4): against each possible mean m gamblers bet the shares `BETS` of what they may on the
observations; under the true mean their capital together, `K_t(m) = mean_c prod(1 + c (x_i / m - 1))`, is a nonnegative
martingale, so by Ville's inequality it ever reaches 1/alpha with probability at most alpha. The lower bound is the
largest m whose capital did. A mixture of constant bets does nearly as well as the best of them in hindsight (Cover,
"Universal portfolios", 1991; Orabona & Jun, "Tight concentrations and confidence sequences from the regret of universal
portfolio", 2021). Nothing is assumed but independent observations in [0, 1]: no normality, any size of sample.

Harm of a candidate is certain once its lower bound lies above the control's upper bound by more than the margin. Each
bound is given half of alpha, hence the chance of ever calling a harmless candidate harmful is at most alpha.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BETS = (0.02, 0.06, 0.18, 0.4, 0.7, 0.95)
"""Shares of the highest bet that leaves capital nonnegative, 1 / m: small ones for rare events, large ones for gross
differences. What the mixture costs against the best of them is log(6) of capital.
"""

_BETS = np.array(BETS)[:, None]
_CELLS = 2**24
"""Bounds are found to this fraction of 1."""
_NOT_QUITE_0 = 1e-9
_NEAR = 12.0
"""Of log capital: within so much it is nearly straight."""


@dataclass(frozen=True)
class HarmTest:
    """Where the arms stand. `lower`: anytime-valid lower bound of the candidate's mean, `upper`: of the control's."""

    candidate_mean: float
    control_mean: float
    lower: float
    upper: float
    margin: float
    candidate_n: int
    control_n: int

    @property
    def harmful(self) -> bool:
        return self.lower > self.upper + self.margin


def lower_bound(observations: ArrayLike, alpha: float) -> float:
    """The largest lower bound on the mean reached so far.

    Args:
        observations: values in [0, 1] in the order in which they came.
        alpha: chance that the bound ever exceeds the true mean, over all times together.

    Raises:
        ValueError: an observation outside [0, 1] or `alpha` outside (0, 1).
    """
    x = np.asarray(observations, dtype=np.float64)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie in (0, 1), not {alpha}")
    if len(x) and not (np.isfinite(x).all() and x.min() >= 0 and x.max() <= 1):
        raise ValueError("observations of a betting confidence sequence must lie in [0, 1]")
    if not len(x):
        return 0.0
    goal = math.log(1 / alpha)
    # K_t(m) falls in m for every t, so max_t K_t(m) does too: the bound is where it crosses 1/alpha.
    return _largest(lambda mean: _best_log_capital(x, mean) - goal)


def upper_bound(observations: ArrayLike, alpha: float) -> float:
    """The smallest upper bound on the mean reached so far; the mirror of `lower_bound`."""
    return 1.0 - lower_bound(1.0 - np.asarray(observations, dtype=np.float64), alpha)


def harm_test(candidate: ArrayLike, control: ArrayLike, margin: float, alpha: float) -> HarmTest:
    """Is the candidate's mean above the control's by more than `margin`?

    Args:
        candidate, control: one value in [0, 1] a device, higher = worse, each in the order in which it was complete.
        margin: harm below this is tolerated.
        alpha: chance of ever being `harmful` though the true difference is at most `margin`.
    """
    a, b = np.asarray(candidate, dtype=np.float64), np.asarray(control, dtype=np.float64)
    return HarmTest(
        candidate_mean=float(a.mean()) if len(a) else 0.0,
        control_mean=float(b.mean()) if len(b) else 0.0,
        lower=lower_bound(a, alpha / 2),
        upper=upper_bound(b, alpha / 2),
        margin=margin,
        candidate_n=len(a),
        control_n=len(b),
    )


def _best_log_capital(x: NDArray[np.float64], mean: float) -> float:
    """The largest log K_t(mean) so far."""
    paths = np.cumsum(np.log1p(_BETS * (x / mean - 1)), axis=1)
    top = paths.max(axis=0)
    return float((top + np.log(np.exp(paths - top).mean(axis=0))).max())


def _largest(excess: Callable[[float], float]) -> float:
    """The largest multiple of 1 / `_CELLS` in [0, 1) at which the falling function `excess` is not negative, or 0.

    Bisections until both ends are near, then regula falsi; where one end stays, a step as far again beyond the guess,
    and then a bisection.
    """
    low, high = 0, _CELLS
    at_low, at_high = excess(_NOT_QUITE_0), excess(1.0)
    if at_low < 0:
        return 0.0
    stalled, low_moved = 0, False
    while high - low > 1:
        width = high - low
        step = width * at_low / (at_low - at_high)
        if stalled == 2 or at_low - at_high > _NEAR:
            step = width / 2
        elif stalled == 1:
            step = 2 * step + 1 if low_moved else 2 * step - width - 1
        cell = low + min(max(round(step), 1), width - 1)
        value = excess(cell / _CELLS)
        low_moved = value >= 0
        if low_moved:
            low, at_low = cell, value
        else:
            high, at_high = cell, value
        stalled = 0 if 2 * (high - low) <= width else (stalled + 1) % 3
    return low / _CELLS
