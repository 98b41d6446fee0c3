"""False-discovery control over many tests at once.

Benjamini and Hochberg, "Controlling the False Discovery Rate", JRSS B 57 (1995): of all the features called drifted, at
most a share `q` is so by chance on average, also under the positive dependence that neighbouring band energies have
(Benjamini and Yekutieli, 2001).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def q_values(p_values: Sequence[float]) -> list[float]:
    """Benjamini-Hochberg adjusted p-values, in the order given: reject those ≤ the wanted rate.

    Raises:
        ValueError: a p-value is outside [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.size == 0:
        return []
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError("p-values must lie in [0, 1]")
    order = np.argsort(p, kind="stable")
    scaled = p[order] * p.size / np.arange(1, p.size + 1)
    adjusted = np.minimum.accumulate(scaled[::-1])[::-1].clip(max=1.0)
    result = np.empty_like(adjusted)
    result[order] = adjusted
    return [float(value) for value in result]
