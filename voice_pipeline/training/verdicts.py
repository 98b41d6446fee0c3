"""What is looked at once a model is trained. Findings only; whether they stop anything is the shell's to say."""

from __future__ import annotations

import math

from sqlalchemy import select

from voice_pipeline.evaluation.artifacts import FLOAT, checkpoint_folder
from voice_pipeline.evaluation.report import find_report
from voice_pipeline.evaluation.suites import current_suite
from voice_pipeline.schema.retrain_policy import Alarms
from voice_pipeline.speech.errors import SpeechError
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import models
from voice_pipeline.training.checkpoints import checkpoint_digest
from voice_pipeline.training.confidence import read_calibration, read_held_out
from voice_pipeline.training.errors import TrainingError
from voice_pipeline.training.preflight import Finding
from voice_pipeline.training.readiness import planned_spec
from voice_pipeline.training.stages import confidence_sha256, read_epochs

LARGEST_SKEW = 1e-6
"""Features are the same if they differ by less: both sides compute in double precision, and parquet keeps it."""


def check_weights(store: Store, model_version: str) -> list[Finding]:
    """The checkpoint folder is complete, is the one in the catalogue, and all its weights are finite."""
    folder = checkpoint_folder(store, model_version)
    named = store.database.scalar(select(models.c.checkpoint_sha256).where(models.c.model_version == model_version))
    try:
        found = checkpoint_digest(folder)
        finite = _all_finite(store, model_version)
    except (TrainingError, SpeechError) as error:
        return [Finding("checkpoint", False, str(error))]
    return [
        Finding("checkpoint", found == named, f"sha256 {found[:12]}, the catalogue names {str(named)[:12]}"),
        Finding("finite weights", finite, "all weights are finite" if finite else "some weights are not finite"),
    ]


def check_learning(store: Store, model_version: str, alarms: Alarms) -> list[Finding]:
    """The loss fell over the run (one epoch alone has nothing to fall from), and the best dev WER is below the alarm of
    this size of model.
    """
    epochs = read_epochs(store, model_version)
    if not epochs:
        return [Finding("epochs", False, "the worker reported no epoch")]
    first, last = epochs[0]["loss"], epochs[-1]["loss"]
    fell = math.isfinite(last) and (last < first or len(epochs) == 1)
    best = min(row["dev_wer"] for row in epochs)
    most = alarms.dev_wer[planned_spec(store, model_version).hyperparameters.preset]
    return [
        Finding("loss", fell, f"{first:.3f} → {last:.3f} in {len(epochs)} epochs"),
        Finding("dev WER", best <= most, f"{best:.1%}, alarm at {most:.0%}"),
    ]


def check_calibration(store: Store, model_version: str, alarms: Alarms) -> list[Finding]:
    """A confidence model is there, was fitted on speakers that the network does not know, and is calibrated."""
    calibration = read_calibration(checkpoint_folder(store, model_version))
    if calibration is None or confidence_sha256(store, model_version) is None:
        return [Finding("confidence model", False, "none was fitted; materialise confidence_model")]
    error, skew = calibration.sweep_calibration_error, calibration.feature_skew
    return [
        Finding("fitted on", calibration.fitted_on == "dev", f"{calibration.fitted_on}, {calibration.clips} clips"),
        Finding(
            "calibration error",
            error <= alarms.calibration_error,
            f"{error:.3f}, alarm at {alarms.calibration_error:g}; AUC {calibration.auc:.3f}",
        ),
        Finding("feature skew", skew <= LARGEST_SKEW, f"features served and measured differ by at most {skew:.2g}"),
    ]


def check_held_out(store: Store, model_version: str, alarms: Alarms) -> list[Finding]:
    """The confidence is calibrated on the newest suite too, whose speakers it was not fitted on."""
    suite, held_out = current_suite(store), read_held_out(store, model_version)
    if held_out is None or held_out.suite_digest != suite.digest:
        there = "of this model as it is" if held_out is None else f"on {suite.suite_id}, only on {held_out.suite}"
        return [Finding("held-out confidence", False, f"no judgement {there}; materialise evaluation_report")]
    error = held_out.sweep_calibration_error
    return [
        Finding(
            "held-out calibration error",
            error <= alarms.calibration_error,
            f"{error:.3f} on {held_out.clips} clips of {held_out.speakers} speakers ({held_out.suite}), alarm at "
            f"{alarms.calibration_error:g}; over ten bins {held_out.expected_calibration_error:.3f}, of which "
            f"{held_out.calibration_error_by_chance:.3f} by chance",
        )
    ]


def check_slices(store: Store, model_version: str, alarms: Alarms) -> list[Finding]:
    """Each slice of the report on the newest suite has at least the policy's clips, speakers and words."""
    report = find_report(store, model_version, FLOAT, current_suite(store).digest)
    if report is None:
        return [Finding("report", False, "no report on the newest suite; materialise evaluation_report")]
    minimum = alarms.slice_minimum
    return [
        Finding(
            part.slice,
            not minimum.missing(part),
            minimum.missing(part) or f"{part.clips} clips, {part.speakers} speakers, {part.words} words",
        )
        for part in report.parts
    ]


def _all_finite(store: Store, model_version: str) -> bool:
    import torch

    from voice_pipeline.speech.recogniser import load_checkpoint

    model, _ = load_checkpoint(checkpoint_folder(store, model_version))
    return all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())
