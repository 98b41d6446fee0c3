"""Channels made alike before int8: a tensor has one step size, which its loudest channel sets for all of them.

Between two convolutions with at most a ReLU in between, a channel may be divided by a positive factor in the first one
and multiplied by it in the second: the network computes what it did (Nagel et al., "Data-Free Quantization Through
Weight Equalization and Bias Correction", 2019, §4.1). The factors follow the activations and not the weights, because
weights have a step size per channel and lose less. A channel's factor is its peak to the power of `STRENGTH`, as in
SmoothQuant (Xiao et al., 2023, §4), so that the second convolution's weights are left a part of the difference.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voice_pipeline.packaging.graph import QuantisedNodes

STRENGTH = 0.75
"""Share of the (logarithmic) difference between channels that is taken from activations; weights get the rest."""
FAINTEST = 0.02
"""A channel counts as at least this share of the loudest one: a channel never heard would get all the range."""


@dataclass(frozen=True)
class Pair:
    """Two convolutions, by name, and the tensor that only the second one reads. `axis` of the second one's weights
    runs over its input channels.
    """

    first: str
    second: str
    between: str
    axis: int


def equalised(source: Path, waveforms: Iterable[NDArray[np.float32]], nodes: QuantisedNodes) -> bytes:
    """The graph `source` with the channels between neighbouring `nodes` made alike; names are kept.

    Args:
        waveforms: (N,) float32 each, at least one; what the peaks of channels are measured on.
    """
    import onnx

    model = onnx.load(str(source))
    pairs = _pairs(model.graph, {*nodes.depthwise, *nodes.dense})
    peaks = _peaks(model, [pair.between for pair in pairs], waveforms)
    convolutions = {node.name: node for node in model.graph.node}
    for pair in pairs:
        factors = _factors(peaks[pair.between])
        first, second = convolutions[pair.first], convolutions[pair.second]
        for name in first.input[1:]:
            _multiply(model.graph, name, np.reciprocal(factors), 0)
        _multiply(model.graph, second.input[1], factors, pair.axis)
    return bytes(model.SerializeToString())


def _factors(peaks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Peaks (C,) → factors (C,) with a geometric mean of one; all ones where nothing was heard."""
    if peaks.max() <= 0:
        return np.ones_like(peaks)
    logs = STRENGTH * np.log(np.maximum(peaks, FAINTEST * peaks.max()))
    factors: NDArray[np.float32] = np.exp(logs - logs.mean())
    return factors


def _pairs(graph: Any, names: set[str]) -> list[Pair]:
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    readers: dict[str, list[Any]] = {output.name: [None] for output in graph.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    pairs = []
    for first in [node for node in graph.node if node.name in names]:
        between = first.output[0]
        following = readers.get(between, [])
        if len(following) == 1 and following[0] is not None and following[0].op_type == "Relu":
            between = following[0].output[0]
            following = readers.get(between, [])
        if len(following) != 1 or following[0] is None or following[0].name not in names:
            continue
        second = following[0]
        axis = _input_axis(second, shapes[second.input[1]])
        own = all(len(readers[name]) == 1 for name in (*first.input[1:], second.input[1]))
        if axis is not None and own:
            pairs.append(Pair(first.name, second.name, between, axis))
    return pairs


def _input_axis(convolution: Any, shape: list[int]) -> int | None:
    """Axis of the weights over input channels: 1, or 0 where each output has its own input; else None."""
    groups = next((a.i for a in convolution.attribute if a.name == "group"), 1)
    if groups == 1:
        return 1
    return 0 if groups == shape[0] and shape[1] == 1 else None


def _peaks(model: Any, names: list[str], waveforms: Iterable[NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Largest magnitude of every channel of the tensors `names`, (C,) each."""
    import onnx
    import onnxruntime

    if not names:
        return {}
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    read = session.get_inputs()[0].name
    peaks: dict[str, NDArray[np.float32]] = {}
    for waveform in waveforms:
        for name, values in zip(names, session.run(names, {read: waveform[None, :]}), strict=True):
            peak = np.abs(values).max(axis=(0, 2, 3))
            peaks[name] = np.maximum(peaks.get(name, peak), peak)
    return peaks


def _multiply(graph: Any, name: str, factors: NDArray[np.float32], axis: int) -> None:
    """Multiply an initialiser by one factor for each index of `axis`, in place."""
    from onnx import numpy_helper

    tensor = next(tensor for tensor in graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(tensor)
    shape = [-1 if dimension == axis else 1 for dimension in range(values.ndim)]
    tensor.CopyFrom(numpy_helper.from_array((values * factors.reshape(shape)).astype(np.float32), name))
