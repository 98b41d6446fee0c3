"""Anytime-valid bounds on a mean: may be looked at after every observation, and keep their error rate over all looks.

Method: the betting confidence sequence of Waudby-Smith & Ramdas, "Estimating means of bounded random variables by
betting" (JRSS-B 2023), §4: against each possible mean m a gambler bets on the observations; under the true mean the
capital `K_t(m) = prod(1 + bet_i(m) (x_i - m))` is a nonnegative martingale, so by Ville's inequality it ever reaches
1/alpha with probability at most alpha. The lower bound is the largest m whose capital did. Bets are their predictable
plug-in ones (eq. 26), cut at `TRUNCATION / m` so that capital stays positive. Nothing is assumed but independent
observations in [0, 1]: no normality, any size of sample.

Harm of a candidate is certain once its lower bound lies above the control's upper bound by more than the margin. Each
bound is given half of alpha, hence the chance of ever calling a harmless candidate harmful is at most alpha.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

TRUNCATION = 0.9
_BISECTIONS = 24


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
    bets = _predictable_bets(x, alpha)
    goal = math.log(1 / alpha)
    # K_t(m) falls in m for every t, so max_t K_t(m) does too: bisection finds where it crosses 1/alpha.
    low, high = 0.0, 1.0
    if _best_log_capital(x, bets, 1e-9) < goal:
        return 0.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _best_log_capital(x, bets, middle) >= goal:
            low = middle
        else:
            high = middle
    return low


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


def _predictable_bets(x: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """Bet i uses observations before i only: sqrt(2 log(1/alpha) / (variance_{i-1} i log(1 + i)))."""
    i = np.arange(1, len(x) + 1, dtype=np.float64)
    means = (0.5 + np.cumsum(x)) / (i + 1)
    variances = (0.25 + np.cumsum((x - means) ** 2)) / (i + 1)
    before = np.concatenate([[0.25], variances[:-1]])
    return np.asarray(np.sqrt(2 * math.log(1 / alpha) / (before * i * np.log1p(i))), dtype=np.float64)


def _best_log_capital(x: NDArray[np.float64], bets: NDArray[np.float64], mean: float) -> float:
    cut = np.minimum(bets, TRUNCATION / mean)
    return float(np.cumsum(np.log1p(cut * (x - mean))).max())
