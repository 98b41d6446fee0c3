"""The steps from a plan to a model card, one function an asset. Each can be repeated: it finds or replaces its result.

The weights are made in a subprocess (`worker`); everything here reads what it left behind, keeps the figures in the
catalogue and tells MLflow.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from voice_pipeline.evaluation.artifacts import CONFIDENCE, FLOAT, checkpoint_folder, report_for
from voice_pipeline.evaluation.suites import current_suite
from voice_pipeline.speech.recogniser import CONFIG, TOKENIZER, WEIGHTS
from voice_pipeline.stats.confidence import ConfidenceJudgement
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import models
from voice_pipeline.training.assessment import Assessment, assess, write_charts
from voice_pipeline.training.card import MARKDOWN, write_card
from voice_pipeline.training.charts import learning_curve_png
from voice_pipeline.training.confidence import CalibratedModel, fit_confidence, judge_on_suite, read_calibration
from voice_pipeline.training.language_model import Tuned, fit_language_model
from voice_pipeline.training.plan_errors import NotTrainedError
from voice_pipeline.training.planning import TRAINED, Plan, find_plan, read_policy
from voice_pipeline.training.presentation import training_figures
from voice_pipeline.training.registry import mirror_aliases, mirror_bundles, register, told, unregistered
from voice_pipeline.training.tracking import log_confidence, log_evaluation, log_training

CURVE = "learning_curve.png"
PROGRESS = "progress.jsonl"


@dataclass(frozen=True)
class TrainedModel:
    """A finished training: its plan, one mapping an epoch (`epoch`, `loss`, `dev_wer`, `seconds`), the curve as PNG."""

    plan: Plan
    epochs: tuple[dict[str, Any], ...]
    curve: bytes
    mlflow_run_id: str


def train_model(store: Store, model_version: str) -> TrainedModel:
    """Train the planned model (or find it trained), keep its figures, log it.

    Raises:
        UnknownPlanError: it was never planned.
        TrainingError: the worker failed; its one line says why.
    """
    from voice_pipeline.training.worker import run_worker

    plan = find_plan(store, model_version)
    run_worker(store, model_version)
    epochs = read_epochs(store, model_version)
    curve = learning_curve_png(epochs)
    path = store.settings.models / model_version / CURVE
    write_atomically(path, curve)
    _keep_figures(store, model_version, epochs)
    with told(store, f"training of {model_version}"):
        log_model(store, plan)
    return TrainedModel(plan, tuple(epochs), curve, mlflow_run_id(store, model_version) or "none yet")


def log_model(store: Store, plan: Plan) -> str:
    """Tell MLflow of a trained model: spec, curves, checkpoint; returns the run id."""
    workdir, folder = store.settings.models / plan.model_version, checkpoint_folder(store, plan.model_version)
    files = [workdir / CURVE, workdir / PROGRESS, *(folder / name for name in (WEIGHTS, CONFIG, TOKENIZER))]
    return log_training(store, plan.model_version, plan.spec, read_epochs(store, plan.model_version), files)


def mlflow_run_id(store: Store, model_version: str) -> str | None:
    """MLflow's run of a model, or None where it was not told yet."""
    found = store.database.scalar(select(models.c.mlflow_run_id).where(models.c.model_version == model_version))
    return str(found) if found else None


def mirror(store: Store) -> str:
    """Set MLflow's aliases, and tell it what it missed while it was down; returns one line. What breaks is an alert."""
    lines: list[str] = []
    with told(store, "the release states"):
        lines.append(str(mirror_aliases(store)))
    if not lines:
        return "MLflow does not answer"
    with told(store, "models that it missed"):
        waiting = select(models.c.model_version).where(models.c.state == TRAINED, models.c.mlflow_run_id.is_(None))
        for model_version in [row["model_version"] for row in store.database.rows(waiting)]:
            log_model(store, find_plan(store, model_version))
            lines.append(f"logged {model_version}")
    with told(store, "model cards that it missed"):
        for card in unregistered(store, sorted(store.settings.models.glob(f"*/{MARKDOWN}"))):
            lines.append(f"{card.parent.name} is version {register(store, card.parent.name, card)}")
    with told(store, "signed bundles"):
        lines += [f"bundle of {name}" for name in mirror_bundles(store)]
    return "; ".join(lines)


