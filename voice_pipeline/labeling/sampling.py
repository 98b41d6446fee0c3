"""Drawing clips with known probabilities.

Promise: every clip's chance of being drawn is known before the draw and recorded with it, so that averages over
labelled clips can be weighted back to all clips (Horvitz and Thompson, 1952, "A generalization of sampling without
replacement"). The budget is spent by systematic sampling with probability proportional to priority (Madow, 1949, "On
the theory of systematic sampling, II"): a fixed number of clips, each drawn with exactly its stated probability.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping

from voice_pipeline.schema.canonical import digest

SMALLEST_SIZE = 1e-3


def uniform(seed: int, purpose: str, key: str) -> float:
    """A number in [0, 1) fixed by its arguments: who asks again gets the same draw."""
    value = hashlib.sha256(f"{seed}|{purpose}|{key}".encode()).digest()
    return int.from_bytes(value[:8]) / 2**64


def inclusion_probabilities(sizes: Mapping[str, float], count: int) -> dict[str, float]:
    """Probabilities proportional to `sizes` that sum to `min(count, len(sizes))`, each at most 1.

    A size of zero counts as a small one: no clip is ever impossible to draw while there is a budget.
    """
    if count >= len(sizes):
        return dict.fromkeys(sizes, 1.0)
    if count <= 0:
        return dict.fromkeys(sizes, 0.0)
    free = {key: max(size, SMALLEST_SIZE) for key, size in sizes.items()}
    certain: set[str] = set()
    while True:  # whoever would get more than 1 is certain; the rest of the budget is shared by the others
        left, total = count - len(certain), sum(free.values())
        over = {key for key, size in free.items() if left * size >= total}
        if not over:
            return {key: 1.0 if key in certain else left * free[key] / total for key in sizes}
        certain |= over
        free = {key: size for key, size in free.items() if key not in over}
        if len(certain) >= count or not free:
            return {key: 1.0 if key in certain else 0.0 for key in sizes}


def draw(probabilities: Mapping[str, float], seed: int, purpose: str) -> set[str]:
    """Draw keys so that each is in with its probability and the number drawn is their (whole) sum.

    The order is shuffled and the start is random, both fixed by the seed, the purpose and the keys.
    """
    keys = sorted(probabilities)
    rng = random.Random(digest([seed, purpose, keys]))
    rng.shuffle(keys)
    drawn = {key for key in keys if probabilities[key] >= 1.0}
    tick, reached = rng.random(), 0.0
    for key in keys:
        if key in drawn:
            continue
        reached += probabilities[key]
        if reached > tick:
            drawn.add(key)
            tick += 1.0
    expected = round(sum(probabilities.values()))
    if len(drawn) == expected - 1:  # rounding let the last tick slip past the end of the line
        rest = [key for key in keys if key not in drawn and probabilities[key] > 0]
        drawn.update(rest[-1:])
    return drawn
