"""Choosing how much the confidence model may correct the network's own posterior, on speakers held out in turn."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voice_pipeline.evaluation.suites import CLEAN
from voice_pipeline.speech.confidence import ConfidenceModel

FOLDS = 8
PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Of departures from the network's own probability; each utterance counts one, however often it is heard."""


@dataclass(frozen=True)
class HeardClip:
    """One clip under one condition: the confidence inputs in order of `INPUT_NAMES`, and what was wrong."""

    speaker: str
    condition: str
    inputs: NDArray[np.float64]
    right: bool
    errors: int
    words: int


def design(clips: Sequence[HeardClip]) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Inputs (n, d), right (n,) and importance (n,): one for all hearings of a clip, half of it as recorded."""
    recorded = np.array([clip.condition == CLEAN for clip in clips])
    others = max(len({clip.condition for clip in clips}) - 1, 1)
    importance = np.where(recorded, 0.5, 0.5 / others)
    return np.stack([clip.inputs for clip in clips]), np.array([clip.right for clip in clips], dtype=bool), importance


def choose_penalty(clips: Sequence[HeardClip]) -> float:
    """The strongest prior that held-out speakers do not speak against: whose log loss is within one standard error of
    the least, the error being that of the paired difference over speakers (Breiman et al., 1984, §3.4.3).

    One speaker alone cannot tell: then it is the strongest.
    """
    x, right, importance = design(clips)
    fold = _folds(clips)
    if len(np.unique(fold)) < 2:
        return PENALTIES[-1]
    names = np.unique([clip.speaker for clip in clips], return_inverse=True)[1]
    losses = {
        penalty: _speaker_losses(_held_out(x, right, importance, fold, penalty), right, importance, names)
        for penalty in PENALTIES
    }
    best = min(losses.values(), key=np.sum)
    return max(penalty for penalty, loss in losses.items() if _no_worse(loss - best))


def out_of_fold(clips: Sequence[HeardClip]) -> NDArray[np.float64]:
    """A confidence for each clip from a model that never saw its speaker, nor did the choice of its prior.

    One speaker alone is judged in sample.
    """
    x, right, importance = design(clips)
    fold = _folds(clips)
    confidences = np.empty(len(clips))
    for number in np.unique(fold):
        held_out = fold == number
        seen = ~held_out if not held_out.all() else held_out
        penalty = choose_penalty([clip for clip, use in zip(clips, seen, strict=True) if use])
        model = ConfidenceModel.fit(x[seen], right[seen], penalty, importance[seen])
        confidences[held_out] = model.probabilities(x[held_out])
    return confidences


def _folds(clips: Sequence[HeardClip]) -> NDArray[np.int64]:
    """The fold of each clip, by speaker."""
    order = {name: rank for rank, name in enumerate(sorted({clip.speaker for clip in clips}, key=_stable))}
    return np.array([order[clip.speaker] % FOLDS for clip in clips])


def _held_out(
    x: NDArray[np.float64],
    right: NDArray[np.bool_],
    importance: NDArray[np.float64],
    fold: NDArray[np.int64],
    penalty: float,
) -> NDArray[np.float64]:
    confidences = np.empty(len(x))
    for number in np.unique(fold):
        seen = fold != number
        model = ConfidenceModel.fit(x[seen], right[seen], penalty, importance[seen])
        confidences[~seen] = model.probabilities(x[~seen])
    return confidences


def _speaker_losses(
    confidences: NDArray[np.float64],
    right: NDArray[np.bool_],
    importance: NDArray[np.float64],
    speakers: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Log loss summed over the clips of each speaker."""
    likely = np.where(right, confidences, 1 - confidences)
    losses = -importance * np.log(np.maximum(likely, 1e-12))
    return np.bincount(speakers, weights=losses).astype(np.float64)


def _no_worse(differences: NDArray[np.float64]) -> bool:
    """Whether the mean difference over speakers is within its standard error of zero."""
    return bool(differences.mean() <= differences.std(ddof=1) / np.sqrt(len(differences)))


def _stable(name: str) -> str:
    """A speaker's place among the folds, the same in every process."""
    return hashlib.sha256(name.encode()).hexdigest()
