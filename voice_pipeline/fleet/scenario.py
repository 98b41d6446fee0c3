"""Who speaks into the fleet's devices, through which channel, and what may go wrong there.

The home population are the corpus's own test speakers as they were recorded. The new population speaks through a
telephone band (300-3400 Hz) under noise at 5-15 dB: what a corpus of close-talking microphones has never heard. Each
clip's channel is drawn once from the seed and its id, so a clip sounds alike on every device and on every run.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from voice_pipeline.fleet.errors import FleetError
from voice_pipeline.schema.clip import DeviceClass, DeviceContext, Microphone
from voice_pipeline.schema.consent import Scope
from voice_pipeline.speech.audio import Samples, band_limit, mix
from voice_pipeline.speech.augmentation import coloured_noise
from voice_pipeline.speech.measures import AcousticMeasures, measure

TELEPHONE_HZ = (300.0, 3400.0)
NEW_SNR_DB = (5.0, 15.0)
HOME_CLIPS = 160
NEW_CLIPS = 360
EVALUATE_ONLY_SHARE = 0.34

CLASS_SHARES: dict[DeviceClass, float] = {
    DeviceClass.PHONE_LOW: 0.25,
    DeviceClass.PHONE_MID: 0.35,
    DeviceClass.PHONE_HIGH: 0.25,
    DeviceClass.LAPTOP: 0.15,
}
SYSTEMS: dict[DeviceClass, str] = {
    DeviceClass.PHONE_LOW: "android-13",
    DeviceClass.PHONE_MID: "android-15",
    DeviceClass.PHONE_HIGH: "ios-19",
    DeviceClass.LAPTOP: "linux-6",
}
APP_VERSION = "1.5.0"


class SpokenClip(Protocol):
    """What a scenario needs of a corpus clip (`fleet.corpus.CorpusClip`)."""

    @property
    def text(self) -> str: ...
    @property
    def speaker(self) -> str: ...
    @property
    def accent(self) -> str: ...
    @property
    def gender(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def corpus(self) -> str: ...

    def samples(self) -> Samples: ...


@dataclass
class FleetClip:
    """Something a person may say to a device. Audio is rendered when first heard, then kept."""

    name: str
    clip: SpokenClip
    channel: Callable[[Samples], Samples]
    _heard: tuple[Samples, AcousticMeasures] | None = None

    @property
    def text(self) -> str:
        return self.clip.text

    def heard(self) -> tuple[Samples, AcousticMeasures]:
        """What the microphone delivers (float32 mono 16 kHz) and its measures."""
        if self._heard is None:
            samples = self.channel(self.clip.samples())
            self._heard = samples, measure(samples)
        return self._heard


@dataclass(frozen=True)
class Person:
    """A speaker with the clips they may say and what they allow. No scopes: nothing is ever captured. Unless
    `remote_allowed`, nothing they say is turned into text by the edge.
    """

    name: str
    accent: str
    gender: str
    source: str
    clips: tuple[FleetClip, ...]
    scopes: frozenset[Scope]
    remote_allowed: bool = False


@dataclass(frozen=True)
class Population:
    """People and the microphones they speak into, by share."""

    name: str
    people: tuple[Person, ...]
    microphones: Mapping[Microphone, float]

    def draw(self, rng: random.Random) -> tuple[Person, DeviceContext]:
        """Somebody with a device."""
        device_class = rng.choices(list(CLASS_SHARES), list(CLASS_SHARES.values()))[0]
        microphone = rng.choices(list(self.microphones), list(self.microphones.values()))[0]
        context = DeviceContext(
            device_class=device_class, os=SYSTEMS[device_class], app_version=APP_VERSION, microphone=microphone
        )
        return rng.choice(self.people), context


@dataclass(frozen=True)
class Populations:
    """Who is there from the start, and who arrives later."""

    home: Population
    new: Population


@dataclass(frozen=True)
class Fault:
    """A model that is fine offline and fails on devices, in the hands of users.

    `latency_factor` multiplies its time; `corrupt` garbles its text. A silent shadow run does not show it unless
    `in_shadow` (a fault of the keyboard integration, not of the network).
    """

    model_version: str
    latency_factor: float = 1.0
    corrupt: bool = False
    in_shadow: bool = False
    crash_rate: float = 0.0


@dataclass
class Faults:
    """Faults by model version."""

    known: dict[str, Fault] = field(default_factory=dict)

    def inject(self, fault: Fault) -> None:
        self.known[fault.model_version] = fault

    def of(self, model_version: str, shadow: bool) -> Fault | None:
        fault = self.known.get(model_version)
        return None if fault is None or (shadow and not fault.in_shadow) else fault


def populations(
    home: Sequence[SpokenClip], new: Sequence[SpokenClip], seed: int, noises: Sequence[Samples] = ()
) -> Populations:
    """The home population (test speakers of `home`, or all where it has no test split) and the new one.

    Home people allow no captures: they are the corpus's evaluation speakers. Of the new people about a third allow
    evaluation only, so that a suite can hold speakers of this population that no model is trained on.

    Args:
        noises: noise for the new population's rooms, 16 kHz; coloured noise is made where there are none.

    Raises:
        FleetError: one of them is empty.
    """
    tested = [clip for clip in home if clip.split == "test"] or list(home)
    if not tested or not new:
        raise FleetError("a scenario needs at least one home clip and one clip of the new population")
    return Populations(
        home=Population(
            name="home",
            people=_people("home", _sample(tested, HOME_CLIPS, seed), seed, noises=None),
            microphones={Microphone.HEADSET: 0.5, Microphone.BUILT_IN: 0.4, Microphone.BLUETOOTH: 0.1},
        ),
        new=Population(
            name="new",
            people=_people("new", _sample(new, NEW_CLIPS, seed), seed, noises=list(noises)),
            microphones={Microphone.FAR_FIELD: 0.4, Microphone.BUILT_IN: 0.4, Microphone.BLUETOOTH: 0.2},
        ),
    )


def telephone_in_noise(name: str, seed: int, noises: Sequence[Samples]) -> Callable[[Samples], Samples]:
    """The new population's channel of one clip; band, noise, offset and SNR are fixed by `seed` and `name`."""

    def channel(samples: Samples) -> Samples:
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        if noises:
            noise = noises[int(rng.integers(len(noises)))]
            noise = np.take(noise, np.arange(samples.size) + int(rng.integers(noise.size)), mode="wrap")
        else:
            noise = coloured_noise(rng, samples.size)
        return mix(band_limit(samples, *TELEPHONE_HZ), noise, float(rng.uniform(*NEW_SNR_DB)))

    return channel


