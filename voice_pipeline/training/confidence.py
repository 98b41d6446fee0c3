"""Fitting and judging the confidence model: the probability that a dictation needs no correction.

Material: the dev speakers, whom the network never trained on, each clip heard as recorded, under noise and at other
speeds, because a hundred clips with a dozen errors teach little. Clips heard as recorded carry half of the weight.
Acoustic features of a clip heard as recorded are those of the feature service, read by name from the point-in-time
training frame; of a clip played with added noise or at another speed they are measured on what was played, by the
function that also fills the feature view. `feature_skew` tells how far frame and recogniser disagree about a recording.

The strength of the prior is chosen by log loss on held-out speakers (`confidence_fit`). The judgement is out of fold by
speaker, the strength chosen again inside each fold (nested), and on clips heard as recorded. Test speakers decide
nothing: they are heard once everything is fixed, by the evaluation (`SuiteAnswers`) or else by `judge_on_suite`, and
what was found is kept beside the model, where card, check and MLflow read it (`read_held_out`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import update

from voice_pipeline.evaluation.artifacts import (
    CONFIDENCE,
    FLOAT,
    Artifact,
    artifact_of,
    checkpoint_folder,
    open_recogniser,
)
from voice_pipeline.evaluation.errors import EmptySuiteError, UnknownArtifactError
from voice_pipeline.evaluation.noises import Noise, noise_bank
from voice_pipeline.evaluation.suites import CLEAN, SuiteClip, played, snr_of, suite_clips
from voice_pipeline.schema.canonical import canonical_json, sha256_bytes
from voice_pipeline.schema.dataset import EvalSuite, Split
from voice_pipeline.stats.confidence import ConfidenceJudgement, judge_confidence
from voice_pipeline.stats.sampling import by_turns
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.feast_repo import FEATURE_SERVICE, Features
from voice_pipeline.store.frames import frame_features
from voice_pipeline.store.manifest import manifest_rows
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import models
from voice_pipeline.training.confidence_charts import reliability_png, risk_coverage_png
from voice_pipeline.training.confidence_fit import HeardClip, choose_penalty, design, out_of_fold
from voice_pipeline.training.plan_errors import NothingToFitError, NothingToJudgeError

if TYPE_CHECKING:
    from voice_pipeline.speech.audio import Samples
    from voice_pipeline.speech.recogniser import Recogniser, Recognition
    from voice_pipeline.training.data import Utterance

CONDITIONS = (CLEAN, "noise_20db", "noise_15db", "noise_10db", "noise_5db", "speed_0.9", "speed_1.1")
SPEED = "speed_"
MOST_UTTERANCES = 250
"""Of more, speakers give one clip in turn: a new population is heard however many older clips there are."""
NOISE_SEED = 11
KNOWN_SPEAKERS = 2
"""A word counts as known when at least this many training speakers said it: one person's words are not shipped."""
MOST_WORDS = 20_000
QUALITY = "confidence_quality.json"
HELD_OUT = "confidence_held_out.json"
RELIABILITY, RISK_COVERAGE = "reliability.png", "risk_coverage.png"


@dataclass(frozen=True)
class Calibration(ConfidenceJudgement):
    """The judgement on dev clips heard as recorded, out of fold, and how the model came about.

    Attributes:
        fitted_on: `dev`, or `train` where there are no dev speakers.
        heard: clips times conditions.
        penalty: strength of the prior.
        noisy_calibration_error, noisy_auc: sweep estimate and AUC over the noise conditions.
        unmeasured: clips left out because the training frame has no features of them.
        feature_skew: largest difference between a feature in the frame and the recogniser's own measurement.
    """

    fitted_on: str
    heard: int
    penalty: float
    noisy_calibration_error: float
    noisy_auc: float
    unmeasured: int
    feature_skew: float


@dataclass(frozen=True)
class HeldOut(ConfidenceJudgement):
    """The judgement on a frozen suite's clips as recorded, of speakers whom this model was neither trained nor
    fitted on (a parent that it began from may have been let through by figures of the same people).

    Attributes:
        suite, suite_digest: id and digest of the suite.
        artifact_sha256: network and decoder that were heard (`heard_sha256`).
        confidence_sha256: the confidence model that was judged.
    """

    suite: str
    suite_digest: str
    artifact_sha256: str
    confidence_sha256: str


