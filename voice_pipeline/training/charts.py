"""Learning curves as PNG, and any PNG inside Markdown, so that the asset's page shows it without another server."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voice_pipeline.evaluation.charts import as_markdown_image, as_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOCAL_IMAGE = re.compile(r"!\[(?P<caption>[^\]]*)\]\((?P<path>[\w/]+\.png)\)")
PACE = (("learning_rate", "learning rate", "tab:green"), ("audio_s_per_s", "audio seconds a second", "tab:purple"))


def learning_curve_png(epochs: Sequence[Mapping[str, Any]]) -> bytes:
    """Training loss and dev WER by epoch, below it learning rate and throughput where they were told, as PNG.

    Args:
        epochs: with `epoch`, `loss` and `dev_wer` (fraction or None), and `learning_rate`, `audio_s_per_s` if known.
    """
    from matplotlib.figure import Figure

    pace = [(key, label, colour) for key, label, colour in PACE if any(row.get(key) is not None for row in epochs)]
    figure = Figure(figsize=(6.4, 4.4 if pace else 3.2), dpi=110, layout="constrained")
    grid = figure.subplots(2 if pace else 1, squeeze=False, sharex=True, height_ratios=[2, 1] if pace else [1])
    loss_axis = grid[0][0]
    _line(loss_axis, epochs, "loss", "CTC loss", "tab:blue")
    if any(row.get("dev_wer") is not None for row in epochs):
        wer_axis = loss_axis.twinx()
        in_percent = [{**row, "dev_wer": 100 * row["dev_wer"]} for row in epochs if row.get("dev_wer") is not None]
        _line(wer_axis, in_percent, "dev_wer", "dev WER, %", "tab:orange", marker="o")
        wer_axis.set_ylim(bottom=0)
    for number, (key, label, colour) in enumerate(pace):
        axis = grid[1][0] if number == 0 else grid[1][0].twinx()
        _line(axis, epochs, key, label, colour)
        axis.set_ylim(bottom=0)
    grid[-1][0].set_xlabel("epoch")
    loss_axis.grid(alpha=0.3)
    return as_png(figure)


def with_charts_inside(card: Path) -> str:
    """The Markdown file `card` with each PNG beside it that it shows put inside; one that is not there stays a link."""

    def inside(match: re.Match[str]) -> str:
        picture = card.parent / match["path"]
        return as_markdown_image(picture.read_bytes(), match["caption"]) if picture.is_file() else match[0]

    return LOCAL_IMAGE.sub(inside, card.read_text())


def _line(axis: Axes, epochs: Sequence[Mapping[str, Any]], key: str, label: str, colour: str, marker: str = "") -> None:
    told = [row for row in epochs if row.get(key) is not None]
    axis.plot([row["epoch"] for row in told], [row[key] for row in told], color=colour, marker=marker, markersize=3)
    axis.set_ylabel(label, color=colour, fontsize=8)
