"""An anytime-valid test of harm: may be asked after every device, and keeps its error rate over all times together.

Devices come in any order, those of both arms in one sequence, each with one figure x in [0, 1]. Which arm a device is
in was drawn with a known chance s of the candidate's, T = 1 where on the candidate, so

    z(m) = (x - m T - c) (T / s - (1 - T) / (1 - s))

has as its mean the device's harm less m, whatever c is as long as it was known before the device came
(inverse-probability weighting; c, the mean of all figures before, makes z small). Gamblers bet the shares `BETS` of
what they may; while no device in the sequence is expected to be harmed by more than m, their capital together,
`K_t(m) = mean_b prod(1 + b z_i(m) / w_i)` with -w_i the least that z_i(margin) could be, is a nonnegative
supermartingale for all m up to the margin, so by Ville's inequality it ever reaches 1/alpha with probability at most
alpha. The candidate is harmful once K(margin) did. Until then the bound is the largest m whose capital did.

What is relied on is the draw of arms, and that it is still s at every place in the order: nothing that comes before
tells which arm a device is in. Not that devices are alike, nor that those that come early fare like those that come
late. Two bounds, one an arm, would need that: where busy devices come first and light ones fare worse, the arm with
fewer devices seems to do worse for being behind. An arm whose devices all begin late tells by that; so long as it is
late by little against how often devices speak, that is little, too. Devices that the control cannot have, since their
apps run nothing but the candidate, are held against what the others do: c is the mean of the others alone. For them
nothing was drawn, so the error rate is not assured where most devices are such, or where they fare worse by nature.

Sources: betting on bounded means: Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting"
(JRSS-B 2023); on weighted outcomes of a known draw: Waudby-Smith et al., "Anytime-valid off-policy inference for
contextual bandits" (ACM/IMS J. Data Science 2024) and, with nothing random but the draw, Ham et al., "Design-based
confidence sequences" (2022). A mixture of constant bets does nearly as well as the best of them in hindsight (Cover,
"Universal portfolios", 1991).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BETS = (0.02, 0.06, 0.18, 0.4, 0.7, 0.95)
"""Shares of the highest bet that leaves capital nonnegative: small ones for rare events, large ones for gross harm.
What the mixture costs against the best of them is log(6) of capital.
"""

_BETS = np.array(BETS)[:, None]
_PRECISION = 2.0**-24
"""Of bounds."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class HarmTest:
    """Where the arms stand.

    `harmful`: the candidate's mean is higher than the control's by more than `margin`, for certain (anytime-valid).
    `lower`: so much higher is it for certain, in [0, margin]; looked for no further.
    """

    candidate_mean: float
    control_mean: float
    lower: float
    margin: float
    harmful: bool
    candidate_n: int
    control_n: int


def harm_test(
    figures: ArrayLike,
    on_candidate: ArrayLike,
    share: float,
    margin: float,
    alpha: float,
    of_either_arm: ArrayLike = True,
) -> HarmTest:
    """Does the candidate raise devices' figures by more than `margin`?

    Args:
        figures: one value in [0, 1] a device, higher = worse, in the order in which devices became known: an order that
            nothing that becomes known later can change.
        on_candidate: of each, whether it was drawn for the candidate.
        share: the chance with which it was, in (0, 1).
        margin: harm below this is tolerated, in [0, 1).
        alpha: chance of ever being `harmful` though the harm is at most `margin`, where all are `of_either_arm`.
        of_either_arm: of each device, or of all, whether the control could have had it as well.

    Raises:
        ValueError: a figure outside [0, 1], `share` or `alpha` outside (0, 1), a margin outside [0, 1), or not as many
            arms as figures.
    """
    x, arm = np.asarray(figures, dtype=np.float64), np.asarray(on_candidate, dtype=bool)
    if not (0 < alpha < 1 and 0 < share < 1 and 0 <= margin < 1):
        raise ValueError(f"alpha and share must lie in (0, 1), the margin in [0, 1), not {alpha}, {share} and {margin}")
    if x.shape != arm.shape:
        raise ValueError(f"{x.size} figures need as many arms, not {arm.size}")
    if x.size and not (np.isfinite(x).all() and x.min() >= 0 and x.max() <= 1):
        raise ValueError("figures of a harm test must lie in [0, 1]")
    lower, harmful = _certain(x, arm, _centre(x, of_either_arm), share, margin, alpha)
    return HarmTest(
        candidate_mean=float(x[arm].mean()) if arm.any() else 0.0,
        control_mean=float(x[~arm].mean()) if not arm.all() else 0.0,
        lower=lower,
        margin=margin,
        harmful=harmful,
        candidate_n=int(arm.sum()),
        control_n=int((~arm).sum()),
    )


def _centre(x: Floats, of_either_arm: ArrayLike) -> Floats:
    """At each place, the mean of the devices of either arm before it; of all, while there is none; 0 at first."""

    def before(which: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.int64]]:
        return np.cumsum(x * which) - x * which, np.cumsum(which) - which

    (told, n), (everything, places) = before(np.broadcast_to(of_either_arm, x.shape)), before(np.ones(x.shape, bool))
    return np.where(n, told / np.maximum(n, 1), everything / np.maximum(places, 1))


def _certain(
    x: Floats, arm: NDArray[np.bool_], centre: Floats, share: float, margin: float, alpha: float
) -> tuple[float, bool]:
    """(the largest lower bound on the harm reached so far, at most the margin; whether harm above that is certain)."""
    if not arm.any():  # capital that grew by the control alone is no harm of the candidate
        return 0.0, False
    weight = np.where(arm, 1 / share, -1 / (1 - share))
    bet = weight / np.maximum((margin + centre) / share, (1 - centre) / (1 - share))

    def excess(harm: float) -> float:  # each factor of K_t falls in harm or stays, hence max_t K_t does
        return _best_log_capital((x - harm * arm - centre) * bet) + math.log(alpha)

    if excess(margin) >= 0:
        return margin, True
    if excess(0.0) <= 0:
        return 0.0, False
    from scipy.optimize import brentq

    return float(brentq(excess, 0.0, margin, xtol=_PRECISION)), False


def _best_log_capital(gains: Floats) -> float:
    """The largest log K so far, of what a whole bet gains at each device, -1 = all of it lost."""
    paths = np.cumsum(np.log1p(_BETS * gains), axis=1)
    top = paths.max(axis=0)
    return float((top + np.log(np.exp(paths - top).mean(axis=0))).max())