@dataclass(frozen=True)
class CalibratedModel:
    """What `fit_confidence` leaves: the judgement, its charts (PNG by file name), and all files it wrote."""

    calibration: Calibration
    charts: dict[str, bytes]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Hearing:
    """All heard clips, and what `Calibration` tells of the features."""

    clips: tuple[HeardClip, ...]
    unmeasured: int
    feature_skew: float


def fit_confidence(
    store: Store, model_version: str, dataset_version: str, feature_service: str = FEATURE_SERVICE
) -> CalibratedModel:
    """Fit the confidence model of a trained model; keep it, its judgement and its charts in the checkpoint folder.

    Without dev speakers (a very small dataset) train clips are heard instead; `fitted_on` tells.

    Raises:
        NothingToFitError: the dataset version has neither dev nor train clips with features.
        MissingFrameError: its training frame was never built, or is not the one that was.
        ModelFileError: the checkpoint cannot be loaded.
    """
    from voice_pipeline.speech.confidence import ConfidenceModel
    from voice_pipeline.speech.recogniser import TorchRecogniser

    folder = checkpoint_folder(store, model_version)
    split, utterances = _material(store, dataset_version)
    vocabulary = known_words(store, dataset_version)
    features = frame_features(store, dataset_version, feature_service)
    hearing = hear(TorchRecogniser.load(folder), utterances, noise_bank(store), features, vocabulary)
    if not hearing.clips:
        raise NothingToFitError(f"training frame of {dataset_version} has features of no {split} clip; build it again")
    x, right, importance = design(hearing.clips)
    penalty = choose_penalty(hearing.clips)
    fitted = ConfidenceModel.fit(x, right, penalty, importance, vocabulary, feature_service)
    confidences = out_of_fold(hearing.clips)
    calibration = calibrate(hearing, confidences, penalty, split)
    document = fitted.to_json().encode()
    charts = draw(hearing.clips, confidences)
    made = {CONFIDENCE: document, QUALITY: canonical_json(asdict(calibration)), **charts}
    for name, data in made.items():
        write_atomically(folder / name, data)
    with store.database.write() as connection:
        connection.execute(
            update(models)
            .where(models.c.model_version == model_version)
            .values(confidence_sha256=sha256_bytes(document))
        )
    return CalibratedModel(calibration, charts, tuple(folder / name for name in made))


def read_calibration(folder: Path) -> Calibration | None:
    """What `fit_confidence` found, or None before it ran (or where an older program did)."""
    path = folder / QUALITY
    try:
        return Calibration(**json.loads(path.read_bytes())) if path.exists() else None
    except TypeError:
        return None


def judge_on_suite(store: Store, model_version: str, suite: EvalSuite) -> HeldOut:
    """The fitted confidence of a float network on a frozen suite's clips as recorded, whose speakers it was not fitted
    on; kept in the checkpoint folder. Where this very model was judged on it before, that is found and nothing heard.
    (The int8 network is made after this judgement: devices' own corrections tell how well its confidence holds.)

    Raises:
        UnknownArtifactError: the model has no checkpoint.
        NothingToJudgeError: it has no fitted confidence.
        EmptySuiteError: no clip of the suite is left.
    """
    known = read_held_out(store, model_version)
    if known is not None and known.suite_digest == suite.digest:
        return known
    answers = SuiteAnswers.of(store, model_version, suite)
    if answers is None:
        raise NothingToJudgeError(f"model {model_version} has no {CONFIDENCE}; materialise confidence_model first")
    recogniser = open_recogniser(answers.artifact)
    for clip in suite_clips(store, suite.model_copy(update={"conditions": (CLEAN,)})):
        answers.add(clip, recogniser.transcribe(clip.samples))
    if not answers.clips:  # the keys were destroyed after the manifest was read
        raise EmptySuiteError(
            f"suite {suite.name} has no clip left in {suite.dataset_version} to judge confidence on; freeze a new one"
        )
    return answers.judge()


