"""Mergeable summaries of a stream of numbers: bounded memory at any traffic.

A KLL quantile sketch (Karnin, Lang, Liberty, "Optimal Quantile Approximation in Streams", FOCS 2016; Apache
DataSketches) with k = 2000: exact up to 2,000 values, then a rank error of 0.14 % (99 % confidence) in about 22 kB at a
million. Sketches of parts merge into the sketch of the whole, so days, cohorts and shards are summed without going back
to the events.
Compaction of more than 2,000 values draws random bits: ranks may then differ within the error from run to run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

SKETCH_SIZE = 2000


class DamagedSketchError(Exception):
    """Stored bytes are no sketch; compute the window again."""


class Sketch:
    """Summary of the values given to it. Non-finite values are left out and counted in `ignored`."""

    def __init__(self, values: Iterable[float] | np.ndarray = (), size: int = SKETCH_SIZE) -> None:
        import datasketches

        self._kll: Any = datasketches.kll_floats_sketch(size)
        self.ignored = 0
        self.update(values)

    @property
    def n(self) -> int:
        """How many values it has taken."""
        return int(self._kll.n)

    def update(self, values: Iterable[float] | np.ndarray) -> None:
        """Take values, shape (N,)."""
        array = np.asarray(values if isinstance(values, np.ndarray) else list(values), dtype=np.float32)
        finite = array[np.isfinite(array)]
        self.ignored += int(array.size - finite.size)
        if finite.size:
            self._kll.update(finite)

    def merge(self, other: Sketch) -> None:
        """Take in everything that `other` has seen."""
        if other.n:
            self._kll.merge(other._kll)
        self.ignored += other.ignored

    def cdf(self, points: np.ndarray) -> np.ndarray:
        """Share of values ≤ each of the ascending, distinct `points` (P,); shape (P,), in [0, 1].

        Raises:
            ValueError: the sketch is empty.
        """
        if not self.n:
            raise ValueError("an empty sketch has no distribution; check `n` first")
        splits = np.asarray(points, dtype=np.float32)
        return np.asarray(self._kll.get_cdf(splits, True)[:-1], dtype=np.float64)

    def quantiles(self, ranks: np.ndarray) -> np.ndarray:
        """Values at `ranks` in [0, 1]; shape as `ranks`.

        Raises:
            ValueError: the sketch is empty.
        """
        if not self.n:
            raise ValueError("an empty sketch has no quantiles; check `n` first")
        return np.asarray(self._kll.get_quantiles(np.asarray(ranks, dtype=np.float64)), dtype=np.float64)

    def support(self) -> np.ndarray:
        """The distinct values it still holds, ascending, float32: where its CDF steps."""
        return np.unique(np.array([value for value, _weight in self._kll], dtype=np.float32))

    def to_bytes(self) -> bytes:
        return bytes(self._kll.serialize())

    @classmethod
    def from_bytes(cls, data: bytes) -> Sketch:
        """Raises:
        DamagedSketchError: `data` is no serialised sketch.
        """
        import datasketches

        sketch = cls()
        try:
            sketch._kll = datasketches.kll_floats_sketch.deserialize(data)
        except (IndexError, RuntimeError, ValueError) as error:
            raise DamagedSketchError(f"{len(data)} bytes are no sketch: {error}; compute the window again") from error
        return sketch
