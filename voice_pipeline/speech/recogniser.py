"""A trained model as something that takes a recording and gives text, with its confidence and its time.

Two engines, one answer: ONNX Runtime runs what devices run, PyTorch runs a checkpoint. A checkpoint folder holds
`model.pt` (weights), `config.json` (encoder shape), `tokenizer.json`, and `decoder.json` where it does not decode
greedily (`decoder`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from voice_pipeline.speech.audio import Samples
from voice_pipeline.speech.confidence import ConfidenceModel, scalars
from voice_pipeline.speech.decoder import Decode, greedily, open_decoder
from voice_pipeline.speech.decoding import PosteriorStats, WordSpan
from voice_pipeline.speech.errors import EmptyAudioError, ModelFileError
from voice_pipeline.speech.measures import AcousticMeasures, measure
from voice_pipeline.speech.tokenizer import CharTokenizer

if TYPE_CHECKING:
    from voice_pipeline.speech.encoder import AcousticModel

WEIGHTS = "model.pt"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
NETWORK = "model.onnx"
CONFIDENCE = "confidence.json"
SHORTEST_INPUT = 4_800
"""Shorter recordings are padded with silence to this many samples (0.3 s)."""

LogProbs = NDArray[np.float32]


@dataclass(frozen=True)
class Recognition:
    """One answer. `confidence` in [0, 1] is calibrated where a confidence model is loaded, else the mean word
    posterior; `latency_ms` is the time from waveform to text; `log_probs_mean` is the mean of all log-probabilities
    (golden vectors).
    """

    text: str
    confidence: float
    latency_ms: float
    words: tuple[WordSpan, ...]
    posteriors: PosteriorStats
    log_probs_mean: float
    measures: AcousticMeasures


class Recogniser(Protocol):
    """Anything that recognises."""

    def transcribe(self, samples: Samples) -> Recognition: ...


def _recognise(
    samples: Samples,
    run: Callable[[Samples], LogProbs],
    decode: Decode,
    confidence: ConfidenceModel | None,
    frame_shift_s: float | None,
) -> Recognition:
    if samples.size == 0:
        raise EmptyAudioError("recording has no samples; nothing to transcribe")
    started = time.perf_counter()
    heard = padded(samples)
    log_probs = run(heard)
    shift = frame_shift_s or _nearest_shift(heard.size, len(log_probs))
    hypothesis = decode(log_probs, shift)
    latency_ms = (time.perf_counter() - started) * 1000
    measures = measure(samples)
    posteriors = hypothesis.posteriors
    sure = confidence.confidence(hypothesis.text, scalars(posteriors), asdict(measures)) if confidence else None
    sure = posteriors.mean_word if sure is None else sure
    mean = float(log_probs.mean(dtype=np.float64))
    return Recognition(hypothesis.text, sure, latency_ms, hypothesis.words, posteriors, mean, measures)


def padded(samples: Samples) -> Samples:
    """`samples`, at least `SHORTEST_INPUT` of them: silence is added behind."""
    return np.pad(samples, (0, max(0, SHORTEST_INPUT - samples.size))).astype(np.float32, copy=False)


def _nearest_shift(samples: int, frames: int) -> float:
    """Frame shift in whole hundredths of a second that turns `samples` into `frames`."""
    return max(1, round(samples / 160 / frames)) * 0.01


class OnnxRecogniser:
    """Runs an exported model (`waveform` (1, N) → `log_probs` (1, S, V)) with ONNX Runtime on CPU.

    Args:
        model_path: `.onnx` or `.ort` file.
        confidence: calibrates; None leaves the mean word posterior.
        threads: of ONNX Runtime; devices use 1.
        frame_shift_s: seconds an output frame stands for; None derives it from the first answer.
        decode: turns log-probabilities into words (`open_decoder`); None decodes greedily.

    Raises:
        ModelFileError: no such file, or ONNX Runtime refuses it.
    """

    def __init__(
        self,
        model_path: Path,
        tokenizer: CharTokenizer,
        confidence: ConfidenceModel | None = None,
        threads: int = 1,
        frame_shift_s: float | None = None,
        decode: Decode | None = None,
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(model_path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a dozen unrelated types
            raise ModelFileError(
                f"model {model_path.name} cannot be loaded: {error}; fetch the bundle again"
            ) from error
        self._input = self._session.get_inputs()[0].name
        self.tokenizer = tokenizer
        self.confidence = confidence
        self.frame_shift_s = frame_shift_s
        self.decode = decode or greedily(tokenizer)

    @classmethod
    def load(cls, folder: Path, frame_shift_s: float | None = None) -> OnnxRecogniser:
        """The network of a bundle folder, one thread, with the decoder, and the confidence if any, that lie beside it.

        Raises:
            ModelFileError, TokenizerError, DecoderError: a file is damaged.
            OSError: it cannot be read.
        """
        tokenizer = CharTokenizer.from_json((folder / TOKENIZER).read_text())
        fitted = folder / CONFIDENCE
        confidence = ConfidenceModel.from_json(fitted.read_text()) if fitted.exists() else None
        decode = open_decoder(folder, tokenizer)
        return cls(folder / NETWORK, tokenizer, confidence, frame_shift_s=frame_shift_s, decode=decode)

    def log_probs(self, samples: Samples) -> LogProbs:
        """(S, V) log-probabilities of one recording of at least 160 samples."""
        output: LogProbs = self._session.run(None, {self._input: samples[None, :]})[0][0]
        return output

    def transcribe(self, samples: Samples) -> Recognition:
        """Raises:
        EmptyAudioError: no samples.
        """
        return _recognise(samples, self.log_probs, self.decode, self.confidence, self.frame_shift_s)


class TorchRecogniser:
    """Runs a model in PyTorch; same interface as `OnnxRecogniser`."""

    def __init__(
        self,
        model: AcousticModel,
        tokenizer: CharTokenizer,
        confidence: ConfidenceModel | None = None,
        decode: Decode | None = None,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.confidence = confidence
        self.frame_shift_s = model.config.frame_shift_s
        self.decode = decode or greedily(tokenizer)

    @classmethod
    def load(cls, checkpoint: Path, confidence: ConfidenceModel | None = None) -> TorchRecogniser:
        """The model with the decoder that its folder names.

        Raises:
            ModelFileError: the folder is incomplete or damaged.
            DecoderError: its decoder or language model is damaged or changed.
        """
        model, tokenizer = load_checkpoint(checkpoint)
        return cls(model, tokenizer, confidence, open_decoder(checkpoint, tokenizer))

    def log_probs(self, samples: Samples) -> LogProbs:
        """(S, V) log-probabilities of one recording of at least 160 samples."""
        import torch

        with torch.inference_mode():
            output: LogProbs = self.model(torch.from_numpy(samples)[None, :])[0].numpy()
        return output

    def transcribe(self, samples: Samples) -> Recognition:
        """Raises:
        EmptyAudioError: no samples.
        """
        return _recognise(samples, self.log_probs, self.decode, self.confidence, self.frame_shift_s)


def load_checkpoint(folder: Path) -> tuple[AcousticModel, CharTokenizer]:
    """The model (in evaluation mode, on CPU) and tokenizer of a checkpoint folder.

    Raises:
        ModelFileError: the folder is incomplete, damaged, or its weights do not fit its configuration.
    """
    import torch

    from voice_pipeline.speech.encoder import AcousticModel
    from voice_pipeline.speech.shape import EncoderConfig

    try:
        config = EncoderConfig.from_dict(json.loads((folder / CONFIG).read_text())["encoder"])
        tokenizer = CharTokenizer.from_json((folder / TOKENIZER).read_text())
        model = AcousticModel(config)
        model.load_state_dict(torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True))
    except Exception as error:  # PyTorch's unpickler lets a dozen unrelated types escape from damaged bytes
        raise ModelFileError(f"checkpoint {folder} cannot be loaded: {error}; train the model again") from error
    return model.eval(), tokenizer
