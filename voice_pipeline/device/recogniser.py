"""The gate between a bundle on the disk and a recogniser in use: signature, files, digest, app version, golden vectors.

Promise: there is no way to a `DeviceRecogniser` around `load_bundle`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from voice_pipeline.device.errors import GoldenMismatchError, IncompatibleBundleError
from voice_pipeline.schema.bundle import BundleManifest, GoldenVector
from voice_pipeline.trust import DamagedBundleError, is_older, verify_bundle

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from voice_pipeline.speech.recogniser import OnnxRecogniser, Recognition

NETWORK = "model.onnx"


class DeviceRecogniser:
    """A verified bundle, loaded, one thread."""

    def __init__(self, manifest: BundleManifest, engine: OnnxRecogniser) -> None:
        self.manifest = manifest
        self._engine = engine

    @property
    def model_version(self) -> str:
        return self.manifest.model_version

    @property
    def bundle_digest(self) -> str:
        return self.manifest.digest

    def transcribe(self, samples: NDArray[np.float32]) -> Recognition:
        """Recognise float32 mono samples in [-1, 1] at 16 kHz.

        Raises:
            EmptyAudioError: no samples.
        """
        return self._engine.transcribe(samples)

    def best_classes(self, samples: NDArray[np.float32]) -> NDArray[np.int64]:
        """The network's likeliest class in every frame, shape (frames,)."""
        from voice_pipeline.speech.recogniser import padded

        return self._engine.log_probs(padded(samples)).argmax(axis=1)


def load_bundle(
    folder: Path, public_key: bytes, bundle_digest: str | None = None, app_version: str | None = None
) -> DeviceRecogniser:
    """Verify a bundle folder (its signature beside it), load it, and let it answer its golden vectors.

    Args:
        folder: named for the model version that was asked for.
        public_key: PEM of the publisher's key.
        bundle_digest: the bundle that was asked for; None accepts any that the publisher signed.
        app_version: of the app on this device; None skips the compatibility check.

    Raises:
        TrustError: signature, files, model version or digest do not verify.
        IncompatibleBundleError: the bundle needs a newer app.
        GoldenMismatchError: this device computes something else than the publisher did.
    """
    from voice_pipeline.speech.confidence import ConfidenceModel
    from voice_pipeline.speech.decoder import open_decoder
    from voice_pipeline.speech.errors import SpeechError
    from voice_pipeline.speech.recogniser import OnnxRecogniser
    from voice_pipeline.speech.tokenizer import CharTokenizer

    manifest = verify_bundle(folder, public_key, bundle_digest)
    if app_version is not None and is_older(app_version, manifest.min_app_version):
        raise IncompatibleBundleError(
            f"model {manifest.model_version} needs app {manifest.min_app_version}, not {app_version}; update the app"
        )
    try:
        tokenizer = CharTokenizer.from_json((folder / "tokenizer.json").read_text())
        engine = OnnxRecogniser(
            folder / NETWORK,
            tokenizer,
            ConfidenceModel.from_json((folder / "confidence.json").read_text()),
            frame_shift_s=manifest.frame_shift_s,
            decode=open_decoder(folder, tokenizer),
        )
    except (SpeechError, OSError) as error:
        raise DamagedBundleError(f"bundle {folder.name} cannot be loaded: {error}") from error
    recogniser = DeviceRecogniser(manifest, engine)
    _answer_golden_vectors(recogniser, folder)
    return recogniser


def _answer_golden_vectors(recogniser: DeviceRecogniser, folder: Path) -> None:
    from voice_pipeline.speech.wav import read_wav

    for vector in recogniser.manifest.golden:
        try:
            samples = read_wav((folder / vector.path).read_bytes())
            answer, alike = recogniser.transcribe(samples), _frames_alike(recogniser, samples, vector)
        except Exception as error:  # ONNX Runtime raises a dozen unrelated types
            raise GoldenMismatchError(
                f"model {recogniser.model_version} cannot answer {vector.path}: {error}; it is not used on this device"
            ) from error
        off = abs(answer.log_probs_mean - vector.log_probs_mean)
        near = off <= vector.tolerance and alike >= vector.frames_alike  # a NaN is not near
        if answer.text != vector.text or not near:
            raise GoldenMismatchError(
                f"model {recogniser.model_version} answers {vector.path} with {answer.text!r} (mean off by {off:.3g}, "
                f"{alike:.1%} of frames alike), the publisher got {vector.text!r}; it is not used on this device"
            )


def _frames_alike(recogniser: DeviceRecogniser, samples: NDArray[np.float32], vector: GoldenVector) -> float:
    """Share of frames with the publisher's likeliest class; 1 where he told none, 0 where their number differs."""
    found = recogniser.best_classes(samples)
    if not vector.best_classes:
        return 1.0
    return float((found == vector.best_classes).mean()) if len(found) == len(vector.best_classes) else 0.0
