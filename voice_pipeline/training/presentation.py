"""What the asset pages of the training stage show. Pure: records in, plain metadata out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from voice_pipeline.schema.training import EvaluationReport
from voice_pipeline.training.confidence import Calibration
from voice_pipeline.training.planning import Plan
from voice_pipeline.training.preflight import Finding


def plan_figures(plan: Plan) -> dict[str, Any]:
    """The spec and its cause."""
    spec = plan.spec
    return {
        "cause": plan.cause.label,
        "incidents": ", ".join(plan.cause.incidents) or "none",
        "dataset_version": spec.dataset_version,
        "feature_schema_version": spec.feature_schema_version,
        "parent_model_version": spec.parent_model_version or "none",
        "code_commit": spec.code_commit,
        "seed": spec.seed,
        "preset": spec.hyperparameters.preset.value,
        "max_epochs": spec.hyperparameters.max_epochs,
    }


def training_figures(epochs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The run in five numbers; `dev_wer` is the best, whose weights are kept."""
    if not epochs:
        return {"epochs": 0}
    seconds = sum(row["seconds"] for row in epochs)
    audio = sum(row["seconds"] * row["audio_s_per_s"] for row in epochs)
    return {
        "epochs": len(epochs),
        "dev_wer": min(row["dev_wer"] for row in epochs),
        "final_loss": epochs[-1]["loss"],
        "training_seconds": round(seconds, 2),
        "audio_s_per_s": round(audio / seconds, 1) if seconds else 0.0,
    }


def calibration_figures(calibration: Calibration) -> dict[str, Any]:
    """The calibration as it is."""
    return asdict(calibration)


def report_figures(report: EvaluationReport) -> dict[str, Any]:
    """Overall figures and the WER of each condition."""
    conditions = {
        f"wer_{part.slice.removeprefix('condition:')}": part.wer.value
        for part in report.slices
        if part.slice.startswith("condition:")
    }
    return {
        "suite": report.suite_id,
        "clips": report.overall.clips,
        "wer": report.overall.wer.value,
        "wer_low": report.overall.wer.low,
        "wer_high": report.overall.wer.high,
        "cer": report.overall.cer.value,
        **conditions,
        "latency_p50_ms": report.latency.p50_ms,
        "latency_p95_ms": report.latency.p95_ms,
    }


def findings_table(findings: Sequence[Finding]) -> str:
    """Findings as a Markdown table, failures marked."""
    lines = [f"| {'ok' if f.passed else '**failed**'} | {f.name} | {f.detail.replace('|', '/')} |" for f in findings]
    return "\n".join(["| | check | found |", "|---|---|---|", *lines])
