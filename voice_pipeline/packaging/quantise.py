"""Int8 by measurement: several quantisations are made, each is heard on development clips, and the words decide.

Candidates, in the order in which devices would like them:
- `static-qdq`: weights and activations int8 (QDQ, weights per channel, ranges from calibration clips of the training
  split);
- `static-qdq-pointwise`: the same, depthwise convolutions left in float;
- `weights-only`: int8 weights, float arithmetic. Nearest to float, small, but not faster;
- `dynamic`: weights int8 (one scale a tensor), each activation's range taken as it comes, for every clip anew. Needs no
  calibration, and several times the time of the others: it wins only where a CPU makes it as fast as float.
The Fourier convolution, the logarithm and the squeeze-and-excitation stay in float in all of them: their ranges span
orders of magnitude, and eight bits ruin them (Nagel et al., "A White Paper on Neural Network Quantization", 2021,
§2.4).

Rounding activations costs more than rounding weights, which have a step size per channel. So in the static candidates
channels are first made alike (`equalisation`), a convolution and its ReLU share one range, of the ReLU, and the sums of
residual blocks are added up in float.

Weights take all of eight bits, activations are unsigned (U8S8). A limit of that: x86 CPUs without VNNI add such
products in pairs in 16 bits, where they may saturate, and answers may change; CPUs with VNNI and Arm's do not (ONNX
Runtime's documentation, "Quantize ONNX Models"). Seven-bit weights (`reduce_range`) would avoid it, with steps twice as
wide on every CPU; ONNX Runtime's session option `session.x64quantprecision` is meant for those CPUs alone.

The first candidate wins whose development WER is above the best one by no more than one word error or by
`TOLERATED` of it, whichever is more; all are recorded. (One word in hundreds is less than chance moves; a fixed margin
of the WER would let a good network become worse by a tenth for its speed.)
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voice_pipeline.packaging.equalisation import equalised
from voice_pipeline.packaging.errors import MissingInputError, QuantisationError
from voice_pipeline.packaging.export import INPUT, checkpoint_folder, exported, float_model_path
from voice_pipeline.packaging.fourier import compact
from voice_pipeline.packaging.graph import activations_of, exact_sums, quantisable_nodes, simplified, weights_to_int8
from voice_pipeline.packaging.parity import parity
from voice_pipeline.schema.base import Record, Sha256
from voice_pipeline.schema.bundle import Parity
from voice_pipeline.schema.dataset import Split
from voice_pipeline.stats.sampling import spread
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.store import Store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from voice_pipeline.speech.tokenizer import CharTokenizer

CALIBRATION_CLIPS = 256
"""At most so many, spread over strata: ranges are of what is loudest, and every kind of clip should have its say."""
DEVELOPMENT_CLIPS = 80
TOLERATED = 0.02
"""Share of the best WER by which a candidate that devices like better may be worse, where that is over one word."""
SLOWER = 1.5
"""Over the median latency of the float graph. Seen: static 0.6 to 1.1, weights-only 1.1 to 1.3, dynamic 1.7 to 3.7."""
ROUNDING = 1e-9
"""WERs are quotients: two that differ by one word may differ by a little more or less than its share."""


class Candidate(Record):
    """One way to quantise, as measured: development WER, median latency of those clips (ms), file size (bytes)."""

    method: str
    wer: float
    latency_p50_ms: float
    size: int
    sha256: Sha256


class QuantisedModel(Record):
    """The chosen int8 graph, and what it was chosen from. `candidates[0]` is the float graph; `parity` is None in
    records from before it was kept.
    """

    model_version: str
    float_sha256: Sha256
    sha256: Sha256
    size: int
    method: str
    calibration_clips: int
    development_clips: int
    development_words: int
    candidates: tuple[Candidate, ...]
    parity: Parity | None = None
    seconds: float

    def wer_of(self, method: str) -> float:
        """Development WER of one candidate (`float` for the graph before quantisation)."""
        return next(candidate.wer for candidate in self.candidates if candidate.method == method)


@dataclass(frozen=True)
class Heard:
    """A clip to calibrate with or to score on. `samples`: float32 (N,), 16 kHz."""

    text: str
    samples: NDArray[np.float32]


def int8_model_path(store: Store, model_version: str) -> Path:
    return store.settings.models / model_version / "int8" / "model.onnx"


def quantise(store: Store, model_version: str) -> QuantisedModel:
    """Quantise the exported graph of `model_version`; a choice already made for the same graph stands.

    Raises:
        MissingInputError: the model was not exported, or its dataset has no clips left.
    """
    known, export = quantised(store, model_version), exported(store, model_version)
    if export is None:
        raise MissingInputError(f"model {model_version} has no intact ONNX graph; materialise onnx_model first")
    if known is not None and known.float_sha256 == export.sha256:
        return known
    from voice_pipeline.speech.tokenizer import CharTokenizer

    started = time.perf_counter()
    tokenizer = CharTokenizer.from_json((checkpoint_folder(store, model_version) / "tokenizer.json").read_text())
    calibration = _clips(store, model_version, (Split.TRAIN,), CALIBRATION_CLIPS)
    development = _clips(store, model_version, (Split.DEV, Split.TRAIN), DEVELOPMENT_CLIPS)
    source = float_model_path(store, model_version)
    with tempfile.TemporaryDirectory() as folder:
        files = make_candidates(source, calibration, Path(folder))
        measured = {name: measure(name, path, tokenizer, development) for name, path in files.items()}
        chosen = choose(list(measured.values()), words_of(development))
        graph = files[chosen.method].read_bytes()
        near = parity(source, files[chosen.method], tokenizer, (clip.samples for clip in development))
    record = QuantisedModel(
        model_version=model_version,
        float_sha256=export.sha256,
        sha256=chosen.sha256,
        size=chosen.size,
        method=chosen.method,
        calibration_clips=len(calibration),
        development_clips=len(development),
        development_words=words_of(development),
        candidates=tuple(measured.values()),
        parity=near,
        seconds=time.perf_counter() - started,
    )
    path = int8_model_path(store, model_version)
    write_atomically(path, graph)
    write_atomically(path.with_name("quantisation.json"), record.model_dump_json(indent=2).encode())
    return record


def quantised(store: Store, model_version: str) -> QuantisedModel | None:
    """The record of an earlier quantisation whose file is still what it was, or None."""
    path = int8_model_path(store, model_version)
    try:
        record = QuantisedModel.model_validate_json(path.with_name("quantisation.json").read_bytes())
        intact = hashlib.sha256(path.read_bytes()).hexdigest() == record.sha256
    except (OSError, ValueError):
        return None
    return record if intact else None


def words_of(clips: Sequence[Heard]) -> int:
    """Reference words of `clips`, as `measure` counts them."""
    from voice_pipeline.speech.normalise import plain

    return sum(len(plain(clip.text).split()) for clip in clips)


def choose(candidates: Sequence[Candidate], words: int) -> Candidate:
    """The first int8 candidate, in order of preference, whose WER is at most one word error or the share `TOLERATED`
    above the best one's, whichever is more; those that take `SLOWER` times what the float graph takes do not count,
    however few words they miss: what int8 is for is that devices wait less.

    Args:
        candidates: the float graph first.
        words: reference words of the development clips; without any, every error rate counts as one of one word.

    Raises:
        QuantisationError: there is none to choose from.
    """
    slowest = SLOWER * candidates[0].latency_p50_ms if candidates else 0.0
    offered = [candidate for candidate in candidates[1:] if candidate.latency_p50_ms <= slowest]
    if not offered:
        raise QuantisationError("no quantised candidate is as fast as the float graph; look at the exported graph")
    best = min(candidate.wer for candidate in offered)
    most = best + max(1 / max(words, 1), TOLERATED * best) + ROUNDING
    return next(candidate for candidate in offered if candidate.wer <= most)


def make_candidates(source: Path, calibration: Sequence[Heard], folder: Path) -> dict[str, Path]:
    """Write each candidate of the float graph `source` into `folder`; `float` comes first, then by preference."""
    from voice_pipeline.speech.recogniser import padded

    simple, alike = folder / "simplified.onnx", folder / "equalised.onnx"
    simple.write_bytes(simplified(source))
    nodes = quantisable_nodes(simple)
    alike.write_bytes(equalised(simple, (padded(clip.samples) for clip in calibration), nodes))
    every = nodes.depthwise + nodes.dense
    made = {
        "static-qdq": _static(alike, calibration, folder / "static-qdq.onnx", every),
        "static-qdq-pointwise": _static(alike, calibration, folder / "static-qdq-pointwise.onnx", nodes.dense),
        "weights-only": folder / "weights-only.onnx",
        "dynamic": _dynamic(simple, folder / "dynamic.onnx", every),
    }
    made["weights-only"].write_bytes(weights_to_int8(simple, set(every)))
    for path in made.values():
        path.write_bytes(compact(path))
    return {"float": source, **made}


def _dynamic(source: Path, target: Path, nodes: Sequence[str]) -> Path:
    """Dynamic quantisation of `nodes`."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            str(source),
            str(target),
            weight_type=QuantType.QInt8,
            nodes_to_quantize=list(nodes),
            op_types_to_quantize=["Conv"],
        )
    return target