@dataclass(frozen=True)
class SuiteAnswers:
    """What a float network with its fitted confidence answers to a suite's clips as recorded. Its evaluation gathers
    them, so that nobody need hear the suite again to judge the confidence.

    Attributes:
        confidence_sha256: the confidence model as it was before the first clip was heard.
        clips: of each clip confidence, whether it was entirely right, word errors, words and speaker.
    """

    suite: EvalSuite
    artifact: Artifact
    confidence_sha256: str
    clips: list[tuple[float, bool, int, int, str]] = field(default_factory=list)

    @classmethod
    def of(cls, store: Store, model_version: str, suite: EvalSuite) -> SuiteAnswers | None:
        """No answer yet; None where no confidence is fitted. Raises `UnknownArtifactError`: there is no checkpoint."""
        artifact = artifact_of(store, model_version, FLOAT)
        confidence = _fitted_sha256(artifact.folder)
        return None if confidence is None else cls(suite, artifact, confidence)

    def add(self, clip: SuiteClip, heard: Recognition) -> None:
        """One more answer; one to a clip that was played in noise does not count."""
        from voice_pipeline.speech.scoring import score

        if clip.condition == CLEAN:
            result = score(clip.text, heard.text)
            self.clips.append((heard.confidence, heard.text == clip.text, result.errors, result.words, clip.speaker))

    def judge(self) -> HeldOut:
        """Judge the answers, of which there is at least one, and keep the judgement beside the model."""
        confidences, right, errors, words, speakers = zip(*self.clips, strict=True)
        held_out = HeldOut(
            **asdict(judge_confidence(confidences, right, errors, words, speakers)),
            suite=self.suite.suite_id,
            suite_digest=self.suite.digest,
            artifact_sha256=self.artifact.sha256,
            confidence_sha256=self.confidence_sha256,
        )
        write_atomically(self.artifact.folder / HELD_OUT, canonical_json(asdict(held_out)))
        return held_out


def read_held_out(store: Store, model_version: str) -> HeldOut | None:
    """What `judge_on_suite` last found of this model as it is now; None before it ran, and where network, decoder or
    confidence were made anew since.
    """
    folder = checkpoint_folder(store, model_version)
    try:
        found = HeldOut(**json.loads((folder / HELD_OUT).read_bytes()))
        heard = artifact_of(store, model_version, FLOAT).sha256
    except (OSError, ValueError, TypeError, UnknownArtifactError):
        return None
    return found if (found.artifact_sha256, found.confidence_sha256) == (heard, _fitted_sha256(folder)) else None


def _fitted_sha256(folder: Path) -> str | None:
    path = folder / CONFIDENCE
    return sha256_bytes(path.read_bytes()) if path.is_file() else None


def known_words(store: Store, dataset_version: str) -> tuple[str, ...]:
    """The vocabulary of a dataset version's train split."""
    rows = manifest_rows(store, dataset_version)
    return shared_vocabulary((row.speaker, row.text) for row in rows if row.split == Split.TRAIN)


