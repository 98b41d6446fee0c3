"""Reading and rewriting ONNX graphs: which nodes may be int8, weights as int8, and the flat `.ort` form."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnxruntime


@dataclass(frozen=True)
class QuantisedNodes:
    """Names of the convolutions that may be int8: `depthwise` (one channel a group) and `dense` (all others)."""

    depthwise: tuple[str, ...]
    dense: tuple[str, ...]


def quantisable_nodes(source: Path) -> QuantisedNodes:
    """Convolutions of the encoder: not the Fourier convolution, not the first one of the stem, not
    squeeze-and-excitation, not the head.

    The Fourier convolution reads the waveform itself (rank 3 weights), the first one of the stem the features (one
    input channel, a hundred weights), squeeze-and-excitation hangs on a mean over time, and the head feeds the softmax.
    """
    import onnx

    graph = onnx.load(str(source)).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    consumers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    depthwise: list[str] = []
    dense: list[str] = []
    for node in graph.node:
        if node.op_type != "Conv" or len(shapes.get(node.input[1], ())) != 4:
            continue
        if _on_pooled(node, producers) or _leads_to_softmax(node, consumers):
            continue
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        if groups == 1 and shapes[node.input[1]][1] == 1:
            continue
        (depthwise if groups > 1 else dense).append(node.name)
    return QuantisedNodes(tuple(depthwise), tuple(dense))


def _on_pooled(node: Any, producers: dict[str, Any]) -> bool:
    """Whether the convolution's input is a mean over time, directly or through an activation and another such node."""
    current = producers.get(node.input[0])
    while current is not None and current.op_type in {"Relu", "Conv"}:
        current = producers.get(current.input[0])
        if current is not None and current.op_type == "ReduceMean":
            return True
    return current is not None and current.op_type == "ReduceMean"


def _leads_to_softmax(node: Any, consumers: dict[str, list[Any]]) -> bool:
    """Whether nothing but reshaping stands between the convolution and the softmax."""
    following = consumers.get(node.output[0], [])
    while len(following) == 1 and following[0].op_type in {"Squeeze", "Transpose", "Cast", "Identity"}:
        following = consumers.get(following[0].output[0], [])
    return any(follower.op_type in {"LogSoftmax", "Softmax"} for follower in following)


def activations_of(source: Path, nodes: Sequence[str]) -> tuple[str, ...]:
    """Names of the ReLUs that read what `nodes` give. Quantised with these, a ReLU costs nothing: the convolution's
    range starts at zero, twice as fine, and there is no second rounding behind it.
    """
    import onnx

    graph = onnx.load(str(source)).graph
    given = {output for node in graph.node if node.name in set(nodes) for output in node.output}
    return tuple(node.name for node in graph.node if node.op_type == "Relu" and node.input[0] in given)


def exact_sums(source: Path) -> bytes:
    """The quantised graph, with each sum that both a convolution and another sum read kept in float for the sum.

    The quantiser rounds a tensor for all its readers as soon as one of them is quantised, so residual blocks would
    round the same sum once more each. What a convolution gave stays as it is: the rounding may be its ReLU.
    """
    import onnx

    model = onnx.load(str(source))
    producers = {output: node for node in model.graph.node for output in node.output}
    for node in [node for node in model.graph.node if node.op_type == "Add"]:
        for index, name in enumerate(node.input):
            dequantise = producers.get(name)
            if dequantise is None or dequantise.op_type != "DequantizeLinear":
                continue
            quantise = producers.get(dequantise.input[0])
            rounded = None if quantise is None else producers.get(quantise.input[0])
            if rounded is not None and rounded.op_type != "Conv":
                node.input[index] = rounded.output[0]
    return bytes(model.SerializeToString())


def weights_to_int8(source: Path, nodes: set[str]) -> bytes:
    """The graph with the weights of `nodes` stored as int8 per output channel, symmetric, dequantised on load."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(source))
    graph = model.graph
    weights = {node.input[1] for node in graph.node if node.name in nodes}
    for tensor in [tensor for tensor in graph.initializer if tensor.name in weights]:
        quantised, scale = symmetric_int8(numpy_helper.to_array(tensor))
        names = [f"{tensor.name}_{part}" for part in ("int8", "scale", "zero")]
        zero = np.zeros(len(scale), np.int8)
        arrays: tuple[NDArray[Any], ...] = (quantised, scale, zero)
        for name, array in zip(names, arrays, strict=True):
            graph.initializer.append(numpy_helper.from_array(array, name))
        graph.initializer.remove(tensor)
        graph.node.insert(
            0, helper.make_node("DequantizeLinear", names, [tensor.name], f"{tensor.name}_dequantise", axis=0)
        )
    return bytes(model.SerializeToString())


def symmetric_int8(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(O, …) float weights → int8 in [-127, 127] of the same shape, and scales (O,): weights ≈ int8 · scale."""
    peaks = np.abs(weights).reshape(len(weights), -1).max(axis=1)
    scale = np.where(peaks > 0, peaks / 127, 1.0).astype(np.float32)
    shaped = scale.reshape(-1, *([1] * (weights.ndim - 1)))
    return np.clip(np.round(weights / shaped), -127, 127).astype(np.int8), scale


def simplified(source: Path) -> bytes:
    """The graph with constants folded and identities removed, nothing specific to this machine; node names are kept."""
    import onnxruntime

    return _saved_by_runtime(source, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC, "ONNX")


def ort_bytes(source: Path) -> bytes:
    """The graph in ONNX Runtime's flat format, optimised without hardware-specific layouts, for minimal runtime builds.

    What `convert_onnx_models_to_ort --optimization_style Fixed` does, without starting a process for it, and without
    folding constants: the Fourier kernels (`fourier`) would be stored as the table that they are not. A runtime that
    does not fold constants either computes them for each utterance (1 ms here).
    """
    import onnxruntime

    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    return _saved_by_runtime(source, level, "ORT", without=("ConstantFolding",))


def _saved_by_runtime(
    source: Path, level: onnxruntime.GraphOptimizationLevel, form: str, without: tuple[str, ...] = ()
) -> bytes:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"model.{form.lower()}"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(target)
        options.add_session_config_entry("session.save_model_format", form)
        providers = ["CPUExecutionProvider"]
        onnxruntime.InferenceSession(str(source), options, providers=providers, disabled_optimizers=list(without))
        return target.read_bytes()
