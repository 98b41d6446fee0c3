"""Fitting and judging the confidence model: the probability that a dictation needs no correction.

It is fitted on the dev speakers, whom the network never trained on, heard clean and in noise as the field will be. Its
figures are out of fold by speaker (each is judged by a model that was fitted on the others): expected calibration error
over ten bins of equal count (Nixon et al., 2019), Brier score, and area under the ROC curve.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import update

from voice_pipeline.evaluation.artifacts import CONFIDENCE, checkpoint_folder
from voice_pipeline.evaluation.noises import Noise, noise_bank
from voice_pipeline.evaluation.suites import played, snr_of
from voice_pipeline.schema.canonical import canonical_json, sha256_bytes
from voice_pipeline.schema.dataset import Split
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import models
from voice_pipeline.training.plan_errors import NothingToFitError

if TYPE_CHECKING:
    from voice_pipeline.speech.recogniser import Recogniser
    from voice_pipeline.training.data import Utterance

CONDITIONS = ("clean", "noise_15db", "noise_5db")
MOST_UTTERANCES = 250
FOLDS = 5
BINS = 10
NOISE_SEED = 11
QUALITY = "confidence_quality.json"


@dataclass(frozen=True)
class Calibration:
    """How far the confidence can be trusted; all out of fold. `auc` is 0.5 where all clips were right or all wrong."""

    clips: int
    speakers: int
    right_share: float
    expected_calibration_error: float
    brier: float
    auc: float
    fitted_on: str


@dataclass(frozen=True)
class HeardClip:
    """One dev clip under one condition: the confidence inputs, and whether the text was entirely right."""

    speaker: str
    inputs: NDArray[np.float64]
    right: bool


def fit_confidence(store: Store, model_version: str, dataset_version: str) -> Calibration:
    """Fit the confidence model of a trained model and keep it in its checkpoint folder as `confidence.json`.

    Without dev speakers (a very small dataset) train clips are heard instead; `fitted_on` tells.

    Raises:
        NothingToFitError: the dataset version has neither dev nor train clips.
    """
    from voice_pipeline.speech.confidence import ConfidenceModel
    from voice_pipeline.speech.recogniser import TorchRecogniser

    folder = checkpoint_folder(store, model_version)
    split, utterances = _material(store, dataset_version)
    clips = hear(TorchRecogniser.load(folder), utterances, noise_bank(store))
    fitted = ConfidenceModel.fit(*_design(clips))
    calibration = calibrate(clips, split)
    document = fitted.to_json().encode()
    write_atomically(folder / CONFIDENCE, document)
    write_atomically(folder / QUALITY, canonical_json(calibration.__dict__))
    with store.database.write() as connection:
        connection.execute(
            update(models)
            .where(models.c.model_version == model_version)
            .values(confidence_sha256=sha256_bytes(document))
        )
    return calibration


def read_calibration(folder: Path) -> Calibration | None:
    """What `fit_confidence` found, or None before it ran."""
    import json

    path = folder / QUALITY
    return Calibration(**json.loads(path.read_bytes())) if path.exists() else None


def _material(store: Store, dataset_version: str) -> tuple[str, Sequence[Utterance]]:
    from voice_pipeline.training.data import open_utterances

    for split in (Split.DEV, Split.TRAIN):
        utterances = open_utterances(store, dataset_version, split)[:MOST_UTTERANCES]
        if utterances:
            return split.value, utterances
    raise NothingToFitError(f"dataset {dataset_version} has neither dev nor train clips; label more and snapshot again")


def hear(recogniser: Recogniser, utterances: Iterable[Utterance], bank: Sequence[Noise]) -> list[HeardClip]:
    """Each utterance under each of `CONDITIONS`, the noise chosen by clip id."""
    from voice_pipeline.speech.audio import FULL_SCALE
    from voice_pipeline.speech.confidence import inputs

    heard: list[HeardClip] = []
    for utterance in utterances:
        samples = utterance.samples.astype(np.float32) / np.float32(FULL_SCALE)
        for condition in CONDITIONS:
            sound = played(samples, bank, snr_of(condition), NOISE_SEED, utterance.clip_id, condition)
            answer = recogniser.transcribe(sound)
            right = answer.text == utterance.text
            heard.append(HeardClip(utterance.speaker, inputs(answer.posteriors, answer.measures), right))
    return heard


def calibrate(clips: Sequence[HeardClip], fitted_on: str) -> Calibration:
    """Judge the confidence model on `clips`, each speaker by a model that was fitted on the other folds."""
    inputs, right = _design(clips)
    probabilities = _out_of_fold(inputs, right, [clip.speaker for clip in clips])
    return Calibration(
        clips=len(clips),
        speakers=len({clip.speaker for clip in clips}),
        right_share=float(right.mean()),
        expected_calibration_error=calibration_error(probabilities, right),
        brier=float(np.mean((probabilities - right) ** 2)),
        auc=area_under_roc(probabilities, right),
        fitted_on=fitted_on,
    )


def calibration_error(probabilities: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Mean gap, in [0, 1], between confidence and share of right answers, over bins of equal count."""
    order = np.argsort(probabilities, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if part.size]
    gaps = [part.size * abs(probabilities[part].mean() - right[part].mean()) for part in parts]
    return float(sum(gaps) / len(probabilities))


def area_under_roc(probabilities: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Chance that a right clip scores above a wrong one, ties counted half (Mann-Whitney U)."""
    from scipy.stats import rankdata

    positives, negatives = int(right.sum()), int((~right).sum())
    if not positives or not negatives:
        return 0.5
    ranks = rankdata(probabilities)
    return float((ranks[right].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _design(clips: Sequence[HeardClip]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    return np.stack([clip.inputs for clip in clips]), np.array([clip.right for clip in clips], dtype=bool)


def _out_of_fold(inputs: NDArray[np.float64], right: NDArray[np.bool_], speakers: Sequence[str]) -> NDArray[np.float64]:
    """A probability for each clip from a model that never saw its speaker; one speaker alone is judged in sample."""
    from voice_pipeline.speech.confidence import ConfidenceModel

    order = {name: rank for rank, name in enumerate(sorted(set(speakers), key=_stable))}
    fold = np.array([order[name] % FOLDS for name in speakers])
    probabilities = np.empty(len(inputs))
    for number in np.unique(fold):
        held_out = fold == number
        seen = ~held_out if not held_out.all() else held_out
        model = ConfidenceModel.fit(inputs[seen], right[seen])
        probabilities[held_out] = [model.probability(row) for row in inputs[held_out]]
    return probabilities


def _stable(name: str) -> str:
    """A speaker's place among the folds, the same in every process."""
    return hashlib.sha256(name.encode()).hexdigest()
