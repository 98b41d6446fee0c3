"""Reliability diagram and risk-coverage curve as PNG, for the asset's page and the files beside the checkpoint."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from voice_pipeline.stats.calibration import reliability
from voice_pipeline.stats.selective import risk_coverage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_COVERAGE = 0.8


def reliability_png(confidences: ArrayLike, right: ArrayLike) -> bytes:
    """Share of right answers against mean confidence, ten bins of equal count, as PNG. Arguments as `reliability`."""
    figure = _figure()
    axis = figure.subplots()
    bins = reliability(confidences, right)
    axis.plot([0, 1], [0, 1], color="grey", linestyle="--", label="calibrated")
    sure, true = [one.confidence for one in bins], [one.right for one in bins]
    axis.plot(sure, true, color="tab:blue", marker="o", markersize=4, label=f"{sum(one.count for one in bins)} clips")
    axis.set(xlabel="confidence", ylabel="share entirely right", xlim=(0, 1), ylim=(-0.02, 1.02))
    axis.legend(loc="upper left")
    axis.grid(alpha=0.3)
    return _png(figure)


def risk_coverage_png(confidences: ArrayLike, errors: ArrayLike, words: ArrayLike) -> bytes:
    """Word error rate of the surest clips against their share, as PNG. Arguments as `risk_coverage`."""
    curve = risk_coverage(confidences, errors, words)
    figure = _figure()
    axis = figure.subplots()
    axis.plot([100 * c for c in curve.coverage], [100 * r for r in curve.risk], color="tab:blue", label="by confidence")
    axis.axhline(100 * curve.risk[-1], color="grey", linestyle="--", label="accepting all")
    axis.plot(100 * SHOWN_COVERAGE, 100 * curve.risk_at(SHOWN_COVERAGE), color="tab:orange", marker="o")
    axis.set(xlabel="clips accepted, %", ylabel="WER of accepted clips, %", xlim=(0, 100))
    axis.set_ylim(bottom=0)
    axis.legend(loc="upper left")
    axis.grid(alpha=0.3)
    return _png(figure)


def _figure() -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(4.8, 3.2), dpi=110, layout="constrained")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
