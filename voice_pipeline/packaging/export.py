"""A checkpoint as one ONNX graph: waveform in, log-probabilities out, any length, frontend included.

The TorchScript exporter is used on purpose: on this network (no control flow) it gives the same graph and the same
latency as the `torch.export` one, in 0.5 s instead of 8 s (torch 2.11, 2026-11). Promise: the file appears only after
ONNX Runtime has computed from it what PyTorch computes from the checkpoint, at several lengths; the same checkpoint
gives the same bytes.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from voice_pipeline.packaging.errors import ExportMismatchError, MissingInputError
from voice_pipeline.schema.base import Record, Sha256
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.store import Store

if TYPE_CHECKING:
    from voice_pipeline.speech.encoder import AcousticModel

OPSET = 18
INPUT, OUTPUT = "waveform", "log_probs"
TRACED_SAMPLES = 48_000
CHECKED_SAMPLES = (1_600, 16_000, 48_123, 160_001)
TOLERANCE = 1e-3


class ExportedModel(Record):
    """The float graph of a model version and what it was made from. `largest_error` is against PyTorch."""

    model_version: str
    checkpoint_sha256: Sha256
    sha256: Sha256
    size: int
    opset: int
    frame_shift_s: float
    parameters: int
    largest_error: float
    seconds: float


def checkpoint_folder(store: Store, model_version: str) -> Path:
    """Where training left `model.pt`, `config.json` and `tokenizer.json`."""
    return store.settings.models / model_version / "checkpoint"


def float_model_path(store: Store, model_version: str) -> Path:
    return store.settings.models / model_version / "onnx" / "model.onnx"


def export(store: Store, model_version: str) -> ExportedModel:
    """Export the checkpoint of `model_version`; an export of the same checkpoint is kept as it is.

    Raises:
        MissingInputError: there is no readable checkpoint.
        ExportMismatchError: the graph does not compute what the network computes.
    """
    from voice_pipeline.speech.errors import ModelFileError
    from voice_pipeline.speech.recogniser import load_checkpoint

    folder, path = checkpoint_folder(store, model_version), float_model_path(store, model_version)
    weights = folder / "model.pt"
    if not weights.is_file():
        raise MissingInputError(f"model {model_version} has no checkpoint; materialise acoustic_model first")
    checkpoint_sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    known = exported(store, model_version)
    if known is not None and known.checkpoint_sha256 == checkpoint_sha256:
        return known
    started = time.perf_counter()
    try:
        model, _ = load_checkpoint(folder)
    except ModelFileError as error:
        raise MissingInputError(f"model {model_version} has a damaged checkpoint: {error}") from error
    graph = onnx_bytes(model)
    record = ExportedModel(
        model_version=model_version,
        checkpoint_sha256=checkpoint_sha256,
        sha256=hashlib.sha256(graph).hexdigest(),
        size=len(graph),
        opset=OPSET,
        frame_shift_s=model.config.frame_shift_s,
        parameters=model.parameter_count,
        largest_error=largest_error(model, graph, model_version),
        seconds=time.perf_counter() - started,
    )
    write_atomically(path, graph)
    write_atomically(path.with_name("export.json"), record.model_dump_json(indent=2).encode())
    return record


def exported(store: Store, model_version: str) -> ExportedModel | None:
    """The record of an earlier export whose file is still what it was, or None."""
    path = float_model_path(store, model_version)
    try:
        record = ExportedModel.model_validate_json(path.with_name("export.json").read_bytes())
        intact = hashlib.sha256(path.read_bytes()).hexdigest() == record.sha256
    except (OSError, ValueError):
        return None
    return record if intact else None


def onnx_bytes(model: AcousticModel) -> bytes:
    """The ONNX file of a network in evaluation mode: `waveform` (1, samples) float32 → `log_probs` (1, frames, V)."""
    import torch

    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad(), tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            warnings.simplefilter("ignore")  # the exporter's notice that another exporter exists
            torch.onnx.export(
                model.eval(),
                (torch.zeros(1, TRACED_SAMPLES),),
                file.name,
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {1: "samples"}, OUTPUT: {1: "frames"}},
            )
            return Path(file.name).read_bytes()
    finally:
        log.setLevel(level)


def largest_error(model: AcousticModel, graph: bytes, model_version: str) -> float:
    """Largest absolute difference of log-probabilities between PyTorch and ONNX Runtime over `CHECKED_SAMPLES`.

    Raises:
        ExportMismatchError: shapes differ or the difference exceeds `TOLERANCE`.
    """
    import numpy as np
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    random, worst = np.random.default_rng(0), 0.0
    for samples in CHECKED_SAMPLES:
        waveform = random.normal(0, 0.1, (1, samples)).astype(np.float32)
        with torch.inference_mode():
            expected = model(torch.from_numpy(waveform)).numpy()
        found = session.run(None, {INPUT: waveform})[0]
        if found.shape != expected.shape:
            raise ExportMismatchError(
                f"exported {model_version} gives {found.shape} for {samples} samples, the network {expected.shape}"
            )
        worst = max(worst, float(np.abs(found - expected).max()))
    if worst > TOLERANCE:
        raise ExportMismatchError(
            f"exported {model_version} is off by {worst:.2g} (at most {TOLERANCE}); do not ship it"
        )
    return worst
