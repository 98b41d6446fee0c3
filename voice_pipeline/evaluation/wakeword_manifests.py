"""Wake words judged on lists of recordings: `voice-pipeline wake-words`.

Recordings with `split` `train` set the thresholds; where a phrase has none there, half of its recordings do, drawn by
their names, and only the other half is judged. (Speakers that a manifest does not tell may then be in both halves.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from voice_pipeline.evaluation.artifacts import open_recogniser
from voice_pipeline.evaluation.manifest import (
    Recording,
    find_artifact,
    read_negatives,
    read_recordings,
    samples_of,
)
from voice_pipeline.evaluation.noises import Samples
from voice_pipeline.evaluation.wakewords import Posteriors, halves, holds, judge_wake_words
from voice_pipeline.schema.evaluation_policy import WakeWords
from voice_pipeline.schema.training import WakeWordResult
from voice_pipeline.store.store import Store

TRAIN = "train"

Listed = tuple[Recording, Path]
"""A recording and the manifest that names it."""


@dataclass(frozen=True)
class Clip:
    """What was said, and its samples (float32 mono in [-1, 1], 16 kHz)."""

    text: str
    samples: Samples


def evaluate_wake_words(
    store: Store, model: str, positives: Path, negatives: Sequence[Path], rules: WakeWords
) -> tuple[WakeWordResult, ...]:
    """`recorded_wake_words` of a model version of this home or a bundle folder; nothing is stored."""
    return recorded_wake_words(open_recogniser(find_artifact(store, model)), positives, negatives, rules)


def recorded_wake_words(
    recogniser: Posteriors, positives: Path, negatives: Sequence[Path], rules: WakeWords
) -> tuple[WakeWordResult, ...]:
    """One result a phrase of `rules`.

    Args:
        positives: manifest of recordings whose texts hold the phrases; for the other phrases they are negatives.
        negatives: manifests of other speech, and of noise.

    Raises:
        EvaluationError: one of its kinds, naming the file and line that is wrong, or the phrase.
    """
    calibration, judged = _divided(read_recordings(positives), rules.phrases)
    others = [(recording, manifest) for manifest in negatives for recording in read_negatives(manifest)]
    return judge_wake_words(
        recogniser,
        _clips([(recording, positives) for recording in calibration]),
        _clips([*((recording, positives) for recording in judged), *others]),
        rules,
    )


def _divided(spoken: Sequence[Recording], phrases: Sequence[str]) -> tuple[list[Recording], list[Recording]]:
    """(recordings that set thresholds, recordings to judge), disjoint."""
    chosen: set[int] = {n for n, recording in enumerate(spoken) if recording.split == TRAIN}
    for phrase in phrases:
        own = [n for n, recording in enumerate(spoken) if holds(_words(recording), phrase)]
        if not chosen.intersection(own):
            first, _ = halves([spoken[n].name for n in own])
            chosen.update(own[position] for position in first)
    return [spoken[n] for n in sorted(chosen)], [r for n, r in enumerate(spoken) if n not in chosen]


def _clips(recordings: Sequence[Listed]) -> Iterator[Clip]:
    for recording, manifest in recordings:
        yield Clip(_words(recording), samples_of(recording, manifest))


def _words(recording: Recording) -> str:
    from voice_pipeline.speech.normalise import words_of

    return words_of(recording.text)
