"""The learning curve is a picture, and lies inside its Markdown."""

from __future__ import annotations

import base64

import pytest

from voice_pipeline.evaluation.charts import as_markdown_image
from voice_pipeline.training.charts import learning_curve_png


@pytest.mark.parametrize("dev", [0.5, None])
def test_a_curve_is_drawn_with_and_without_dev_wer(dev: float | None) -> None:
    png = learning_curve_png([{"epoch": n, "loss": 3.0 / n, "dev_wer": dev} for n in (1, 2, 3)])
    assert png.startswith(b"\x89PNG")
    assert png == learning_curve_png([{"epoch": n, "loss": 3.0 / n, "dev_wer": dev} for n in (1, 2, 3)])
    text = as_markdown_image(png, "curve")
    assert base64.b64decode(text.split("base64,")[1].removesuffix(")")) == png


def test_a_run_without_epochs_is_an_empty_picture() -> None:
    assert learning_curve_png([]).startswith(b"\x89PNG")
