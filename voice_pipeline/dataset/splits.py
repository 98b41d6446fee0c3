"""Which speaker is for what. Pure and sticky: once a speaker has a split it never changes, in any later version.

Rule: who does not allow training is a test speaker. Where no such person can be tested on, newcomers who allow
everything are drawn for the test: about 12 % of them, and one at least as soon as there are four speakers. The others
train; about 8 % of newcomers are for development, and one at least as soon as three speakers do not test. Shares are
drawn, by hashes of the subject token, once there are eight speakers; fewer give the one only. A clip is used only as
its own consent allows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set

from voice_pipeline.schema.consent import Scope
from voice_pipeline.schema.dataset import Split

DEV_SHARE = 0.08
TEST_SHARE = 0.12
SPEAKERS_FOR_DEV = 3
SPEAKERS_FOR_TEST = 4
SPEAKERS_FOR_SHARES = 8

NEEDED: dict[Split, frozenset[Scope]] = {
    Split.TRAIN: frozenset({Scope.TRAIN}),
    Split.DEV: frozenset({Scope.TRAIN, Scope.EVALUATE}),
    Split.TEST: frozenset({Scope.EVALUATE}),
}
"""Scopes that a clip's consent must name for the clip to enter a split."""


def assign(scopes: Mapping[str, Set[Scope]], known: Mapping[str, Split]) -> dict[str, Split]:
    """Split of every speaker in `scopes` and in `known`.

    Args:
        scopes: speaker → all scopes that any of their consents names.
        known: splits given earlier; they stay.
    """
    splits = dict(known)
    new = sorted(scopes.keys() - known.keys(), key=_position)
    splits |= {s: Split.TRAIN if Scope.TRAIN in scopes[s] else Split.TEST for s in new}
    drawable = [s for s in new if scopes[s] >= NEEDED[Split.DEV] | NEEDED[Split.TEST]]
    testable = [s for s in scopes if splits[s] is Split.TEST and allows(scopes[s], Split.TEST)]
    if all(Scope.TRAIN in scopes[s] for s in testable) and len(scopes) >= SPEAKERS_FOR_TEST:
        by_test = sorted(drawable, key=_test_position)
        share = TEST_SHARE if len(scopes) >= SPEAKERS_FOR_SHARES else 0.0
        drawn = [s for s in by_test if _test_position(s) < share]
        splits |= dict.fromkeys(drawn if drawn or testable else by_test[:1], Split.TEST)
    drawable = [s for s in drawable if splits[s] is Split.TRAIN]
    trainable = sum(s is not Split.TEST for s in splits.values())
    if trainable >= SPEAKERS_FOR_SHARES:
        splits |= {s: Split.DEV for s in drawable if _position(s) < DEV_SHARE}
    if trainable >= SPEAKERS_FOR_DEV and Split.DEV not in splits.values():
        splits |= dict.fromkeys(drawable[:1], Split.DEV)
    return splits


def allows(scopes: Set[Scope], split: Split) -> bool:
    """Whether a consent with `scopes` lets its clip enter `split`."""
    return scopes >= NEEDED[split]


def _position(speaker: str) -> float:
    """Where a speaker falls in [0, 1): uniform, and independent of every other use of the token."""
    return int(hashlib.sha256(f"split:{speaker}".encode()).hexdigest()[:13], 16) / 16**13


def _test_position(speaker: str) -> float:
    """As `_position`, and independent of it."""
    return _position(f"test:{speaker}")
