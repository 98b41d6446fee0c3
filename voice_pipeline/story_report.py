"""What a story shows at its end: `reports/demo.json`, the summary table and where to look; or why it came to no model.
It reads only store and Dagster instance, so nothing in it can differ from what really happened.
"""

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.table import Table
from sqlalchemy import ColumnElement, func, select
from sqlalchemy import Table as SqlTable

from voice_pipeline.conductor import Conductor
from voice_pipeline.labeling.batches import readiness
from voice_pipeline.lineage import device_counts, lineage
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.labeling_policy import load_labeling_policy
from voice_pipeline.store import tables as t
from voice_pipeline.store.incidents import incidents
from voice_pipeline.store.releases import live, release_views
from voice_pipeline.store.store import Store
from voice_pipeline.training.card import MARKDOWN
from voice_pipeline.training.decisions import decide
from voice_pipeline.training.planning import read_policy


def build(store: Store, conductor: Conductor, model_versions: list[str], seconds: float, seed: int) -> dict[str, Any]:
    """The content of `reports/demo.json`."""
    return {
        "seed": seed,
        "total_seconds": round(seconds, 1),
        "stage_seconds": stage_seconds(conductor),
        "runs": [
            {
                "run_id": run.run_id,
                "job": run.job,
                "sensor": run.sensor,
                "partition": run.partition,
                "tags": run.tags,
                "seconds": round(run.seconds, 2),
                "failed_checks": list(run.failed_checks),
            }
            for run in conductor.runs
        ],
        "models": [model_figures(store, version) for version in model_versions],
        "drift": drift_figures(store, conductor),
        "transitions": [
            {
                "release_id": view.release_id,
                "model_version": view.model_version,
                "at": str(step.at),
                "from": step.from_state,
                "to": step.to_state,
                "reason": step.reason,
            }
            for view in release_views(store)
            for step in view.transitions
        ],
        "devices": device_counts(store),
        "ledger_lines": store.ledger.verify(),
    }


def stage_seconds(conductor: Conductor) -> dict[str, float]:
    """Seconds spent in each stage's assets and checks, from the runs' own step events."""
    groups = {
        key.to_user_string(): group
        for key, group in ((spec.key, spec.group_name) for spec in conductor.definitions.resolve_all_asset_specs())
    }
    seconds: dict[str, float] = defaultdict(float)
    for run in conductor.runs:
        for step in conductor.instance.get_run_step_stats(run.run_id):
            if step.start_time is not None and step.end_time is not None:
                asset = step.step_key.split("__")[-1]
                name = next((n for n in groups if step.step_key in (n, n.replace("/", "__"))), asset)
                seconds[groups.get(name) or "checks"] += step.end_time - step.start_time
    return {stage: round(value, 1) for stage, value in sorted(seconds.items())}


def model_figures(store: Store, model_version: str) -> dict[str, Any]:
    """One model: data, WER overall and by slice (float and int8, on its own suite; `evaluations` holds all), size,
    latency, verdicts. `wer` and `cer` are fractions with their intervals.
    """
    found = lineage(store, model_version)
    bundle = store.database.row(select(t.bundles).where(t.bundles.c.model_version == model_version))
    figures: dict[str, Any] = {
        "model_version": model_version,
        "dataset_version": found.dataset_version,
        "parent_model_version": found.parent_model_version,
        "cause": found.cause,
        "state": found.releases[-1].state if found.releases else "unreleased",
        "bundle_digest": found.bundle_digest,
        "bundle_bytes": bundle["size"] if bundle else None,
        "verdicts": {v["gate"]: {"outcome": v["outcome"], "digest": digest(v)} for v in found.verdicts},
        "policy_digest": found.verdicts[0]["policy_digest"] if found.verdicts else None,
    }
    rows = store.database.rows(
        select(t.evaluations.c.variant, t.evaluations.c.report)
        .where(t.evaluations.c.model_version == model_version)
        .order_by(t.evaluations.c.created_at)
    )
    figures["evaluations"] = [_evaluation(row["variant"], row["report"]) for row in rows]
    for evaluation in figures["evaluations"]:  # the first of a variant is on the suite that the model was made against
        figures.setdefault(evaluation["variant"], evaluation)
    return figures


