"""Confidence and recognisers: calibrated, restored exactly, and refused by name where a file is damaged."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from voice_pipeline.speech.confidence import INPUT_NAMES, NETWORK_LOG_ODDS, ConfidenceModel, inputs, scalars
from voice_pipeline.speech.encoder import AcousticModel
from voice_pipeline.speech.errors import EmptyAudioError, ModelFileError
from voice_pipeline.speech.recogniser import CONFIG, TOKENIZER, WEIGHTS, OnnxRecogniser, TorchRecogniser
from voice_pipeline.speech.shape import EncoderConfig
from voice_pipeline.speech.tokenizer import CharTokenizer
from voice_pipeline_tests.speech.test_confidence import drawn
from voice_pipeline_tests.speech.test_measures import bursts

SHAPE = EncoderConfig(channels=8, kernels=(3,), stride=4)


def saved(thing: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    from voice_pipeline.schema.training import Hyperparameters, TrainingSpec
    from voice_pipeline.training.checkpoints import write_checkpoint

    torch.manual_seed(0)
    spec = TrainingSpec(
        dataset_version="ds-0",
        feature_schema_version="f",
        code_commit="c",
        lock_digest="l",
        hyperparameters=Hyperparameters(),
        seed=0,
    )
    return write_checkpoint(tmp_path, spec, SHAPE, CharTokenizer(), AcousticModel(SHAPE).state_dict())


def test_a_checkpoint_recognises_and_its_inputs_are_finite(checkpoint: Path) -> None:
    heard = TorchRecogniser.load(checkpoint).transcribe(bursts())
    assert heard.text == " ".join(word.text for word in heard.words)
    found = inputs(heard.text, scalars(heard.posteriors), asdict(heard.measures), ())
    assert set(found) == {*INPUT_NAMES, NETWORK_LOG_ODDS}
    assert np.isfinite(list(found.values())).all()
    assert heard.measures.duration_s == 2
    calibrated = TorchRecogniser.load(checkpoint, ConfidenceModel.fit(*drawn(50))).transcribe(bursts())
    assert (calibrated.text, calibrated.log_probs_mean) == (heard.text, heard.log_probs_mean)
    assert calibrated.confidence != heard.confidence


def test_one_sample_is_enough_and_none_is_not(checkpoint: Path) -> None:
    recogniser = TorchRecogniser.load(checkpoint)
    recogniser.transcribe(np.zeros(1, dtype=np.float32))
    with pytest.raises(EmptyAudioError):
        recogniser.transcribe(np.zeros(0, dtype=np.float32))


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, TOKENIZER])
@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_a_damaged_checkpoint_is_refused_by_name(checkpoint: Path, name: str, damage: str) -> None:
    path = checkpoint / name
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    if damage == "other":
        path.write_bytes(b'{"something": "else"}')
    with pytest.raises(ModelFileError, match="checkpoint"):
        TorchRecogniser.load(checkpoint)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300))
@example(content=b".")  # IndexError in PyTorch's unpickler
@example(content=b"G.")  # struct.error
@example(content=saved({5: 1}))  # AttributeError: no name of a weight
def test_any_bytes_in_place_of_the_weights_are_refused_by_name(checkpoint: Path, content: bytes) -> None:
    (checkpoint / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelFileError, match="checkpoint"):
        TorchRecogniser.load(checkpoint)


def test_a_file_that_is_no_network_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no network")
    with pytest.raises(ModelFileError, match=r"model\.onnx"):
        OnnxRecogniser(path, CharTokenizer())