def _static(source: Path, calibration: Sequence[Heard], target: Path, nodes: Sequence[str]) -> Path:
    """Static quantisation of `nodes` and their ReLUs, with activation ranges seen on `calibration`."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    from voice_pipeline.speech.recogniser import padded

    class Clips(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds: Iterator[dict[str, Any]] = iter({INPUT: padded(clip.samples)[None, :]} for clip in calibration)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    with _quiet():
        quantize_static(
            str(source),
            str(target),
            Clips(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_quantize=[*nodes, *activations_of(source, nodes)],
        )
    target.write_bytes(exact_sums(target))
    return target


@contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime's quantiser logs advice to the root logger; it is heeded in `graph.simplified`."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def measure(method: str, path: Path, tokenizer: CharTokenizer, clips: Sequence[Heard]) -> Candidate:
    """Hear `clips` with the graph at `path`, one thread."""
    import numpy as np

    from voice_pipeline.speech.recogniser import OnnxRecogniser
    from voice_pipeline.speech.scoring import corpus_wer, score

    recogniser = OnnxRecogniser(path, tokenizer)
    heard = [recogniser.transcribe(clip.samples) for clip in clips]
    data = path.read_bytes()
    return Candidate(
        method=method,
        wer=corpus_wer([score(clip.text, answer.text) for clip, answer in zip(clips, heard, strict=True)]),
        latency_p50_ms=float(np.median([answer.latency_ms for answer in heard])),
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _clips(store: Store, model_version: str, splits: tuple[Split, ...], count: int) -> list[Heard]:
    """Up to `count` clips of the first split that has any, spread over device class, microphone, accent and speaker."""
    from voice_pipeline.packaging.provenance import training_spec
    from voice_pipeline.speech.audio import decode
    from voice_pipeline.store.manifest import dataset_folder, read_audio, read_manifest

    dataset_version = training_spec(store, model_version).dataset_version
    folder = dataset_folder(store, dataset_version)
    rows = read_manifest(store, folder)
    for split in splits:
        offered = [row for row in rows if row.split == split]
        strata = [(row.device_class, row.microphone, row.accent, row.speaker) for row in offered]
        chosen = [offered[n] for n in spread(strata, [row.clip_id for row in offered], count)]
        clips = [Heard(row.text, decode(audio)) for row, audio in read_audio(store, chosen, folder)]
        if clips:
            return clips
    raise MissingInputError(
        f"dataset {dataset_version} has no clips left for model {model_version}; snapshot a new one"
    )
