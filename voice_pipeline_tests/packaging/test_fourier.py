"""The Fourier kernels are told by how they are made, and come out as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from voice_pipeline.packaging.export import onnx_bytes
from voice_pipeline.packaging.fourier import compact
from voice_pipeline.packaging.graph import ort_bytes, simplified
from voice_pipeline_tests.packaging.small_models import network

TABLE_BYTES = 514 * 400 * 4


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with its table of kernels."""
    folder = tmp_path_factory.mktemp("fourier")
    (folder / "float.onnx").write_bytes(onnx_bytes(network(0)))
    (folder / "simple.onnx").write_bytes(simplified(folder / "float.onnx"))
    return folder / "simple.onnx"


def answers(graph: bytes, samples: int, level: onnxruntime.GraphOptimizationLevel) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    waveform = np.random.default_rng(samples).normal(0, 0.1, (1, samples)).astype(np.float32)
    return np.asarray(session.run(None, {"waveform": waveform})[0])


def test_nearly_all_of_the_table_is_gone_from_both_forms(source: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.onnx"
    small.write_bytes(compact(source))
    assert source.stat().st_size - small.stat().st_size > 0.97 * TABLE_BYTES
    assert len(ort_bytes(source)) - len(ort_bytes(small)) > 0.97 * TABLE_BYTES


@pytest.mark.parametrize("samples", [4_800, 16_000, 48_123])
@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
def test_the_graph_computes_the_very_same(source: Path, samples: int, level: str) -> None:
    """Not nearly the same: one other rounding can change an int8 activation, and with it a word."""
    found = [answers(graph, samples, getattr(onnxruntime.GraphOptimizationLevel, level)) for graph in (
        source.read_bytes(), compact(source)
    )]  # fmt: skip
    assert np.array_equal(*found)


def test_a_table_of_other_kernels_is_left_as_it_is(source: Path, tmp_path: Path) -> None:
    model = onnx.load(str(source))
    table = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [514, 1, 400])
    other = numpy_helper.to_array(table).copy()
    other[3, 0, 200] += 1e-6
    table.CopyFrom(numpy_helper.from_array(other, table.name))
    (tmp_path / "other.onnx").write_bytes(model.SerializeToString())
    assert len(compact(tmp_path / "other.onnx")) > TABLE_BYTES


def test_operator_sets_that_nothing_uses_are_not_asked_for(source: Path) -> None:
    """ONNX Runtime 1.17 refuses a graph that names a later version of a set that it does not even need."""
    model = onnx.load(str(source))
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 5))
    path = source.with_name("imports.onnx")
    path.write_bytes(model.SerializeToString())
    imported = {(one.domain, one.version) for one in onnx.load_from_string(compact(path)).opset_import}
    assert imported == {("", 18)}


def test_the_same_graph_gives_the_same_bytes(source: Path) -> None:
    assert compact(source) == compact(source)
