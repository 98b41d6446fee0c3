"""Learning curves as a PNG inside Markdown, so that the asset's page shows them without another server."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any


def learning_curve_png(epochs: Sequence[Mapping[str, Any]]) -> bytes:
    """Training loss and dev WER by epoch, as PNG. `epochs` have `epoch`, `loss` and `dev_wer` (fraction or None)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2), dpi=110, layout="constrained")
    loss_axis = figure.subplots()
    numbers = [row["epoch"] for row in epochs]
    loss_axis.plot(numbers, [row["loss"] for row in epochs], color="tab:blue", label="training loss")
    loss_axis.set_xlabel("epoch")
    loss_axis.set_ylabel("CTC loss", color="tab:blue")
    judged = [(row["epoch"], 100 * row["dev_wer"]) for row in epochs if row.get("dev_wer") is not None]
    if judged:
        wer_axis = loss_axis.twinx()
        wer_axis.plot(*zip(*judged, strict=True), color="tab:orange", marker="o", markersize=3)
        wer_axis.set_ylabel("dev WER, %", color="tab:orange")
        wer_axis.set_ylim(bottom=0)
    loss_axis.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def as_markdown_image(png: bytes, caption: str) -> str:
    """A Markdown image with the PNG inside as a data URI."""
    return f"![{caption}](data:image/png;base64,{base64.b64encode(png).decode()})"
