"""Equalised channels: the same network, but one step size fits all of a tensor's channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from voice_pipeline.packaging import quantise as quantising
from voice_pipeline.packaging.equalisation import equalised
from voice_pipeline.packaging.export import onnx_bytes
from voice_pipeline.packaging.graph import QuantisedNodes, quantisable_nodes, simplified
from voice_pipeline.packaging.quantise import Heard, make_candidates
from voice_pipeline_tests.packaging.small_models import network

LOUD = 300.0


def waveforms(count: int) -> list[NDArray[np.float32]]:
    random = np.random.default_rng(3)
    return [random.normal(0, 0.1, 8_000 + 700 * number).astype(np.float32) for number in range(count)]


def answer(graph: bytes, waveform: NDArray[np.float32], *outputs: str) -> list[NDArray[np.float32]]:
    import onnx
    import onnxruntime

    model = onnx.ModelProto.FromString(graph)
    for name in outputs:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[NDArray[np.float32]] = session.run(
        list(outputs) or None, {session.get_inputs()[0].name: waveform[None]}
    )
    return found


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with a channel hundreds of times louder than its neighbours between each depthwise convolution and
    its pointwise one, and after the first ReLU of each block. It computes what it did without.
    """
    import torch

    model = network(0)
    with torch.no_grad():
        for block in model.encoder.blocks:
            for convolution in block.convolutions:  # type: ignore[union-attr]
                convolution.depthwise.weight[3] *= LOUD
                convolution.pointwise.weight[:, 3] /= LOUD
            first, second = block.convolutions  # type: ignore[union-attr]
            first.normalise.weight[5] *= LOUD
            first.normalise.bias[5] *= LOUD
            second.depthwise.weight[5] /= LOUD
    folder = tmp_path_factory.mktemp("uneven")
    (folder / "float.onnx").write_bytes(onnx_bytes(model))
    (folder / "simplified.onnx").write_bytes(simplified(folder / "float.onnx"))
    return folder / "simplified.onnx"


def test_an_equalised_network_computes_what_it_did(uneven: Path) -> None:
    graph = equalised(uneven, waveforms(3), quantisable_nodes(uneven))
    heard = np.random.default_rng(9).normal(0, 0.2, 21_000).astype(np.float32)
    assert np.abs(answer(graph, heard)[0] - answer(uneven.read_bytes(), heard)[0]).max() < 1e-3
    assert graph != uneven.read_bytes()


def test_no_channel_is_much_louder_than_its_neighbours(uneven: Path) -> None:
    heard = waveforms(3)
    graph = equalised(uneven, heard, quantisable_nodes(uneven))
    names = [f"/encoder/blocks.{n}/convolutions.{m}/depthwise/Conv_output_0" for n in (0, 1) for m in (0, 1)]
    names += [f"/encoder/blocks.{n}/Relu_output_0" for n in (0, 1)]
    for name, before, after in zip(
        names, answer(uneven.read_bytes(), heard[0], *names), answer(graph, heard[0], *names), strict=True
    ):
        assert spread(after) < spread(before) / 2, name


def spread(values: NDArray[np.float32]) -> float:
    """How much louder than the median channel the loudest one is."""
    peaks = np.abs(values).max(axis=(0, 2, 3))
    return float(peaks.max() / np.median(peaks))


def test_int8_answers_come_near_the_float_ones_where_one_channel_is_loud(
    uneven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = np.random.default_rng(5).normal(0, 0.1, 16_000).astype(np.float32)
    clips = [Heard("", waveform) for waveform in waveforms(8)]
    expected = answer(uneven.read_bytes(), heard)[0]

    def error(folder: Path) -> float:
        folder.mkdir()
        files = make_candidates(uneven, clips, folder)
        return float(np.abs(answer(files["static-qdq"].read_bytes(), heard)[0] - expected).mean())

    with_it = error(tmp_path / "with")
    monkeypatch.setattr(quantising, "equalised", lambda source, *_: source.read_bytes())
    assert with_it < 0.3 * error(tmp_path / "without")


def chain(second_reader: bool = False, shared: bool = False, mute: int = 0) -> bytes:
    """waveform (1, N) → two pointwise convolutions `a`, `b` of three channels; the tensor between them may be read by
    an addition too, both convolutions may have the same weights, and `mute` channels between them may be silent.
    """
    import onnx
    from onnx import helper, numpy_helper

    random = np.random.default_rng(1)
    constants: dict[str, NDArray[Any]] = {
        "spread": np.array([1, 3, 1, 4], np.int64),
        "uneven": np.array([100, 1, 0.1], np.float32).reshape(1, 3, 1, 1),
        "a.weight": random.normal(size=(3, 3, 1, 1)).astype(np.float32),
        "b.weight": random.normal(size=(3, 3, 1, 1)).astype(np.float32),
    }
    constants["a.weight"][:mute] = 0
    nodes = [
        helper.make_node("Reshape", ["waveform", "spread"], ["folded"], "fold"),
        helper.make_node("Mul", ["folded", "uneven"], ["x"], "unbalance"),
        helper.make_node("Conv", ["x", "a.weight"], ["y"], "a"),
        helper.make_node("Conv", ["y", "a.weight" if shared else "b.weight"], ["z"], "b"),
        helper.make_node("Add", ["z", "y" if second_reader else "z"], ["sum"], "add"),
    ]
    inputs = [helper.make_tensor_value_info("waveform", onnx.TensorProto.FLOAT, [1, 12])]
    outputs = [helper.make_tensor_value_info("sum", onnx.TensorProto.FLOAT, None)]
    initialisers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "chain", inputs, outputs, initialisers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(("second_reader", "shared"), [(False, False), (True, False), (False, True)])
def test_a_tensor_or_weights_that_another_node_reads_stay_as_they_are(
    second_reader: bool, shared: bool, tmp_path: Path
) -> None:
    source = tmp_path / "chain.onnx"
    source.write_bytes(chain(second_reader, shared))
    heard = np.random.default_rng(2).normal(size=12).astype(np.float32)
    graph = equalised(source, [heard], QuantisedNodes((), ("a", "b")))
    before, after = answer(source.read_bytes(), heard)[0], answer(graph, heard)[0]
    assert np.allclose(before, after, rtol=1e-4)
    old, new = (answer(one, heard, "y")[0] for one in (source.read_bytes(), graph))
    assert np.allclose(old, new) == (second_reader or shared), "only what nobody else reads is scaled"


@pytest.mark.parametrize("mute", [0, 1, 3])
def test_channels_that_were_never_heard_leave_finite_weights(mute: int, tmp_path: Path) -> None:
    source = tmp_path / "chain.onnx"
    source.write_bytes(chain(mute=mute))
    heard = np.random.default_rng(2).normal(size=12).astype(np.float32)
    for calibration in (heard, np.zeros_like(heard)):
        graph = equalised(source, [calibration], QuantisedNodes((), ("a", "b")))
        assert np.allclose(answer(graph, heard)[0], answer(source.read_bytes(), heard)[0], rtol=1e-4, atol=1e-6)
