"""Golden vectors: sounds with the answer this very model gives; a device asks again before it trusts a bundle.

The sounds (`golden_sounds/`) are synthetic speech. A vector is kept if the answer does not hang on how the runtime
computes: the graph as it stands, the graph without any optimisation, and the `.ort` form must all decode alike, with
the decoder of the bundle.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from voice_pipeline.packaging.errors import ExportMismatchError
from voice_pipeline.packaging.export import INPUT
from voice_pipeline.packaging.parity import parity
from voice_pipeline.schema.bundle import GoldenVector

if TYPE_CHECKING:
    from voice_pipeline.speech.tokenizer import CharTokenizer

SOUNDS = Path(__file__).parent / "golden_sounds"
KEPT = 3
FRAMES_ALIKE = 0.99
"""Share of frames in which both forms find the same symbol best. Fusions may round one activation otherwise."""


def golden_vectors(folder: Path) -> tuple[GoldenVector, ...]:
    """Write up to `KEPT` WAV files into `folder/golden` and return their vectors.

    `folder` holds `model.onnx`, `model.ort`, `tokenizer.json` and the decoder. If no sound decodes alike everywhere,
    all are taken: then the mean log-probability has to tell.

    Raises:
        ExportMismatchError: the two forms of the network do not compute the same.
    """
    from voice_pipeline.speech.audio import decode, encode_wav
    from voice_pipeline.speech.decoder import open_decoder
    from voice_pipeline.speech.recogniser import OnnxRecogniser
    from voice_pipeline.speech.tokenizer import CharTokenizer

    tokenizer = CharTokenizer.from_json((folder / "tokenizer.json").read_text())
    words_of = open_decoder(folder, tokenizer)
    engines = [OnnxRecogniser(folder / name, tokenizer, decode=words_of) for name in ("model.onnx", "model.ort")]
    plain = _Plain(folder / "model.onnx")
    _agree(folder, tokenizer)
    vectors: list[tuple[bool, GoldenVector, bytes]] = []
    for sound in sorted(SOUNDS.glob("*.flac")):
        wav = encode_wav(decode(sound.read_bytes()))
        samples = decode(wav)
        answers = [engine.transcribe(samples) for engine in engines]
        unoptimised = plain.log_probs(samples)
        best = engines[0].log_probs(samples).argmax(axis=1)
        same_frames = unoptimised.argmax(axis=1) == best
        texts = {words_of(unoptimised, 1.0).text, *(answer.text for answer in answers)}
        stable = len(texts) == 1 and bool(same_frames.all())
        vector = GoldenVector(
            path=f"golden/{sound.stem}.wav",
            text=answers[0].text,
            log_probs_mean=answers[0].log_probs_mean,
            best_classes=tuple(int(one) for one in best),
        )
        vectors.append((stable, vector, wav))
    chosen = [item for item in vectors if item[0]] or vectors
    (folder / "golden").mkdir(exist_ok=True)
    for _, vector, wav in chosen[:KEPT]:
        (folder / vector.path).write_bytes(wav)
    return tuple(vector for _, vector, _ in chosen[:KEPT])


def _agree(folder: Path, tokenizer: CharTokenizer) -> None:
    """Suites are heard with `model.onnx`; what they find must hold for who runs `model.ort`."""
    from voice_pipeline.speech.audio import decode

    sounds = [decode(sound.read_bytes()) for sound in sorted(SOUNDS.glob("*.flac"))]
    found = parity(folder / "model.onnx", folder / "model.ort", tokenizer, sounds)
    if found.frames_alike < FRAMES_ALIKE:
        raise ExportMismatchError(
            f"model.ort of {folder.name.strip('.')} agrees with model.onnx in {found.frames_alike:.1%} of frames (at "
            f"least {FRAMES_ALIKE:.0%}); do not ship it"
        )


def speech(seconds: float) -> NDArray[np.float32]:
    """So many seconds of the golden sounds, one after the other and over again: what is timed hears speech. Noise, in
    which every letter is possible, keeps a beam search busier than any speech.
    """
    from voice_pipeline.speech.audio import SAMPLE_RATE, decode

    sounds = np.concatenate([decode(sound.read_bytes()) for sound in sorted(SOUNDS.glob("*.flac"))])
    return np.resize(sounds, round(seconds * SAMPLE_RATE))


class _Plain:
    """The graph as written: every quantise and dequantise node is computed for itself, in floating point."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def log_probs(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Log-probabilities of every output frame, shape (S, V)."""
        return np.asarray(self._session.run(None, {INPUT: samples[None, :]})[0][0])
