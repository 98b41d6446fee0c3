"""Evaluation records as PNG charts: WER by slice with intervals, what kinds of errors, difference from another model.

Pure: the same records give the same bytes. Slices with less material than the minimum are hollow and grey.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voice_pipeline.schema.evaluation import Comparison
from voice_pipeline.schema.training import EvaluationReport, Interval, SliceMinimum, SliceResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN, ROW_IN, FRAME_IN, DPI = 7.2, 0.24, 0.9, 90
MOST_ROWS = 40
KINDS = (("substitutions", "tab:blue"), ("deletions", "tab:orange"), ("insertions", "tab:green"))


@dataclass(frozen=True)
class Row:
    """One line of a forest plot: an estimate with its interval (fractions), and whether it rests on enough material."""

    label: str
    interval: Interval
    thin: bool


def slices_png(report: EvaluationReport, minimum: SliceMinimum) -> bytes:
    """WER of every slice with its 95 % interval over speakers."""
    rows = [
        Row(f"{part.slice}  ({part.clips} clips, {part.speakers} sp.)", part.wer, bool(minimum.missing(part)))
        for part in _shown(report)
    ]
    return _forest(rows, "WER, % (95 % interval over speakers; hollow: too little material)", zero_line=False)


def difference_png(comparison: Comparison, report: EvaluationReport, minimum: SliceMinimum) -> bytes:
    """WER of the compared model minus the baseline's by slice, in percentage points; left of the line is better."""
    thin = {part.slice for part in report.parts if minimum.missing(part)}
    parts = (comparison.overall, *comparison.slices)[:MOST_ROWS]
    rows = [Row(f"{part.slice}  ({part.clips} clips)", part.difference, part.slice in thin) for part in parts]
    title = f"WER {comparison.model_version} - {comparison.baseline_model_version}, percentage points (95 %)"
    return _forest(rows, title, zero_line=True)


def errors_png(report: EvaluationReport) -> bytes:
    """Substitutions, deletions and insertions of every slice, in percent of its reference words."""
    parts = _shown(report)
    figure, axis = _canvas([part.slice for part in parts])
    left = [0.0] * len(parts)
    for kind, colour in KINDS:
        widths = [100 * getattr(part, kind) / max(part.words, 1) for part in parts]
        axis.barh(range(len(parts)), widths, left=left, color=colour, label=kind, height=0.7)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axis.set_xlabel("errors, % of words", fontsize=8)
    figure.legend(fontsize=7, ncols=3, loc="outside upper right")
    return as_png(figure)


def as_png(figure: Figure) -> bytes:
    """The figure as PNG, without anything that differs from run to run."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def as_markdown_image(png: bytes, caption: str) -> str:
    """A Markdown image with the PNG inside as a data URI, so that the asset's page shows it without another server."""
    return f"![{caption}](data:image/png;base64,{base64.b64encode(png).decode()})"


def _forest(rows: Sequence[Row], title: str, zero_line: bool) -> bytes:
    figure, axis = _canvas([row.label for row in rows])
    for height, row in enumerate(rows):
        low, value, high = (100 * end for end in (row.interval.low, row.interval.value, row.interval.high))
        colour = "0.6" if row.thin else "tab:blue"
        axis.plot([low, high], [height, height], color=colour, linewidth=1.5)
        axis.plot(value, height, "o", color=colour, markerfacecolor="white" if row.thin else colour, markersize=5)
    if zero_line:
        axis.axvline(0, color="0.3", linewidth=1)
    else:
        axis.set_xlim(left=0)
    axis.set_xlabel(title, fontsize=8)
    return as_png(figure)


def _canvas(labels: Sequence[str]) -> tuple[Figure, Axes]:
    """An empty chart with one horizontal line a label, the first at the top."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, FRAME_IN + ROW_IN * len(labels)), dpi=DPI, layout="constrained")
    axis = figure.subplots()
    axis.set_yticks(range(len(labels)), labels=[label.replace("$", r"\$") for label in labels], fontsize=7)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.tick_params(axis="x", labelsize=7)
    axis.grid(axis="x", alpha=0.3)
    return figure, axis


def _shown(report: EvaluationReport) -> list[SliceResult]:
    """Overall and the slices in name order; of very many those with most words."""
    kept = sorted(report.slices, key=lambda part: (-part.words, part.slice))[: MOST_ROWS - 1]
    return [report.overall, *sorted(kept, key=lambda part: part.slice)]
