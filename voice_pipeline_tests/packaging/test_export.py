"""The exported graph is the network: same answers at any length, same bytes from the same checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.packaging.errors import ExportMismatchError, MissingInputError
from voice_pipeline.packaging.export import export, exported, float_model_path, largest_error, onnx_bytes
from voice_pipeline.store.store import Store
from voice_pipeline_tests.packaging.small_models import network, write_checkpoint

MODEL = "m-20261102-0000000a"


@pytest.fixture(scope="module")
def graph() -> bytes:
    return onnx_bytes(network(0))


@pytest.fixture(scope="module")
def session(graph: bytes):  # type: ignore[no-untyped-def]
    import onnxruntime

    return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


@settings(max_examples=25, deadline=None)
@given(samples=st.integers(1_600, 100_000), loudness=st.floats(1e-4, 1.0), seed=st.integers(0, 99))
def test_graph_gives_the_networks_answer_at_any_length_and_loudness(session, samples, loudness, seed) -> None:  # type: ignore[no-untyped-def]
    import torch

    waveform = (np.random.default_rng(seed).normal(0, loudness, (1, samples))).astype(np.float32)
    found = session.run(None, {"waveform": waveform})[0]
    with torch.inference_mode():
        expected = network(0)(torch.from_numpy(waveform)).numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-3


def test_graph_has_opset_18_and_one_named_input_and_output(graph: bytes) -> None:
    import onnx

    model = onnx.load_from_string(graph)
    onnx.checker.check_model(model)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert [value.name for value in model.graph.input] == ["waveform"]
    assert [value.name for value in model.graph.output] == ["log_probs"]


def test_same_weights_give_the_same_bytes(graph: bytes) -> None:
    assert onnx_bytes(network(0)) == graph
    assert onnx_bytes(network(1)) != graph


def test_graph_of_other_weights_is_refused(graph: bytes) -> None:
    with pytest.raises(ExportMismatchError, match=MODEL):
        largest_error(network(1), graph, MODEL)


def test_export_is_kept_while_the_checkpoint_is_the_same_and_redone_when_the_file_was_changed(store: Store) -> None:
    write_checkpoint(store.settings.models / MODEL / "checkpoint", seed=0)
    first = export(store, MODEL)
    assert export(store, MODEL) == first  # seconds would differ if it had been redone
    path = float_model_path(store, MODEL)
    path.write_bytes(path.read_bytes()[:-1])
    assert exported(store, MODEL) is None
    assert export(store, MODEL).sha256 == first.sha256


def test_missing_and_damaged_checkpoints_are_refused_and_leave_nothing(store: Store) -> None:
    with pytest.raises(MissingInputError, match="acoustic_model"):
        export(store, MODEL)
    folder = store.settings.models / MODEL / "checkpoint"
    write_checkpoint(folder, seed=0)
    (folder / "model.pt").write_bytes((folder / "model.pt").read_bytes()[:1000])
    with pytest.raises(MissingInputError, match="damaged"):
        export(store, MODEL)
    assert not float_model_path(store, MODEL).exists()