def choose_decoder(store: Store, model_version: str) -> Tuned:
    """Fit the language model of a trained model and choose its decoder. Raises `NotTrainedError`, `ModelFileError`."""
    plan = trained(store, model_version)
    return fit_language_model(store, model_version, plan.spec.dataset_version, plan.spec.decoding)


def calibrate_model(store: Store, model_version: str) -> CalibratedModel:
    """Fit the confidence model of a trained model and log it.

    Raises:
        NotTrainedError, NothingToFitError: there is no network, or no clip to fit on.
        MissingFrameError: the dataset version's training frame is missing or changed.
    """
    spec = trained(store, model_version).spec
    made = fit_confidence(store, model_version, spec.dataset_version, spec.feature_schema_version)
    with told(store, f"confidence of {model_version}"):
        log_confidence(store, model_version, made.calibration, made.files)
    return made


def judge_calibration(store: Store, model_version: str) -> ConfidenceJudgement:
    """The fitted confidence on the newest frozen suite, whose speakers it was not fitted on."""
    trained(store, model_version)
    return judge_on_suite(store, model_version, current_suite(store))


def evaluate_model(store: Store, model_version: str) -> Assessment:
    """The float model on the newest frozen suite: stored report if it is of these weights, else heard now."""
    trained(store, model_version)
    assessment = _assess(store, model_version)
    charts = write_charts(store, assessment)
    with told(store, f"evaluation of {model_version}"):
        log_evaluation(store, assessment.report, charts)
    return assessment


def describe_model(store: Store, model_version: str) -> Path:
    """Write the model card and register the model in MLflow; returns the Markdown card."""
    plan = trained(store, model_version)
    assessment = _assess(store, model_version)
    write_charts(store, assessment)
    calibration = read_calibration(checkpoint_folder(store, model_version))
    card = write_card(store, plan, assessment, calibration)
    with told(store, f"registration of {model_version}"):
        register(store, model_version, card)
    return card


def _assess(store: Store, model_version: str) -> Assessment:
    suite = current_suite(store)
    report = report_for(store, model_version, FLOAT, suite)
    return assess(store, report, suite, read_policy(store).alarms.slice_minimum)


def trained(store: Store, model_version: str) -> Plan:
    """The plan of a model whose training has finished. Raises `NotTrainedError`."""
    plan = find_plan(store, model_version)
    if not (checkpoint_folder(store, model_version) / WEIGHTS).is_file():
        raise NotTrainedError(f"model {model_version} has no checkpoint; materialise acoustic_model for it first")
    return plan


def confidence_sha256(store: Store, model_version: str) -> str | None:
    """What the catalogue holds as digest of the fitted confidence model, or None."""
    found = store.database.scalar(select(models.c.confidence_sha256).where(models.c.model_version == model_version))
    there = (checkpoint_folder(store, model_version) / CONFIDENCE).is_file()
    return str(found) if found and there else None


def read_epochs(store: Store, model_version: str) -> list[dict[str, Any]]:
    """The epochs that the worker reported, in order; of one that was reported twice (after a crash) the later line."""
    path = store.settings.models / model_version / PROGRESS
    if not path.exists():
        return []
    by_epoch: dict[int, dict[str, Any]] = {}
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # a line torn by a crash; its epoch is trained and reported again
        if isinstance(row, dict) and "epoch" in row and "loss" in row:
            by_epoch[int(row["epoch"])] = row
    return [by_epoch[number] for number in sorted(by_epoch)]


def _keep_figures(store: Store, model_version: str, epochs: Sequence[dict[str, Any]]) -> None:
    with store.database.write() as connection:
        row = connection.execute(select(models).where(models.c.model_version == model_version)).mappings().one()
        connection.execute(
            update(models)
            .where(models.c.model_version == model_version)
            .values(
                state=TRAINED,
                trained_at=row["trained_at"] or store.now().isoformat(),
                metrics={**(row["metrics"] or {}), **training_figures(epochs)},
            )
        )
