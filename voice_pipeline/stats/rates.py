"""Intervals for a share of trials and for events in a time of watching, right at small counts too.

- Share: Wilson's score interval (Wilson, JASA 1927; recommended by Brown, Cai and DasGupta, Statistical Science 2001).
- Rate: Garwood's exact Poisson interval (Garwood, Biometrika 1936), from quantiles of the chi-square distribution.
"""

from __future__ import annotations

import math


def wilson_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """(low, high) of the share `successes / trials`, within [0, 1].

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials are no share")
    from scipy.special import ndtri

    z = float(ndtri(0.5 + level / 2))
    share, spread = successes / trials, z * z / trials
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return (0.0 if successes == 0 else low), (1.0 if successes == trials else high)


def poisson_rate_interval(events: int, exposure: float, level: float = 0.95) -> tuple[float, float]:
    """(low, high) of events per unit of `exposure`; low is 0 without events, high never is.

    Raises:
        ValueError: negative events, or no exposure.
    """
    if events < 0 or not exposure > 0:
        raise ValueError(f"{events} events in an exposure of {exposure} give no rate")
    from scipy.special import chdtri

    tail = (1 - level) / 2
    low = float(chdtri(2 * events, 1 - tail)) / 2 if events else 0.0
    high = float(chdtri(2 * events + 2, tail)) / 2
    return low / exposure, high / exposure
