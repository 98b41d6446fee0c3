"""What there is to say about a model once it was heard: its report, the live model beside it, latency, charts.

Everything is derived from stored reports, so asking again costs no hearing and gives the same answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from voice_pipeline.evaluation.charts import difference_png, errors_png, slices_png
from voice_pipeline.evaluation.latency import model_latency
from voice_pipeline.evaluation.paired import AgainstLive, compare_with_live
from voice_pipeline.schema.dataset import EvalSuite
from voice_pipeline.schema.evaluation import ClassLatency, Comparison
from voice_pipeline.schema.training import EvaluationReport, SliceMinimum
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.store import Store

CHARTS = "charts"
SLICES, ERRORS, DIFFERENCE = "wer_by_slice.png", "error_mix.png", "difference_from_live.png"
CAPTIONS = {
    SLICES: "WER by slice, 95 % intervals over speakers",
    ERRORS: "Substitutions, deletions and insertions by slice",
    DIFFERENCE: "WER difference from the live model by slice, paired 95 % intervals",
}


@dataclass(frozen=True)
class Assessment:
    """`charts` are PNGs by file name; `lab_refused` has one line for each device-lab report that does not count."""

    report: EvaluationReport
    minimum: SliceMinimum
    against_live: AgainstLive
    latency: tuple[ClassLatency, ...]
    lab_refused: tuple[str, ...]
    charts: dict[str, bytes]


def assess(store: Store, report: EvaluationReport, suite: EvalSuite, minimum: SliceMinimum) -> Assessment:
    """Compare `report` with the live model (which is heard on `suite` if need be), gather latency, draw the charts."""
    against_live = compare_with_live(store, report, suite)
    latency, lab = model_latency(store, report)
    return Assessment(
        report=report,
        minimum=minimum,
        against_live=against_live,
        latency=latency,
        lab_refused=lab.refused,
        charts=_charts(report, against_live.comparison, minimum),
    )


def write_charts(store: Store, assessment: Assessment) -> list[Path]:
    """Keep the charts in the model's folder, where the model card's links find them; returns the files."""
    folder = store.settings.models / assessment.report.model_version / CHARTS
    (folder / DIFFERENCE).unlink(missing_ok=True)  # of a live model that is none any more
    files = []
    for name, png in assessment.charts.items():
        write_atomically(folder / name, png)
        files.append(folder / name)
    return files


def _charts(report: EvaluationReport, comparison: Comparison | None, minimum: SliceMinimum) -> dict[str, bytes]:
    charts = {SLICES: slices_png(report, minimum), ERRORS: errors_png(report)}
    if comparison is not None:
        charts[DIFFERENCE] = difference_png(comparison, report, minimum)
    return charts
