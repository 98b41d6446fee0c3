"""The steps from a plan to a model card, one function an asset. Each can be repeated: it finds or replaces its result.

The weights are made in a subprocess (`worker`); everything here reads what it left behind, keeps the figures in the
catalogue and tells MLflow. What MLflow is told is read from home and catalogue, so `mirror` can tell it again later.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from voice_pipeline.evaluation.artifacts import CONFIDENCE, FLOAT, checkpoint_folder, report_for, tell_nobody
from voice_pipeline.evaluation.suites import current_suite
from voice_pipeline.schema.canonical import sha256_bytes
from voice_pipeline.schema.training import EvaluationReport
from voice_pipeline.speech.decoder import ARPA, DECODER
from voice_pipeline.speech.recogniser import CONFIG, TOKENIZER, WEIGHTS
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import dataset_versions, eval_suites, evaluations, models
from voice_pipeline.training.assessment import CHARTS, Assessment, assess, write_charts
from voice_pipeline.training.card import MARKDOWN, write_card
from voice_pipeline.training.charts import learning_curve_png
from voice_pipeline.training.confidence import (
    HELD_OUT,
    QUALITY,
    RELIABILITY,
    RISK_COVERAGE,
    CalibratedModel,
    HeldOut,
    SuiteAnswers,
    fit_confidence,
    judge_on_suite,
    read_calibration,
    read_held_out,
)
from voice_pipeline.training.environment import kept_environment
from voice_pipeline.training.language_model import FIGURES, Tuned, fit_language_model
from voice_pipeline.training.plan_errors import NotTrainedError
from voice_pipeline.training.planning import TRAINED, Plan, find_plan, read_policy
from voice_pipeline.training.presentation import training_figures
from voice_pipeline.training.registry import mirror_aliases, mirror_bundles, register, told, untold_cards
from voice_pipeline.training.tracking import (
    CONFIDENCE_TOLD,
    DECODER_TOLD,
    HELD_OUT_TOLD,
    REPORT_TOLD,
    client_of,
    log_confidence,
    log_decoder,
    log_evaluation,
    log_held_out,
    log_training,
    report_sha256,
    run_of,
)

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
    """Tell MLflow of a trained model: spec, curves, checkpoint, where it was trained; returns the run id."""
    workdir, folder = store.settings.models / plan.model_version, checkpoint_folder(store, plan.model_version)
    files = [workdir / CURVE, workdir / PROGRESS, *(folder / name for name in (WEIGHTS, CONFIG, TOKENIZER))]
    epochs, environment = read_epochs(store, plan.model_version), kept_environment(workdir)
    return log_training(store, plan.model_version, plan.spec, epochs, files, environment)


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
    for model_version in trained_models(store):
        with told(store, f"what it missed of {model_version}"):
            lines += _catch_up(store, model_version)
    with told(store, "model cards that it missed"):
        for card in untold_cards(store, sorted(store.settings.models.glob(f"*/{MARKDOWN}"))):
            lines.append(f"{card.parent.name} is version {register(store, card.parent.name, card)}")
    with told(store, "signed bundles"):
        lines += [f"bundle of {name}" for name in mirror_bundles(store)]
    return "; ".join(lines)


def trained_models(store: Store) -> list[str]:
    """Versions of all models whose training has ended, by name."""
    everything = select(models.c.model_version).where(models.c.state == TRAINED).order_by(models.c.model_version)
    return [row["model_version"] for row in store.database.rows(everything)]


def _catch_up(store: Store, model_version: str) -> list[str]:
    """Log what the model's run lacks; a run that MLflow has lost is begun and logged anew."""
    client = client_of(store)
    run_id = run_of(store, client, model_version)
    lines = []
    if mlflow_run_id(store, model_version) != run_id:
        log_model(store, find_plan(store, model_version))
        lines.append(f"logged {model_version}")
    tags = client.get_run(run_id).data.tags
    for what, tag, tell in TOLD_ANEW:
        if tell(store, model_version, tags.get(tag)):
            lines.append(f"{what} of {model_version}")
    return lines


def _tell_decoder(store: Store, model_version: str, known: str | None = None) -> bool:
    """Tell MLflow what the model decodes with; returns whether there was something to tell beyond `known`."""
    folder = checkpoint_folder(store, model_version)
    if not (folder / DECODER).is_file():
        return False
    metrics = store.database.scalar(select(models.c.metrics).where(models.c.model_version == model_version)) or {}
    figures = {name: metrics[name] for name in sorted(FIGURES & metrics.keys())}
    chosen = (folder / DECODER).read_bytes()  # it names its lm.arpa
    sha256 = sha256_bytes(chosen + json.dumps(figures).encode())
    if sha256 == known:
        return False
    files = [folder / name for name in (DECODER, ARPA) if (folder / name).is_file()]
    log_decoder(store, model_version, figures, files, sha256)
    return True


