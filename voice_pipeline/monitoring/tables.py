"""Reports as Markdown tables, for the asset pages of the Dagster UI."""

from __future__ import annotations

from collections.abc import Sequence

from voice_pipeline.monitoring.concept import ConceptReport
from voice_pipeline.monitoring.drift import DriftReport
from voice_pipeline.monitoring.quality import QualityReport
from voice_pipeline.monitoring.windows import EVERYONE
from voice_pipeline.schema.training import Interval


def drift_table(report: DriftReport) -> str:
    """Findings over everyone, the largest PSI first."""
    rows = [
        [f.feature, f"{f.psi:.3f}", f"{f.ks:.3f}", f"{f.js:.3f}", f"{f.q_value:.1e}", "yes" if f.drifted else ""]
        for f in sorted(report.of(EVERYONE), key=lambda finding: -finding.psi)
    ]
    return _table(["feature", "PSI", "KS", "JS", "q", "drifted"], rows) if rows else report.note or report.status.value


def concept_table(report: ConceptReport) -> str:
    """The two periods side by side."""
    rows = [
        ["corrected words", _share(report.baseline_rate), _share(report.period_rate)],
        ["calibration error", _share(report.baseline_calibration_error), _share(report.period_calibration_error)],
        ["events", str(report.baseline_events), str(report.period_events)],
    ]
    if report.audited is not None:
        rows.append(["WER (evaluated, audited)", _share(report.audited.evaluated_wer), _interval(report.audited.wer)])
    rise = f"\n\nrise: {_interval(report.rise)}" if report.rise else ""
    return _table(["", "first events", report.day], rows) + rise


def quality_table(report: QualityReport) -> str:
    """One row a model version."""
    rows = [
        [
            model.model_version,
            str(model.events),
            str(model.devices),
            _interval(model.correction_rate),
            _interval(model.crash_rate),
            f"{model.latency_p50_ms:.0f} / {model.latency_p95_ms:.0f}",
            f"{model.mean_confidence:.2f}",
        ]
        for model in report.models
    ]
    heads = ["model", "events", "devices", "corrected words", "crashes", "latency p50 / p95 ms", "confidence"]
    return _table(heads, rows) if rows else "no telemetry"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _interval(interval: Interval | None) -> str:
    return "–" if interval is None else f"{interval.value:.1%} ({interval.low:.1%} to {interval.high:.1%})"
