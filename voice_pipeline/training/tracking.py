"""What MLflow is told of a model: parameters, curves, dataset with its md5, code, environment, owner, every artifact.

MLflow is a mirror, never the source: what counts is the catalogue and the ledger. Every function is safe to repeat: a
model has one run, found again by its tag. What may be made anew later (decoder, confidence, report) is told together
with a tag that names it, set last: a run whose tag is missing or another one has to be told. https://mlflow.org/docs/latest/ml/tracking/
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update

from voice_pipeline.schema.canonical import sha256_bytes
from voice_pipeline.schema.training import EvaluationReport, SliceResult, TrainingSpec
from voice_pipeline.settings import QUIET
from voice_pipeline.stats.confidence import ConfidenceJudgement
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import dataset_versions, models
from voice_pipeline.training.checkpoints import CHECKPOINT
from voice_pipeline.training.environment import ENVIRONMENT
from voice_pipeline.training.provenance import UNKNOWN

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "voice_pipeline"
TAG = "model_version"
DECODER_TOLD, CONFIDENCE_TOLD, REPORT_TOLD = "decoder_sha256", "confidence_sha256", "report_sha256"
HELD_OUT_TOLD = "confidence_held_out_sha256"
DEV_FIGURES, HELD_OUT_FIGURES = "confidence", "confidence_held_out"
"""Before the names of the confidence's figures: out of fold on the clips it was fitted on, and on a frozen suite."""
ENVIRONMENT_TAG = "env."
TRAINING_CONTEXT = "mlflow.data.context"
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
"""MLflow's own are 7 tries of 120 s each, ever longer apart."""
LARGEST_BATCH = 900
"""Metrics in one call; MLflow takes 1000."""


def log_training(
    store: Store,
    model_version: str,
    spec: TrainingSpec,
    epochs: Sequence[Mapping[str, Any]],
    artifacts: Sequence[Path],
    environment: Mapping[str, str],
) -> str:
    """Log spec, curves, files and `environment` (where it was trained, as kept then) of a trained model.

    Returns:
        The MLflow run id, which the catalogue then keeps.
    """
    from mlflow.entities import Metric, Param, RunTag

    client = client_of(store)
    run_id = run_of(store, client, model_version)
    at = int(store.now().timestamp() * 1000)
    logged = {metric.step for metric in client.get_metric_history(run_id, "loss")}
    metrics = [
        Metric(key, float(value), at, int(row["epoch"]))
        for row in epochs
        for key, value in row.items()
        if key != "epoch" and isinstance(value, int | float) and int(row["epoch"]) not in logged
    ]
    params = [Param(key, str(value)) for key, value in _parameters(spec).items()]
    told = {**_tags(store, spec), **_prefixed(ENVIRONMENT_TAG, environment)}
    for key in client.get_run(run_id).data.tags:
        if key.startswith(ENVIRONMENT_TAG) and key not in told:
            client.delete_tag(run_id, key)  # an older program told of the machine that logged
    client.log_batch(run_id, params=params, tags=[RunTag(key, value) for key, value in told.items()])
    for start in range(0, len(metrics), LARGEST_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + LARGEST_BATCH])
    _log_dataset(store, client, run_id, spec)
    client.log_dict(run_id, spec.model_dump(mode="json"), "spec.json")
    client.log_dict(run_id, dict(environment), ENVIRONMENT)
    for path in artifacts:
        client.log_artifact(run_id, str(path), CHECKPOINT if path.parent.name == CHECKPOINT else None)
    with store.database.write() as connection:
        connection.execute(update(models).where(models.c.model_version == model_version).values(mlflow_run_id=run_id))
    return run_id


def log_decoder(
    store: Store, model_version: str, figures: Mapping[str, Any], files: Sequence[Path], sha256: str
) -> None:
    """Log what the model decodes with: numbers of `figures` as metrics, the rest as tags, `files` as artifacts."""
    from mlflow.entities import Metric, RunTag

    client = client_of(store)
    run_id = run_of(store, client, model_version)
    at = int(store.now().timestamp() * 1000)
    measured = {name: value for name, value in figures.items() if isinstance(value, int | float)}
    tags = [RunTag(name, str(value)) for name, value in figures.items() if name not in measured]
    client.log_batch(run_id, metrics=[Metric(name, value, at, 0) for name, value in measured.items()], tags=tags)
    for path in files:
        client.log_artifact(run_id, str(path), "decoder")
    client.set_tag(run_id, DECODER_TOLD, sha256)


def log_confidence(
    store: Store, model_version: str, calibration: ConfidenceJudgement, files: Sequence[Path], sha256: str
) -> None:
    """Log the judgement of a confidence model as metrics named `confidence/<figure>`, and its files as artifacts."""
    run_id = _log_judgement(store, model_version, DEV_FIGURES, calibration, files)
    client_of(store).set_tag(run_id, CONFIDENCE_TOLD, sha256)


def log_held_out(
    store: Store, model_version: str, held_out: ConfidenceJudgement, files: Sequence[Path], sha256: str
) -> None:
    """The same of the judgement on a frozen suite, as `confidence_held_out/<figure>`; suite and digests are tags."""
    run_id = _log_judgement(store, model_version, HELD_OUT_FIGURES, held_out, files)
    client_of(store).set_tag(run_id, HELD_OUT_TOLD, sha256)