def _tell_confidence(store: Store, model_version: str, known: str | None = None) -> bool:
    """As `_tell_decoder`, of the confidence model; one that is just being fitted is left for the next time."""
    folder, sha256 = checkpoint_folder(store, model_version), confidence_sha256(store, model_version)
    calibration = read_calibration(folder)
    if sha256 in (None, known) or calibration is None or sha256_bytes((folder / CONFIDENCE).read_bytes()) != sha256:
        return False
    names = (CONFIDENCE, QUALITY, RELIABILITY, RISK_COVERAGE)
    files = [folder / name for name in names if (folder / name).is_file()]
    log_confidence(store, model_version, calibration, files, sha256)
    return True


def _tell_held_out(store: Store, model_version: str, known: str | None = None) -> bool:
    """As `_tell_decoder`, of the judgement of the confidence on a suite; nothing is heard for it."""
    held_out, path = read_held_out(store, model_version), checkpoint_folder(store, model_version) / HELD_OUT
    if held_out is None:
        return False
    sha256 = sha256_bytes(path.read_bytes())
    if sha256 == known:
        return False
    log_held_out(store, model_version, held_out, [path], sha256)
    return True


def _tell_report(store: Store, model_version: str, known: str | None = None) -> bool:
    """As `_tell_decoder`, of the stored report on the newest suite that heard the model; nothing is heard for it."""
    report = newest_report(store, model_version)
    if report is None or report_sha256(report) == known:
        return False
    charts = store.settings.models / model_version / CHARTS
    log_evaluation(store, report, sorted(charts.glob("*.png")))
    return True


TOLD_ANEW = (
    ("decoder", DECODER_TOLD, _tell_decoder),
    ("confidence", CONFIDENCE_TOLD, _tell_confidence),
    ("held-out confidence", HELD_OUT_TOLD, _tell_held_out),
    ("evaluation", REPORT_TOLD, _tell_report),
)
"""What a later run may replace: its name, the tag that says which one MLflow has, how it is told."""


def choose_decoder(store: Store, model_version: str) -> Tuned:
    """Fit the language model of a trained model, choose its decoder and log it.

    Raises:
        NotTrainedError, ModelFileError: there is no network, or it cannot be loaded.
    """
    plan = trained(store, model_version)
    tuned = fit_language_model(store, model_version, plan.spec.dataset_version, plan.spec.decoding)
    with told(store, f"decoder of {model_version}"):
        _tell_decoder(store, model_version)
    return tuned


def calibrate_model(store: Store, model_version: str) -> CalibratedModel:
    """Fit the confidence model of a trained model and log it.

    Raises:
        NotTrainedError, NothingToFitError: there is no network, or no clip to fit on.
        MissingFrameError: the dataset version's training frame is missing or changed.
    """
    spec = trained(store, model_version).spec
    made = fit_confidence(store, model_version, spec.dataset_version, spec.feature_schema_version)
    with told(store, f"confidence of {model_version}"):
        _tell_confidence(store, model_version)
    return made


def judge_calibration(store: Store, model_version: str) -> HeldOut:
    """Judge the fitted confidence on the newest frozen suite, whose speakers it was not fitted on, and log it; after
    `evaluate_model` nothing is heard for it.

    Raises:
        NotTrainedError, NothingToJudgeError: there is no network, or no fitted confidence.
    """
    trained(store, model_version)
    held_out = judge_on_suite(store, model_version, current_suite(store))
    with told(store, f"held-out confidence of {model_version}"):
        _tell_held_out(store, model_version)
    return held_out


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
    card = write_card(store, plan, assessment, calibration, read_held_out(store, model_version))
    with told(store, f"registration of {model_version}"):
        register(store, model_version, card)
    return card


def _assess(store: Store, model_version: str) -> Assessment:
    suite = current_suite(store)
    answers = SuiteAnswers.of(store, model_version, suite)
    report = report_for(store, model_version, FLOAT, suite, answers.add if answers else tell_nobody)
    if answers and answers.clips:
        answers.judge()
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


def newest_report(store: Store, model_version: str) -> EvaluationReport | None:
    """The stored float report on the newest of the suites that the model was heard on, or None."""
    on_suites = evaluations.join(eval_suites, evaluations.c.suite_digest == eval_suites.c.digest)
    row = store.database.row(
        select(evaluations.c.report)
        .select_from(
            on_suites.join(dataset_versions, dataset_versions.c.dataset_version == eval_suites.c.dataset_version)
        )
        .where(evaluations.c.model_version == model_version, evaluations.c.variant == FLOAT)
        .order_by(dataset_versions.c.sequence.desc(), eval_suites.c.created_at.desc())
    )
    return EvaluationReport.model_validate(row["report"]) if row else None


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