def _evaluation(variant: str, report: dict[str, Any]) -> dict[str, Any]:
    return {
        "variant": variant,
        "suite": report["suite_id"],
        "wer": report["overall"]["wer"],
        "cer": report["overall"]["cer"],
        "slices": {s["slice"]: s["wer"] for s in report["slices"]},
        "latency_p50_ms": report["latency"]["p50_ms"],
        "latency_p95_ms": report["latency"]["p95_ms"],
    }


def drift_figures(store: Store, conductor: Conductor) -> list[dict[str, Any]]:
    """Each drift incident with its figures and the training run that it fired."""
    training = [run for run in conductor.runs if run.job == "training_job"]
    return [
        {
            "incident_id": incident.incident_id,
            "kind": str(incident.kind),
            "summary": incident.summary,
            "figures": incident.detail,
            "fired_runs": [
                {"run_id": run.run_id, "sensor": run.sensor, "model_version": run.partition}
                for run in training
                if incident.incident_id in str(run.tags)
            ],
        }
        for incident in incidents(store)
        if str(incident.kind) in ("input_drift", "concept_drift")
    ]


def summary(report: dict[str, Any]) -> Table:
    """The closing table: one row a model."""
    table = Table(title=f"The story in {report['total_seconds']:.0f} s", title_justify="left")
    for column in (
        "model",
        "dataset",
        "state",
        "suite",
        "WER % float",
        "WER % int8",
        "noisy int8",
        "p95 ms",
        "kB",
        "gates",
    ):
        table.add_column(column, overflow="fold")
    for model in report["models"]:
        flt, int8 = model.get("float"), model.get("int8")
        noisy = int8["slices"].get("condition:noise_10db") if int8 else None
        gates = model["verdicts"]
        table.add_row(
            model["model_version"],
            model["dataset_version"],
            model["state"],
            int8["suite"] if int8 else "–",
            _percent(flt["wer"] if flt else None),
            _percent(int8["wer"] if int8 else None),
            _percent(noisy),
            f"{int8['latency_p95_ms']:.0f}" if int8 else "–",
            f"{model['bundle_bytes'] / 1000:.0f}" if model["bundle_bytes"] else "–",
            f"{sum(v['outcome'] == 'pass' for v in gates.values())}/{len(gates)}",
        )
    return table


def why_no_model(store: Store) -> str:
    """How much came in, how much of it was labelled, and what the policies ask for before a first model is planned."""
    labels = load_labeling_policy(store.settings.policy_dir)
    retraining = read_policy(store)
    waiting = readiness(store, labels).waiting
    labelled = _rows(store, t.labels.c.batch_id.is_not(None), t.labels)
    decided = [decision.reason for decision in decide(store, retraining)] or ["there is no dataset version yet"]
    return (
        f"{_rows(store, t.clips.c.erased_at.is_(None), t.clips)} clips are held, {labelled} of them labelled in closed "
        f"batches and {waiting} beside; {'; '.join(decided)}. A batch closes at {labels.batch.min_clips} labels "
        f"(batch: min_clips in policy/labeling.yaml), a first model takes {retraining.min_new_clips} labelled clips of "
        "speakers that are not kept for tests (min_new_clips in policy/retrain.yaml): bring more recordings"
    )


def _rows(store: Store, condition: ColumnElement[bool], table: SqlTable) -> int:
    return int(store.database.scalar(select(func.count()).select_from(table).where(condition)) or 0)


def where_to_look(store: Store) -> list[str]:
    """Commands and paths that show what a story left behind."""
    settings, live_release = store.settings, live(store)
    lines = ["see all of it in the Dagster UI: [bold]make dev[/bold], then http://127.0.0.1:3000"]
    if live_release is not None:
        card = settings.models / live_release.model_version / MARKDOWN
        lines.append(f"model card of the live model {live_release.model_version}: {card}")
    mlflow = (
        f"{Path(sys.executable).parent / 'mlflow'} ui --workers 1 --backend-store-uri {settings.mlflow_tracking_url}"
    )
    served = settings.mlflow_url or f"[bold]MLFLOW_DISABLE_TELEMETRY=true {mlflow}[/bold], then http://127.0.0.1:5000"
    return [*lines, f"curves, figures and files of every model in MLflow: {served}"]


def _percent(interval: dict[str, float] | None) -> str:
    if interval is None:
        return "–"
    return f"{100 * interval['value']:.1f} [{100 * interval['low']:.0f}–{100 * interval['high']:.0f}]"
