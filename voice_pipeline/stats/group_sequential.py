"""Group-sequential levels: a test that is made several times on growing data, and errs no more often than once made.

Method: the error-spending approach of Lan & DeMets, "Discrete sequential boundaries for clinical trials" (Biometrika
1983), with the look's number over the greatest number of looks as time (Lan & DeMets, "Group sequential procedures:
calendar versus information time", Statistics in Medicine 1989) and their Pocock-type spending function. The statistics
of the looks are jointly normal with correlation `sqrt(information_i / information_k)` (Jennison & Turnbull, "Group
Sequential Methods", 2000, §3 and the recursive integration of ch. 19), whatever the spacing of the data was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

NODES = 256
REACH = 8.0
"""Integrals reach this many standard deviations down."""

LEAST_GROWTH = 1.01
"""Information that grew by less counts as grown by 1 %: looks taken for less correlated than they are cost power and
never error.
"""


def pocock_spending(alpha: float, time: float) -> float:
    """How much of `alpha` may be spent by `time` in [0, 1]: `alpha * ln(1 + (e - 1) time)` (Lan & DeMets 1983)."""
    return alpha * math.log1p((math.e - 1) * min(1.0, max(0.0, time)))


def spent_by_looks(alpha: float, most: int, told: Sequence[float | None]) -> tuple[float, ...]:
    """The error spent by each look, those that were made and the next one, of at most `most` in all.

    What was spent is spent: where the budget or the number of looks changed on the way, the next look spends what the
    new plan allows beyond that, at the first of its times that allows more; where none does, nothing. So the sum is
    never above the greater of `alpha` and what had been spent before it was the budget.

    Args:
        alpha: the budget in force now.
        told: what had been spent by each look that was made; None where it is not known: as the budget of now has it.
    """
    spent: list[float] = []
    for number, known in enumerate(told, 1):
        total = pocock_spending(alpha, number / most) if known is None else known
        spent.append(max([total, *spent[-1:]]))
    before = max([0.0, *spent[-1:]])
    plan = (pocock_spending(alpha, number / most) for number in range(min(len(spent) + 1, most), most + 1))
    return (*spent, next((total for total in plan if total > before), before))


def nominal_levels(spent: Sequence[float], information: Sequence[float]) -> tuple[float, ...]:
    """One-sided levels, such that by look k the test has rejected with chance `spent[k]` under the null hypothesis.

    Args:
        spent: error spent by each look, in (0, 1), not falling.
        information: 1 / variance of the estimate at each look, positive; what falls counts as grown by 1 %.

    Returns:
        Levels in [0, 1): look k rejects where its own p-value is at most this. 0 where nothing is left to spend.

    Raises:
        ValueError: lengths differ, `spent` falls or leaves (0, 1), information is not positive and finite.
    """
    if len(spent) != len(information) or any(b < a for a, b in pairwise(spent)):
        raise ValueError(f"{len(spent)} spent levels, which must not fall, need as many informations")
    if any(not 0 < s < 1 for s in spent) or any(not (i > 0 and math.isfinite(i)) for i in information):
        raise ValueError("spent levels lie in (0, 1) and informations are positive and finite")
    return _levels(tuple(spent), tuple(information))


@lru_cache(maxsize=4096)
def _levels(spent: tuple[float, ...], information: tuple[float, ...]) -> tuple[float, ...]:
    from scipy.special import ndtr

    levels: list[float] = []
    score: NDArray[np.float64] = np.zeros(1)  # grid of the score statistic z * sqrt(information), still below the bound
    mass: NDArray[np.float64] = np.ones(1)  # its density times the weights of the grid
    last, before = 0.0, 0.0
    for total, told in zip(spent, information, strict=True):
        grown = max(told, last * LEAST_GROWTH)
        step = math.sqrt(grown - last)
        bound = _bound(score, mass, step, total - before, REACH * math.sqrt(grown))
        levels.append(float(ndtr(-bound / math.sqrt(grown))) if math.isfinite(bound) else 0.0)
        top = min(bound, REACH * math.sqrt(grown))
        nodes, weights = _grid(-REACH * math.sqrt(grown), top)
        kernel = np.exp(-0.5 * ((nodes[:, None] - score[None, :]) / step) ** 2) / (step * math.sqrt(2 * math.pi))
        score, mass = nodes, (kernel @ mass) * weights
        last, before = grown, total
    return tuple(levels)


def _bound(score: NDArray[np.float64], mass: NDArray[np.float64], step: float, error: float, highest: float) -> float:
    """The score above which lies exactly `error` of what had not rejected before; infinite where that is nothing."""
    from scipy.optimize import brentq
    from scipy.special import ndtr

    def excess(bound: float) -> float:
        return float(mass @ ndtr((score - bound) / step)) - error

    if error <= 0 or excess(highest) >= 0:
        return math.inf
    return float(brentq(excess, -highest, highest, xtol=1e-10))


@cache
def _legendre() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.polynomial.legendre.leggauss(NODES)


def _grid(low: float, high: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nodes, weights = _legendre()
    return low + (high - low) * (nodes + 1) / 2, weights * (high - low) / 2
