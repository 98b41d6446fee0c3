"""What MLflow is told: parameters, curves, artifacts, dataset, commit; and which version is champion, which challenger.

MLflow is a mirror, never the source: what counts is the catalogue and the ledger. Every function is safe to repeat: a
model has one run and one registry version, found again by its tag. https://mlflow.org/docs/latest/ml/model-registry/
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update

from voice_pipeline.schema.training import EvaluationReport, SliceResult, TrainingSpec
from voice_pipeline.settings import QUIET
from voice_pipeline.store.releases import in_progress, live, release_views
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import dataset_versions, models

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "voice_pipeline"
REGISTERED_MODEL = "dictation"
CHAMPION, CHALLENGER = "champion", "challenger"
TAG = "model_version"


@dataclass(frozen=True)
class Standing:
    """Which model is live and which one is on its way, by the ledger; None where there is none.

    `since` is the ledger line that last began or ended either: the same pair at another time is another standing.
    """

    champion: str | None
    challenger: str | None
    since: int


def standing(store: Store) -> Standing:
    """Champion = the release in production; challenger = the newest release that has neither ended nor become live."""
    champion = live(store)
    coming = in_progress(store)
    turns = [view.transitions[-1].seq for view in release_views(store) if view.ended or view is champion]
    return Standing(
        champion=champion.model_version if champion else None,
        challenger=coming[-1].model_version if coming else None,
        since=max([*turns, *(view.transitions[0].seq for view in coming)], default=0),
    )


def log_training(
    store: Store, model_version: str, spec: TrainingSpec, epochs: Sequence[Mapping[str, Any]], artifacts: Sequence[Path]
) -> str:
    """Log spec, curves and files of a trained model; returns the MLflow run id, which the catalogue then keeps."""
    from mlflow.entities import Metric, Param, RunTag

    client = _client(store)
    run_id = _run_of(store, client, model_version)
    at = int(store.now().timestamp() * 1000)
    logged = {metric.step for metric in client.get_metric_history(run_id, "loss")}
    metrics = [
        Metric(key, float(row[key]), at, int(row["epoch"]))
        for row in epochs
        for key in ("loss", "dev_wer", "seconds", "audio_s_per_s")
        if row.get(key) is not None and int(row["epoch"]) not in logged
    ]
    params = [Param(key, str(value)) for key, value in _parameters(spec).items()]
    tags = [RunTag(key, value) for key, value in _tags(store, spec).items()]
    client.log_batch(run_id, metrics=metrics, params=params, tags=tags)
    for path in artifacts:
        client.log_artifact(run_id, str(path))
    with store.database.write() as connection:
        connection.execute(update(models).where(models.c.model_version == model_version).values(mlflow_run_id=run_id))
    return run_id


def log_evaluation(store: Store, report: EvaluationReport) -> None:
    """Log overall and slice WER of one report as metrics named `<variant>/wer/<slice>`."""
    from mlflow.entities import Metric

    client = _client(store)
    run_id = _run_of(store, client, report.model_version)
    at = int(store.now().timestamp() * 1000)
    figures = {f"{report.variant}/latency_p95_ms": report.latency.p95_ms}
    for part in (report.overall, *report.slices):
        figures |= _slice_figures(report.variant, part)
    client.log_batch(run_id, metrics=[Metric(key, value, at, 0) for key, value in figures.items()])
    client.set_tag(run_id, "suite_digest", report.suite_digest)


def register(store: Store, model_version: str, card: Path) -> str:
    """Put the model and its card into the registry; returns MLflow's version number. A repeat registers nothing new."""
    from mlflow.exceptions import MlflowException

    client = _client(store)
    run_id = _run_of(store, client, model_version)
    client.log_artifact(run_id, str(card))
    try:
        client.get_registered_model(REGISTERED_MODEL)
    except MlflowException:
        client.create_registered_model(
            REGISTERED_MODEL, description="On-device dictation, one version a trained model."
        )
    found = _registered(client, model_version)
    if found is None:
        source = client.get_run(run_id).info.artifact_uri
        created = client.create_model_version(
            REGISTERED_MODEL, source=source, run_id=run_id, tags={TAG: model_version}, description=f"See {card.name}."
        )
        found = str(created.version)
    mirror_aliases(store)
    return found


def mirror_aliases(store: Store) -> Standing:
    """Set the aliases `champion` and `challenger` to what the ledger says, removing those that hold no more."""
    from mlflow.exceptions import MlflowException

    client = _client(store)
    now = standing(store)
    for alias, model_version in ((CHAMPION, now.champion), (CHALLENGER, now.challenger)):
        version = _registered(client, model_version) if model_version else None
        if version is not None:
            client.set_registered_model_alias(REGISTERED_MODEL, alias, version)
            continue
        try:
            client.delete_registered_model_alias(REGISTERED_MODEL, alias)
        except MlflowException as error:  # nothing is registered yet: nothing to remove
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    return now


def _client(store: Store) -> MlflowClient:
    os.environ.update(QUIET)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it tells of every table it makes
    from mlflow import MlflowClient

    if not store.settings.mlflow_url:
        (store.settings.root / "mlflow" / "artifacts").mkdir(parents=True, exist_ok=True)
    return MlflowClient(store.settings.mlflow_tracking_url, registry_uri=store.settings.mlflow_tracking_url)


def _run_of(store: Store, client: MlflowClient, model_version: str) -> str:
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


def _registered(client: MlflowClient, model_version: str) -> str | None:
    versions = client.search_model_versions(f"name = '{REGISTERED_MODEL}' and tags.{TAG} = '{model_version}'")
    return str(versions[0].version) if versions else None


def _parameters(spec: TrainingSpec) -> dict[str, Any]:
    kept = ("dataset_version", "feature_schema_version", "seed", "parent_model_version")
    return {**{name: getattr(spec, name) for name in kept}, **spec.hyperparameters.model_dump(mode="json")}


def _tags(store: Store, spec: TrainingSpec) -> dict[str, str]:
    md5 = store.database.scalar(
        select(dataset_versions.c.dvc_md5).where(dataset_versions.c.dataset_version == spec.dataset_version)
    )
    return {
        "dataset_version": spec.dataset_version,
        "dvc_md5": str(md5),
        "code_commit": spec.code_commit,
        "lock_digest": spec.lock_digest,
        "spec_digest": spec.digest,
    }


def _slice_figures(variant: str, part: SliceResult) -> dict[str, float]:
    name = "".join(c if c.isalnum() or c in "_-. /" else "." for c in part.slice)
    return {f"{variant}/wer/{name}": part.wer.value, f"{variant}/cer/{name}": part.cer.value}
