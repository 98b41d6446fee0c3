"""The frontend's Fourier kernels, written into the graph as what they are made of: one period of cosine and sine, and
the window.

As a table the kernels are 0.8 MB, nearly half of a `tiny` network. Written out, cos(2π k n / F)·w(n) is a look-up at
k·n mod F times the window; ONNX Runtime computes it once, when it loads the graph (constant folding). The numbers are
the same: the arithmetic is in double precision and rounded once, as the table was.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXACT = 1e-12
"""Largest difference of a kernel's values: those next to zero are rounding errors in either way of computing them."""


@dataclass(frozen=True)
class _Ingredients:
    """`cosine` and `sine`: one period of exp(-i x), F values each; `window`: N values; `bins`: how many k there are."""

    cosine: NDArray[np.float64]
    sine: NDArray[np.float64]
    window: NDArray[np.float64]

    @property
    def bins(self) -> int:
        return len(self.cosine) // 2 + 1

    @property
    def kernels(self) -> NDArray[np.float32]:
        """(2 bins, 1, N) as the frontend has them: real parts, then imaginary ones."""
        place = np.arange(self.bins)[:, None] * np.arange(len(self.window))[None, :] % len(self.cosine)
        both = np.concatenate([self.cosine[place], self.sine[place]]) * self.window
        return both.astype(np.float32)[:, None, :]


def compact(source: Path) -> bytes:
    """The graph at `source` without the table of its Fourier kernels and without imports of operator sets that it does
    not use (an older ONNX Runtime refuses those that it does not know); a graph without such a table keeps its own.
    """
    import onnx

    model = onnx.load(str(source))
    used = {node.domain for node in model.graph.node} | {""}
    for imported in [imported for imported in model.opset_import if imported.domain not in used]:
        model.opset_import.remove(imported)
    ingredients = _of_the_frontend()
    for table in [tensor for tensor in model.graph.initializer if _is(tensor, ingredients.kernels)]:
        _write_out(model.graph, table, ingredients)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _of_the_frontend() -> _Ingredients:
    from voice_pipeline.speech.frontend import FFT, WINDOW

    phase = 2 * np.pi * np.arange(FFT) / FFT
    return _Ingredients(np.cos(phase), -np.sin(phase), np.hanning(WINDOW + 1)[:WINDOW])


def _is(tensor: Any, kernels: NDArray[np.float32]) -> bool:
    from onnx import numpy_helper

    if tuple(tensor.dims) != kernels.shape:
        return False
    return bool(np.abs(numpy_helper.to_array(tensor) - kernels).max() <= EXACT)


def _write_out(graph: Any, table: Any, of: _Ingredients) -> None:
    """Put nodes that compute `table` in its place."""
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, value: NDArray[Any]) -> str:
        graph.initializer.append(numpy_helper.from_array(value, f"fourier_{name}"))
        return f"fourier_{name}"

    k, n = np.arange(of.bins, dtype=np.int32)[:, None], np.arange(len(of.window), dtype=np.int32)[None, :]
    period = np.array(len(of.cosine), dtype=np.int32)
    nodes = [
        helper.make_node("Mul", [constant("k", k), constant("n", n)], ["fourier_kn"]),
        helper.make_node("Mod", ["fourier_kn", constant("period", period)], ["fourier_place"]),
        helper.make_node("Gather", [constant("cosine", of.cosine), "fourier_place"], ["fourier_real"]),
        helper.make_node("Gather", [constant("sine", of.sine), "fourier_place"], ["fourier_imaginary"]),
        helper.make_node("Concat", ["fourier_real", "fourier_imaginary"], ["fourier_both"], axis=0),
        helper.make_node("Mul", ["fourier_both", constant("window", of.window)], ["fourier_windowed"]),
        helper.make_node("Cast", ["fourier_windowed"], ["fourier_rounded"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["fourier_rounded", constant("axis", np.array([1]))], [table.name]),
    ]
    graph.initializer.remove(table)
    for node in reversed(nodes):
        graph.node.insert(0, node)
