"""What released models answer to what people say, each heard once.

Bundles come the way a device gets them: through the TUF repository of the edge, signature, digests and golden vectors
checked (`device.updater`, `device.recogniser`). A simulated fleet shares one verified recogniser a bundle, and an
answer is kept per (bundle, clip), since the same audio through the same network gives the same text on every device.

Latency on a device is modelled, not timed per dictation: the bundle's own cost (best of several runs on this host,
which other load disturbs least) times the length of the audio times a factor of the device class.
"""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from voice_pipeline.device.recogniser import DeviceRecogniser, load_bundle
from voice_pipeline.device.updater import BundleUpdater
from voice_pipeline.fleet.scenario import Fault, FleetClip
from voice_pipeline.schema.clip import DeviceClass
from voice_pipeline.speech.audio import SAMPLE_RATE, Samples
from voice_pipeline.speech.confidence import scalars
from voice_pipeline.speech.scoring import score

if TYPE_CHECKING:
    import httpx

CLASS_FACTOR: dict[DeviceClass, float] = {
    DeviceClass.PHONE_LOW: 6.0,
    DeviceClass.PHONE_MID: 3.0,
    DeviceClass.PHONE_HIGH: 1.6,
    DeviceClass.LAPTOP: 1.0,
}
"""How much slower than this host one core of each device class is taken to be."""

PROBE_SECONDS = 3.0
PROBE_RUNS = 7
GARBLED_SHARE = 0.8
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Answer:
    """One model's answer to one clip. `errors` are word errors against what was said, of `words` said.

    `posteriors` are `speech.confidence.scalars`: what a device tells beside its confidence.
    """

    text: str
    confidence: float
    errors: int
    words: int
    posteriors: dict[str, float]


@dataclass(frozen=True)
class LoadedModel:
    """A verified bundle in memory. `cost` is seconds of this host per second of audio."""

    recogniser: DeviceRecogniser
    cost: float


class Answers:
    """Args:
    home: keeps the trusted metadata between fetches.
    clock: judges the expiry of metadata.
    """

    def __init__(
        self, home: Path, edge_url: str, http: httpx.Client, trusted_root: bytes, now: Callable[[], datetime]
    ) -> None:
        self._updater = BundleUpdater(home, edge_url, http, trusted_root, _Now(now))
        self._home = home
        self._models: dict[str, LoadedModel] = {}
        self._answers: dict[tuple[str, str, bool], Answer] = {}

    def model(self, model_version: str, bundle_digest: str) -> LoadedModel:
        """Fetch, verify and load a bundle the first time it is asked for.

        Raises:
            UpdateRefusedError, UpdateUnavailableError, TrustError, GoldenMismatchError: a device would refuse it too.
        """
        if bundle_digest not in self._models:
            self._home.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=self._home) as folder:
                bundle = self._updater.fetch(model_version, Path(folder))
                recogniser = load_bundle(bundle, self._updater.signing_key(), bundle_digest)
            self._models[bundle_digest] = LoadedModel(recogniser, _cost(recogniser))
        return self._models[bundle_digest]

    def answer(self, model_version: str, bundle_digest: str, clip: FleetClip, fault: Fault | None) -> Answer:
        """What this bundle makes of `clip` on a device with `fault`."""
        key = (bundle_digest, clip.name, fault is not None and fault.corrupt)
        if key not in self._answers:
            samples, _measures = clip.heard()
            heard = self.model(model_version, bundle_digest).recogniser.transcribe(samples)
            self._answers[key] = answer_to(clip, heard.text, heard.confidence, scalars(heard.posteriors), fault)
        return self._answers[key]

    def latency_ms(
        self, model_version: str, bundle_digest: str, device_class: DeviceClass, duration_s: float, fault: Fault | None
    ) -> float:
        """Waveform to text on a device of that class, without jitter."""
        seconds = self.model(model_version, bundle_digest).cost * (duration_s + 0.2) * CLASS_FACTOR[device_class]
        return seconds * 1000 * (fault.latency_factor if fault else 1.0)


def answer_to(
    clip: FleetClip, text: str, confidence: float, posteriors: dict[str, float], fault: Fault | None
) -> Answer:
    """A recogniser's answer to `clip` as it comes out on a device with `fault`, scored against what was said."""
    said = garble(text, clip.name) if fault is not None and fault.corrupt else text
    scored = score(clip.text, said)
    return Answer(said, confidence, scored.errors, scored.words, posteriors)


def garble(text: str, seed: str) -> str:
    """Most words replaced by letter salad, the same for the same seed."""
    rng = random.Random(zlib.crc32(seed.encode()))
    words = text.split() or ["um"]
    return " ".join("".join(rng.choices(LETTERS, k=4)) if rng.random() < GARBLED_SHARE else word for word in words)


def _cost(recogniser: DeviceRecogniser) -> float:
    noise = np.random.default_rng(0).standard_normal(int(PROBE_SECONDS * SAMPLE_RATE))
    probe: Samples = (0.05 * noise).astype(np.float32)
    best = float("inf")
    for _ in range(PROBE_RUNS):
        started = time.thread_time()  # one thread computes; a busy host must not look like a slow model
        recogniser.transcribe(probe)
        best = min(best, time.thread_time() - started)
    return best / PROBE_SECONDS


@dataclass(frozen=True)
class _Now:
    """A clock made of a function."""

    read: Callable[[], datetime]

    def now(self) -> datetime:
        return self.read()