def _log_judgement(
    store: Store, model_version: str, prefix: str, judgement: ConfidenceJudgement, files: Sequence[Path]
) -> str:
    """Numbers as metrics, names as tags, `files` as artifacts; returns the run id."""
    from mlflow.entities import Metric, RunTag

    client = client_of(store)
    run_id = run_of(store, client, model_version)
    at = int(store.now().timestamp() * 1000)
    told = asdict(judgement)
    figures = {name: value for name, value in told.items() if isinstance(value, int | float)}
    tags = [RunTag(f"{prefix}.{name}", value) for name, value in told.items() if isinstance(value, str)]
    metrics = [Metric(f"{prefix}/{name}", value, at, 0) for name, value in figures.items()]
    client.log_batch(run_id, metrics=metrics, tags=tags)
    for path in files:
        client.log_artifact(run_id, str(path), "confidence")
    return run_id


def log_evaluation(store: Store, report: EvaluationReport, charts: Sequence[Path] = ()) -> None:
    """Log overall and slice WER of one report as metrics named `<variant>/wer/<slice>`, and its charts as artifacts."""
    from mlflow.entities import Metric

    client = client_of(store)
    run_id = run_of(store, client, report.model_version)
    at = int(store.now().timestamp() * 1000)
    figures = {f"{report.variant}/latency_p95_ms": report.latency.p95_ms}
    for part in (report.overall, *report.slices):
        figures |= _slice_figures(report.variant, part)
    client.log_batch(run_id, metrics=[Metric(key, value, at, 0) for key, value in figures.items()])
    client.set_tag(run_id, "suite_digest", report.suite_digest)
    client.log_dict(run_id, report.model_dump(mode="json"), f"reports/{report.variant}-{report.suite_id}.json")
    for chart in charts:
        client.log_artifact(run_id, str(chart), chart.parent.name)  # where the model card's links look for it
    client.set_tag(run_id, REPORT_TOLD, report_sha256(report))


def report_sha256(report: EvaluationReport) -> str:
    """Which report it is: another hearing on the same suite is another one."""
    return sha256_bytes(report.model_dump_json().encode())


def client_of(store: Store) -> MlflowClient:
    """Client of this home's MLflow, embedded or a server by URL; a server that does not answer is given up soon."""
    os.environ.update(QUIET)
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it tells of every table it makes
    from mlflow import MlflowClient

    if not store.settings.mlflow_url:
        (store.settings.root / "mlflow" / "artifacts").mkdir(parents=True, exist_ok=True)
    return MlflowClient(store.settings.mlflow_tracking_url, registry_uri=store.settings.mlflow_tracking_url)


def _log_dataset(store: Store, client: MlflowClient, run_id: str, spec: TrainingSpec) -> None:
    """The dataset version as the run's input; its digest is the DVC md5. A repeat logs nothing new."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    row = store.database.row(select(dataset_versions).where(dataset_versions.c.dataset_version == spec.dataset_version))
    if row is None:
        return
    dataset = Dataset(
        name=spec.dataset_version,
        digest=row["dvc_md5"],
        source_type="dvc",
        source=json.dumps({"dataset_version": spec.dataset_version, "md5": row["dvc_md5"]}),
        profile=json.dumps({"clips": row["clips"], "batches": len(row["batches"])}),
    )
    client.log_inputs(run_id, datasets=[DatasetInput(dataset, [InputTag(TRAINING_CONTEXT, "training")])])


def run_of(store: Store, client: MlflowClient, model_version: str) -> str:
    """The model's run, found by its tag or begun now; it is finished from the start, since training has ended."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        location = None if store.settings.mlflow_url else (store.settings.root / "mlflow" / "artifacts").as_uri()
        experiment_id = client.create_experiment(EXPERIMENT, artifact_location=location)
    else:
        experiment_id = experiment.experiment_id
    found = client.search_runs([experiment_id], f"tags.{TAG} = '{model_version}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    run = client.create_run(experiment_id, run_name=model_version, tags={TAG: model_version})
    client.set_terminated(run.info.run_id, "FINISHED")
    return str(run.info.run_id)


def _parameters(spec: TrainingSpec) -> dict[str, Any]:
    kept = ("dataset_version", "feature_schema_version", "seed", "parent_model_version")
    return {**{name: getattr(spec, name) for name in kept}, **spec.hyperparameters.model_dump(mode="json")}


def _tags(store: Store, spec: TrainingSpec) -> dict[str, str]:
    md5 = store.database.scalar(
        select(dataset_versions.c.dvc_md5).where(dataset_versions.c.dataset_version == spec.dataset_version)
    )
    return {
        "owner": store.settings.owner,
        "mlflow.user": store.settings.owner,
        "dataset_version": spec.dataset_version,
        "dvc_md5": str(md5),
        "feature_service": spec.feature_schema_version,
        "code_commit": spec.code_commit,
        "code_dirty": dirty_flag(spec.code_commit),
        "lock_digest": spec.lock_digest,
        "spec_digest": spec.digest,
    }


def dirty_flag(code_commit: str) -> str:
    """Whether the code was that of its commit: `true` (it had changes), `false`, `unknown` (no checkout)."""
    return "unknown" if code_commit.startswith(UNKNOWN) else str("-dirty" in code_commit).lower()


def _prefixed(prefix: str, values: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}{name}": value for name, value in values.items()}


def _slice_figures(variant: str, part: SliceResult) -> dict[str, float]:
    name = "".join(c if c.isalnum() or c in "_-. /" else "." for c in part.slice)
    return {f"{variant}/wer/{name}": part.wer.value, f"{variant}/cer/{name}": part.cer.value}