def shared_vocabulary(said: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Words that at least `KNOWN_SPEAKERS` of (speaker, text) pairs said, sorted; of very many those that most people
    said.
    """
    from voice_pipeline.speech.normalise import plain

    speakers: defaultdict[str, set[str]] = defaultdict(set)
    for speaker, text in said:
        for word in plain(text).split():
            speakers[word].add(speaker)
    shared = sorted((-len(people), word) for word, people in speakers.items() if len(people) >= KNOWN_SPEAKERS)
    return tuple(sorted(word for _, word in shared[:MOST_WORDS]))


def hear(
    recogniser: Recogniser,
    utterances: Iterable[Utterance],
    bank: Sequence[Noise],
    features: Mapping[str, Features],
    vocabulary: Collection[str] = (),
) -> Hearing:
    """Each utterance that has features under each of `CONDITIONS`, the noise chosen by clip id."""
    from voice_pipeline.speech.audio import FULL_SCALE
    from voice_pipeline.speech.confidence import FEATURES

    known = frozenset(vocabulary)
    clips: list[HeardClip] = []
    unmeasured, skew = 0, 0.0
    for utterance in utterances:
        stored = features.get(utterance.clip_id, {})
        if any(stored.get(name) is None for name in FEATURES):
            unmeasured += 1
            continue
        samples = utterance.samples.astype(np.float32) / np.float32(FULL_SCALE)
        for condition in CONDITIONS:
            answer = recogniser.transcribe(heard_under(condition, samples, bank, utterance.clip_id))
            measured: Features = {**asdict(answer.measures)}
            if condition == CLEAN:
                skew = max(skew, *(abs(float(stored[name] or 0) - float(measured[name] or 0)) for name in FEATURES))
                measured = stored
            clips.append(_heard(utterance, condition, answer, measured, known))
    return Hearing(tuple(clips), unmeasured, skew)


def _heard(
    utterance: Utterance, condition: str, answer: Recognition, features: Features, known: frozenset[str]
) -> HeardClip:
    from voice_pipeline.speech.confidence import INPUT_NAMES, inputs, scalars
    from voice_pipeline.speech.scoring import score

    found = inputs(answer.text, scalars(answer.posteriors), features, known)
    result = score(utterance.text, answer.text)
    vector = np.array([found[name] for name in INPUT_NAMES])
    right = answer.text == utterance.text
    return HeardClip(utterance.speaker, condition, vector, right, result.errors, result.words)


def heard_under(condition: str, samples: Samples, bank: Sequence[Noise], clip_id: str) -> Samples:
    """`samples` as recorded, at another speed (`speed_0.9`) or under noise (`noise_10db`)."""
    from voice_pipeline.speech.augmentation import change_speed

    if condition.startswith(SPEED):
        return change_speed(samples, round(100 * float(condition.removeprefix(SPEED))))
    return played(samples, bank, snr_of(condition), NOISE_SEED, clip_id, condition)


def calibrate(hearing: Hearing, confidences: NDArray[np.float64], penalty: float, fitted_on: str) -> Calibration:
    """Judge out-of-fold confidences, one for each heard clip."""
    recorded = [n for n, clip in enumerate(hearing.clips) if clip.condition == CLEAN]
    noisy = [n for n, clip in enumerate(hearing.clips) if clip.condition.startswith("noise")]
    judged, in_noise = (_judgement(hearing.clips, confidences, chosen) for chosen in (recorded, noisy))
    return Calibration(
        **asdict(judged),
        fitted_on=fitted_on,
        heard=len(hearing.clips),
        penalty=penalty,
        noisy_calibration_error=in_noise.sweep_calibration_error,
        noisy_auc=in_noise.auc,
        unmeasured=hearing.unmeasured,
        feature_skew=hearing.feature_skew,
    )


def _judgement(
    clips: Sequence[HeardClip], confidences: NDArray[np.float64], chosen: Sequence[int]
) -> ConfidenceJudgement:
    part = [clips[n] for n in chosen]
    return judge_confidence(
        confidences[chosen],
        [clip.right for clip in part],
        [clip.errors for clip in part],
        [clip.words for clip in part],
        [clip.speaker for clip in part],
    )


def draw(clips: Sequence[HeardClip], confidences: NDArray[np.float64]) -> dict[str, bytes]:
    """The charts of out-of-fold confidences on clips heard as recorded, PNG by file name."""
    recorded = [n for n, clip in enumerate(clips) if clip.condition == CLEAN]
    sure, part = confidences[recorded], [clips[n] for n in recorded]
    errors, words = [clip.errors for clip in part], [clip.words for clip in part]
    return {
        RELIABILITY: reliability_png(sure, [clip.right for clip in part]),
        RISK_COVERAGE: risk_coverage_png(sure, errors, words),
    }


def _material(store: Store, dataset_version: str) -> tuple[str, Sequence[Utterance]]:
    from voice_pipeline.training.data import open_utterances

    for split in (Split.DEV, Split.TRAIN):
        offered = open_utterances(store, dataset_version, split)
        if offered:
            return split.value, offered.select(by_turns(offered.speakers, offered.clip_ids, MOST_UTTERANCES))
    raise NothingToFitError(f"dataset {dataset_version} has neither dev nor train clips; label more and snapshot again")