def _people(
    population: str, clips: Sequence[SpokenClip], seed: int, noises: Sequence[Samples] | None
) -> tuple[Person, ...]:
    """Clips grouped by speaker, in order of names. `noises` None: heard as recorded, and nothing is captured."""
    spoken: dict[str, list[FleetClip]] = {}
    first: dict[str, SpokenClip] = {}
    for number, clip in enumerate(clips):
        name = f"{population}-{number}"
        channel = _as_recorded if noises is None else telephone_in_noise(name, seed, noises)
        spoken.setdefault(clip.speaker, []).append(FleetClip(name, clip, channel))
        first.setdefault(clip.speaker, clip)
    names = sorted(spoken)
    evaluate_only = set(random.Random(seed).sample(names, int(len(names) * EVALUATE_ONLY_SHARE)))
    return tuple(
        Person(
            name=name,
            accent=first[name].accent,
            gender=first[name].gender,
            source=first[name].corpus,
            clips=tuple(spoken[name]),
            scopes=frozenset() if noises is None else _scopes(name in evaluate_only),
        )
        for name in names
    )


def _scopes(evaluate_only: bool) -> frozenset[Scope]:
    allowed = {Scope.TRANSCRIBE_REVIEW, Scope.EVALUATE}
    return frozenset(allowed if evaluate_only else allowed | {Scope.TRAIN})


def _as_recorded(samples: Samples) -> Samples:
    return samples


def _sample(clips: Sequence[SpokenClip], most: int, seed: int) -> list[SpokenClip]:
    """At most `most` clips, in their order."""
    if len(clips) <= most:
        return list(clips)
    return [clips[i] for i in sorted(random.Random(seed).sample(range(len(clips)), most))]
