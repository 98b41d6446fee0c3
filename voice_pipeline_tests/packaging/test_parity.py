"""Parity is 1 with itself, and falls where frames and texts differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from voice_pipeline.packaging.errors import ExportMismatchError
from voice_pipeline.packaging.export import onnx_bytes
from voice_pipeline.packaging.golden import golden_vectors
from voice_pipeline.packaging.graph import ort_bytes
from voice_pipeline.packaging.parity import parity
from voice_pipeline.speech.recogniser import OnnxRecogniser, padded
from voice_pipeline.speech.tokenizer import CharTokenizer
from voice_pipeline_tests.packaging.small_models import network

CLIPS = [np.random.default_rng(n).normal(0, 0.1, 3_000 + 9_000 * n).astype(np.float32) for n in range(4)]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("networks")
    paths = [folder / f"{seed}.onnx" for seed in (0, 1)]
    for seed, path in enumerate(paths):
        path.write_bytes(onnx_bytes(network(seed)))
    return paths


def test_a_network_is_at_parity_with_itself(networks: list[Path]) -> None:
    found = parity(networks[0], networks[0], CharTokenizer(), CLIPS)
    assert (found.clips, found.frames_alike, found.texts_alike) == (len(CLIPS), 1.0, 1.0)
    assert found.log_probs_mean_difference == 0


def test_shares_are_those_of_frames_and_of_clips(networks: list[Path]) -> None:
    tokenizer = CharTokenizer()
    found = parity(*networks, tokenizer, CLIPS)
    first, second = (OnnxRecogniser(path, tokenizer) for path in networks)
    pairs = [(first.log_probs(padded(clip)), second.log_probs(padded(clip))) for clip in CLIPS]
    alike = np.concatenate([a.argmax(axis=1) == b.argmax(axis=1) for a, b in pairs])
    assert found.frames_alike == pytest.approx(alike.mean())
    assert found.frames_alike < 1
    same = [first.transcribe(clip).text == second.transcribe(clip).text for clip in CLIPS]
    assert found.texts_alike == pytest.approx(np.mean(same))
    assert found.log_probs_mean_difference > 0


def test_a_flat_form_of_another_network_is_not_shipped(networks: list[Path], tmp_path: Path) -> None:
    """Suites are heard with `model.onnx`: a device with the other form must run the same."""
    (tmp_path / "tokenizer.json").write_text(CharTokenizer().to_json())
    (tmp_path / "model.onnx").write_bytes(networks[0].read_bytes())
    (tmp_path / "model.ort").write_bytes(ort_bytes(networks[0]))
    assert golden_vectors(tmp_path)
    (tmp_path / "model.ort").write_bytes(ort_bytes(networks[1]))
    with pytest.raises(ExportMismatchError, match="do not ship it"):
        golden_vectors(tmp_path)
