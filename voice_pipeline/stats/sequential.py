"""An anytime-valid test of harm: may be asked after every device, and keeps its error rate over all times together.

Devices come in any order, those of both arms in one sequence, each with one figure x in [0, 1]. Which arm a device is
in was drawn with a known chance s of the candidate's, so

    z = (x - c) * (1/s where on the candidate, -1/(1 - s) where on the control)

has as its mean the device's harm, whatever c is as long as it was known before the device came (inverse-probability
weighting; c, the mean of all figures before, makes z small). Against each possible harm m gamblers bet the shares
`BETS` of what they may; while no device in the sequence is expected to be harmed by more than m, their capital
together, `K_t(m) = mean_b prod(1 + b (z_i - m) / (w_i + m))` with -w_i the least that z_i could be, is a nonnegative
supermartingale, so by Ville's inequality it ever reaches 1/alpha with probability at most alpha. The bound is the
largest m whose capital did.

What is relied on is the draw of arms, and that it is still s at every place in the order: nothing that comes before
tells which arm a device is in. Not that devices are alike, nor that those that come early fare like those that come
late. Two bounds, one an arm, would need that: where busy devices come first and light ones fare worse, the arm with
fewer devices seems to do worse for being behind. An arm whose devices all begin late tells by that; so long as it is
late by little against how often devices speak, that is little, too.

Sources: betting on bounded means: Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting"
(JRSS-B 2023); on weighted outcomes of a known draw: Waudby-Smith et al., "Anytime-valid off-policy inference for
contextual bandits" (ACM/IMS J. Data Science 2024) and, with nothing random but the draw, Ham et al., "Design-based
confidence sequences" (2022). A mixture of constant bets does nearly as well as the best of them in hindsight (Cover,
"Universal portfolios", 1991).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BETS = (0.02, 0.06, 0.18, 0.4, 0.7, 0.95)
"""Shares of the highest bet that leaves capital nonnegative: small ones for rare events, large ones for gross harm.
What the mixture costs against the best of them is log(6) of capital.
"""

_BETS = np.array(BETS)[:, None]
_CELLS = 2**24
"""Bounds are found to this fraction of 1."""
_NOT_QUITE_0 = 1e-9
_NEAR = 12.0
"""Of log capital: within so much it is nearly straight."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class HarmTest:
    """Where the arms stand.

    `lower`: so much higher than the control's is the candidate's mean for certain (anytime-valid); 0 where nothing is.
    """

    candidate_mean: float
    control_mean: float
    lower: float
    margin: float
    candidate_n: int
    control_n: int

    @property
    def harmful(self) -> bool:
        return self.lower > self.margin


def harm_test(figures: ArrayLike, on_candidate: ArrayLike, share: float, margin: float, alpha: float) -> HarmTest:
    """Does the candidate raise devices' figures by more than `margin`?

    Args:
        figures: one value in [0, 1] a device, higher = worse, in the order in which devices became known: an order that
            nothing that becomes known later can change.
        on_candidate: of each, whether it was drawn for the candidate.
        share: the chance with which it was, in (0, 1).
        margin: harm below this is tolerated.
        alpha: chance of ever being `harmful` though the harm is at most `margin`.

    Raises:
        ValueError: a figure outside [0, 1], `share` or `alpha` outside (0, 1), or not as many arms as figures.
    """
    x, arm = np.asarray(figures, dtype=np.float64), np.asarray(on_candidate, dtype=bool)
    if not (0 < alpha < 1 and 0 < share < 1):
        raise ValueError(f"alpha and share must lie in (0, 1), not {alpha} and {share}")
    if x.shape != arm.shape:
        raise ValueError(f"{x.size} figures need as many arms, not {arm.size}")
    if x.size and not (np.isfinite(x).all() and x.min() >= 0 and x.max() <= 1):
        raise ValueError("figures of a harm test must lie in [0, 1]")
    return HarmTest(
        candidate_mean=float(x[arm].mean()) if arm.any() else 0.0,
        control_mean=float(x[~arm].mean()) if not arm.all() else 0.0,
        lower=_lower_bound(x, arm, share, alpha),
        margin=margin,
        candidate_n=int(arm.sum()),
        control_n=int((~arm).sum()),
    )


def _lower_bound(x: Floats, arm: NDArray[np.bool_], share: float, alpha: float) -> float:
    """The largest lower bound on the harm reached so far, in [0, 1)."""
    if not arm.any():  # capital that grew by the control alone is no harm of the candidate
        return 0.0
    centre = (np.cumsum(x) - x) / np.arange(1, x.size + 1)
    z = (x - centre) * np.where(arm, 1 / share, -1 / (1 - share))
    least = np.maximum(centre / share, (1 - centre) / (1 - share))
    goal = math.log(1 / alpha)
    # each factor of K_t(m) falls in m, hence max_t K_t(m) does: the bound is where it crosses 1/alpha
    return _largest(lambda harm: _best_log_capital(z, least, harm) - goal)


def _best_log_capital(z: Floats, least: Floats, harm: float) -> float:
    """The largest log K_t(harm) so far."""
    paths = np.cumsum(np.log1p(_BETS * ((z - harm) / (least + harm))), axis=1)
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
