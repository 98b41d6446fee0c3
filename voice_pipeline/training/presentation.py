"""What the asset pages of the training stage show. Pure: records in, plain metadata out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from voice_pipeline.evaluation.charts import as_markdown_image
from voice_pipeline.evaluation.latency import worst
from voice_pipeline.evaluation.paired import AgainstLive
from voice_pipeline.evaluation.tables import comparison_table, latency_table, slice_table, words_table
from voice_pipeline.training.assessment import CAPTIONS, Assessment
from voice_pipeline.training.confidence import RELIABILITY, RISK_COVERAGE, CalibratedModel, Calibration, HeldOut
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
    """The run in five numbers; `dev_wer` is the best, whose weights are kept, `audio_s_per_s` the median epoch's."""
    if not epochs:
        return {"epochs": 0}
    return {
        "epochs": len(epochs),
        "dev_wer": min(row["dev_wer"] for row in epochs),
        "final_loss": epochs[-1]["loss"],
        "training_seconds": round(sum(row["seconds"] for row in epochs), 2),
        "audio_s_per_s": round(median(row["audio_s_per_s"] for row in epochs), 1),
    }


def calibration_figures(calibration: Calibration) -> dict[str, Any]:
    """The calibration as it is."""
    return asdict(calibration)


def calibration_charts(model: CalibratedModel) -> dict[str, str]:
    """Reliability diagram and risk-coverage curve, out of fold on dev clips as recorded, as Markdown images."""
    captions = {RELIABILITY: "confidence against share entirely right", RISK_COVERAGE: "WER against clips accepted"}
    return {Path(name).stem: as_markdown_image(model.charts[name], caption) for name, caption in captions.items()}


def held_out_figures(judgement: HeldOut) -> dict[str, Any]:
    """How far the confidence can be trusted on the suite's speakers."""
    on = ("suite", "clips", "speakers")
    shown = ("sweep_calibration_error", "expected_calibration_error", "calibration_error_by_chance", "auc", "aurc")
    cut = ("wer_at_80_coverage", "wer_cut_at_80_coverage", "wer_cut_at_80_coverage_low", "wer_cut_at_80_coverage_high")
    return {f"confidence_{name}": getattr(judgement, name) for name in (*on, *shown, *cut)}


def report_figures(assessment: Assessment) -> dict[str, Any]:
    """Overall figures, the WER of each condition, the difference from the live model, the slowest device class."""
    report, slowest = assessment.report, worst(assessment.latency)
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
        **_live_figures(assessment.against_live),
        "slices_too_small": sum(bool(assessment.minimum.missing(part)) for part in report.parts),
        "latency_p50_ms": report.latency.p50_ms,
        "latency_p95_ms": report.latency.p95_ms,
        "latency_p95_ms_slowest_class": slowest.p95_ms,
        "latency_slowest_class": f"{slowest.device_class} ({slowest.source}: {slowest.measured_on})",
    }


def report_tables(assessment: Assessment) -> dict[str, str]:
    """Markdown by name: slices with coverage, worst words, the live model beside it, latency, and the charts."""
    report, against = assessment.report, assessment.against_live
    pictures = {name: as_markdown_image(png, CAPTIONS[name]) for name, png in assessment.charts.items()}
    refused = "".join(f"\n\nRefused: {line}." for line in assessment.lab_refused)
    return {
        "slices": slice_table(report, assessment.minimum),
        "worst_words": words_table(report.overall.worst_words),
        "against_live": comparison_table(against.comparison) if against.comparison else f"{against.reason}.",
        "latency_by_device_class": latency_table(assessment.latency) + refused,
        **{name.removesuffix(".png"): picture for name, picture in pictures.items()},
    }


def _live_figures(against: AgainstLive) -> dict[str, Any]:
    if against.comparison is None:
        return {"live_model": against.reason}
    overall = against.comparison.overall
    return {
        "live_model": f"{against.comparison.baseline_model_version} ({against.comparison.baseline_variant})",
        "wer_difference_from_live": overall.difference.value,
        "wer_difference_low": overall.difference.low,
        "wer_difference_high": overall.difference.high,
        "probability_worse_than_live": overall.probability_worse,
    }


def findings_table(findings: Sequence[Finding]) -> str:
    """Findings as a Markdown table, failures marked."""
    lines = [f"| {'ok' if f.passed else '**failed**'} | {f.name} | {f.detail.replace('|', '/')} |" for f in findings]
    return "\n".join(["| | check | found |", "|---|---|---|", *lines])
