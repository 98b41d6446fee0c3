"""Which speaker is for what. Pure and sticky: once a speaker has a split it never changes, in any later version.

Rule: who does not allow training is a test speaker. The others train while they are fewer than eight; from then on
about 8 % of newcomers are for development, drawn by a hash of the subject token, and at least one speaker is. A clip is
used only as its own consent allows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set

from voice_pipeline.schema.consent import Scope
from voice_pipeline.schema.dataset import Split

DEV_SHARE = 0.08
SPEAKERS_FOR_DEV = 8

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
    new = sorted((s for s in scopes if s not in known), key=_position)
    trainable = sum(s is not Split.TEST for s in known.values()) + sum(Scope.TRAIN in scopes[s] for s in new)
    dev_share = DEV_SHARE if trainable >= SPEAKERS_FOR_DEV else 0.0
    for speaker in new:
        splits[speaker] = _choose(speaker, scopes[speaker], dev_share)
    if Split.DEV not in splits.values() and _count(splits, Split.TRAIN) >= SPEAKERS_FOR_DEV:
        candidates = [s for s in new if splits[s] is Split.TRAIN and scopes[s] >= NEEDED[Split.DEV]]
        if candidates:
            splits[candidates[0]] = Split.DEV
    return splits


def allows(scopes: Set[Scope], split: Split) -> bool:
    """Whether a consent with `scopes` lets its clip enter `split`."""
    return scopes >= NEEDED[split]


def _choose(speaker: str, scopes: Set[Scope], dev_share: float) -> Split:
    if Scope.TRAIN not in scopes:
        return Split.TEST
    return Split.DEV if _position(speaker) < dev_share and scopes >= NEEDED[Split.DEV] else Split.TRAIN


def _position(speaker: str) -> float:
    """Where a speaker falls in [0, 1): uniform, and independent of every other use of the token."""
    return int(hashlib.sha256(f"split:{speaker}".encode()).hexdigest()[:13], 16) / 16**13


def _count(splits: Mapping[str, Split], split: Split) -> int:
    return sum(1 for s in splits.values() if s is split)
