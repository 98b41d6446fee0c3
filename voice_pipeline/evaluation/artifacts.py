"""Finding and hearing a model's artifacts: the float checkpoint of a model version, or the int8 network of its bundle.

`report_for` is the one way in which stages ask "how good is this model on that suite?" (`report_on` where its files lie
elsewhere): it reuses a stored report only if that was made with the very bytes that lie there now and under the very
`policy/evaluation.yaml` that lies there now, else it evaluates again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from voice_pipeline.evaluation.errors import UnknownArtifactError
from voice_pipeline.evaluation.report import (
    Subject,
    evaluate,
    find_report,
    reported_artifact,
    store_report,
)
from voice_pipeline.evaluation.suites import SuiteClip, suite_clips
from voice_pipeline.evaluation.wakewords import suite_wake_words
from voice_pipeline.schema.dataset import EvalSuite
from voice_pipeline.schema.evaluation_policy import load_evaluation_policy
from voice_pipeline.schema.training import EvaluationReport
from voice_pipeline.store.store import Store

if TYPE_CHECKING:
    from voice_pipeline.speech.recogniser import OnnxRecogniser, Recognition, TorchRecogniser

    Told = Callable[[SuiteClip, Recognition], None]

FLOAT, INT8 = "float", "int8"
NETWORK = {FLOAT: "model.pt", INT8: "model.onnx"}
CONFIDENCE = "confidence.json"


@dataclass(frozen=True)
class Artifact:
    """One network with its decoder on disk: their folder, and the sha256 that names both (`heard_sha256`)."""

    model_version: str
    variant: str
    folder: Path
    sha256: str


def checkpoint_folder(store: Store, model_version: str) -> Path:
    """Where a model version's float checkpoint lies: `model.pt`, `config.json`, `tokenizer.json`, `confidence.json`."""
    return store.settings.models / model_version / "checkpoint"


def artifact_of(store: Store, model_version: str, variant: str) -> Artifact:
    """Raises:
    UnknownArtifactError: that model has no such artifact (yet).
    """
    if variant not in NETWORK:
        raise UnknownArtifactError(f"variant {variant!r} is not known; use one of {sorted(NETWORK)}")
    home = checkpoint_folder(store, model_version) if variant == FLOAT else store.settings.bundles / model_version
    network = home / NETWORK[variant]
    if not network.is_file():
        raise UnknownArtifactError(
            f"model {model_version} has no {variant} artifact in this home; train or package it first"
        )
    return Artifact(model_version, variant, home, heard_sha256(network, home))


def bundle_artifact(folder: Path) -> Artifact:
    """The int8 network of a bundle folder anywhere.

    Raises:
        UnknownArtifactError: the folder is no bundle.
    """
    network, manifest = folder / NETWORK[INT8], folder / "manifest.json"
    if not network.is_file() or not manifest.is_file():
        raise UnknownArtifactError(
            f"{folder} is no model version of this home and no bundle folder; give one of the two"
        )
    try:
        model_version = str(json.loads(manifest.read_bytes())["model_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise UnknownArtifactError(f"bundle {folder} has a damaged manifest.json; fetch the bundle again") from error
    return Artifact(model_version, INT8, folder, heard_sha256(network, folder))


def open_recogniser(artifact: Artifact) -> OnnxRecogniser | TorchRecogniser:
    """A recogniser over the artifact, single-threaded for int8 as on a device.

    Raises:
        UnknownArtifactError: its files cannot be loaded.
    """
    from voice_pipeline.speech.confidence import ConfidenceModel
    from voice_pipeline.speech.errors import SpeechError
    from voice_pipeline.speech.recogniser import OnnxRecogniser, TorchRecogniser

    try:
        if artifact.variant == INT8:
            return OnnxRecogniser.load(artifact.folder)
        fitted = artifact.folder / CONFIDENCE
        confidence = ConfidenceModel.from_json(fitted.read_text()) if fitted.exists() else None
        return TorchRecogniser.load(artifact.folder, confidence)
    except (SpeechError, OSError) as error:
        raise UnknownArtifactError(
            f"{artifact.variant} artifact of {artifact.model_version} cannot be loaded: {error}"
        ) from error


def tell_nobody(clip: SuiteClip, heard: Recognition) -> None:
    """Who only wants the report asks for no answers."""


def report_for(
    store: Store, model_version: str, variant: str, suite: EvalSuite, told: Told = tell_nobody
) -> EvaluationReport:
    """`report_on` of the artifact of a trained or packaged model.

    Raises:
        EvaluationError: the artifact is missing or the suite is empty.
        PolicyError: `policy/evaluation.yaml` is not valid.
    """
    return report_on(store, artifact_of(store, model_version, variant), suite, told)


def report_on(store: Store, artifact: Artifact, suite: EvalSuite, told: Told = tell_nobody) -> EvaluationReport:
    """How `artifact` does on `suite`: the stored report of these bytes under this policy, else a new one, stored.

    `told` gets every clip with its answer, if they are heard now.

    Raises:
        EvaluationError: the artifact cannot be loaded or the suite is empty.
        PolicyError: `policy/evaluation.yaml` is not valid.
    """
    policy = load_evaluation_policy(store.settings.policy_dir)
    key = (artifact.model_version, artifact.variant, suite.digest)
    stored = find_report(store, *key)
    if stored and reported_artifact(store, *key) == artifact.sha256 and stored.policy_digest == policy.digest:
        return stored
    subject = Subject(artifact.model_version, artifact.variant, suite.suite_id, suite.digest)
    recogniser = open_recogniser(artifact)
    report = evaluate(recogniser, suite_clips(store, suite), subject, store.now(), told=told)
    wake_words = suite_wake_words(store, recogniser, suite, policy.wake_words)
    report = report.model_copy(update={"wake_words": wake_words, "policy_digest": policy.digest})
    store_report(store, report, artifact.sha256)
    return report


def heard_sha256(network: Path, folder: Path) -> str:
    """What a report heard: sha256 of the network, or of network and decoder where `folder` holds a beam search.

    Raises:
        UnknownArtifactError: the decoder's configuration is damaged.
    """
    from voice_pipeline.speech.decoder import DECODER, read_decoder
    from voice_pipeline.speech.errors import DecoderError

    try:
        searched = read_decoder(folder).beam is not None
    except DecoderError as error:
        raise UnknownArtifactError(f"artifact {folder} cannot be used: {error}") from error
    named = _sha256(network)
    if not searched:
        return named
    return hashlib.sha256(f"{named} {_sha256(folder / DECODER)}".encode()).hexdigest()  # it names its lm.arpa


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
