"""Which clips stand for all where not all can be heard: chosen by name, so that the same clips give the same choice.

Names are ordered by their digest. An order by clip id is one by time (UUIDv7), and its head would be the first people
who ever spoke.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any


def spread(strata: Sequence[Any], names: Sequence[str], count: int) -> list[int]:
    """Positions of at most `count` items, ascending: each stratum has its share, to within one item.

    Even steps through the items in order of stratum, then of name's digest (systematic sampling with implicit
    stratification: Cochran, "Sampling Techniques", 3rd ed., 1977, §8.5). Of strata that are tuples, each head of the
    tuple has its share too.

    Args:
        strata: the stratum of each item; they can be ordered.
        names: an item's own name, as many as `strata`.
        count: at least 0.
    """
    digests = _digests(names)
    ordered = sorted(range(len(names)), key=lambda n: (strata[n], digests[n]))
    if len(ordered) <= count:
        return sorted(ordered)
    return sorted(ordered[index * len(ordered) // count] for index in range(count))


def by_turns(groups: Sequence[Hashable], names: Sequence[str], count: int) -> list[int]:
    """Positions of at most `count` items, ascending: every group gives one, then every group a second, and so on.

    So no group has more than one item above another that still has some. Within a group, and of the groups in the last
    turn, the names' digests decide.

    Args:
        groups: the group of each item, a speaker for one.
        names: an item's own name, as many as `groups`.
        count: at least 0.
    """
    digests = _digests(names)
    turns: Counter[Hashable] = Counter()
    places = []
    for position in sorted(range(len(names)), key=lambda n: digests[n]):
        places.append((turns[groups[position]], digests[position], position))
        turns[groups[position]] += 1
    return sorted(position for _, _, position in sorted(places)[:count])


def _digests(names: Sequence[str]) -> list[str]:
    return [hashlib.sha256(name.encode()).hexdigest() for name in names]
