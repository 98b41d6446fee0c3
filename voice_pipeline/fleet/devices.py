"""A fleet of simulated devices that does to the system what a real one would: ask for its model over OFREP, run the
released bundle, report scalars, and post clips that people allowed.

Every device asks the edge for itself and belongs to one person, who does with an answer what people do (`habits`). Some
are a full `DeviceClient` from question to outbox (`clients`); the others ask in the client's words and share verified
recognisers (`answers`), which is what makes 300 devices cheap. All draws come from the seed and the time of the tick.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from voice_pipeline.device.assignment import SETTLED, DeviceAssignment, Flags
from voice_pipeline.device.clock import Clock
from voice_pipeline.device.errors import DeviceError, EdgeUnavailableError
from voice_pipeline.device.flags import ask_flags
from voice_pipeline.fleet.answers import Answer, Answers, answer_to
from voice_pipeline.fleet.clients import Device, FullClients, draw_device, draw_left_behind
from voice_pipeline.fleet.errors import FleetError
from voice_pipeline.fleet.habits import abandonment, corrected_words, failure_mode
from voice_pipeline.fleet.offers import Offer, Offers
from voice_pipeline.fleet.scenario import Fault, Faults, FleetClip, Populations
from voice_pipeline.schema.clip import DeviceClass, FailureMode
from voice_pipeline.schema.inference import InferenceMode
from voice_pipeline.schema.telemetry import TelemetryEvent
from voice_pipeline.speech.confidence import scalars
from voice_pipeline.speech.measures import speaking_rate
from voice_pipeline.trust import TrustError

CRASH_RATE = 0.0005
FALLBACK_RATE = 0.005
JITTER = 0.12
BATCH = 2_000
AFAR_A_TICK = 2
"""Dictations of a person whose device has to ask the edge for each: fewer than others'."""
POLLERS = 4


class EdgeRefusedError(FleetError):
    """The edge did not take what the fleet sent."""


@dataclass(frozen=True)
class TickStats:
    """What one tick did. `captured` holds the reference text of each posted clip, `word_error_rate` is that of all
    dictations by model version, `refused` the models that devices would not run, with the reason, `remote` how many
    dictations the edge turned into text.
    """

    at: datetime
    devices: int
    events: int
    by_model: Mapping[str, int]
    word_error_rate: Mapping[str, float]
    captured: Mapping[str, str]
    refused: Mapping[str, str]
    seconds: float
    remote: int = 0


@dataclass
class _Round:
    """What is gathered while a tick runs."""

    at: datetime
    rng: random.Random
    events: list[TelemetryEvent] = field(default_factory=list)
    offers: list[Offer] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)
    refused: dict[str, str] = field(default_factory=dict)
    remote: int = 0


@dataclass(frozen=True)
class _Heard:
    """What became of one dictation, and who did it. `latency_ms` is without jitter."""

    model_version: str
    release_id: str | None
    answer: Answer
    latency_ms: float
    crash_rate: float = 0.0
    fallback: bool = False
    answered: InferenceMode = InferenceMode.LOCAL


class SimulatedFleet:
    """Args:
    devices: how many; their ids are `device-0000` and on.
    edge_url: where the edge answers.
    root: keeps what the devices store.
    populations: who is there (`home`) and who may be admitted later (`new`).
    old_apps: further devices, whose app is too old for every model and whose people allow remote dictation.
    """

    def __init__(
        self, devices: int, seed: int, edge_url: str, root: Path, populations: Populations, old_apps: int = 0
    ) -> None:
        import httpx

        self._seed = seed
        self._edge_url = edge_url.rstrip("/")
        self._root = root
        self._populations = populations
        self._http = httpx.Client(timeout=60, limits=httpx.Limits(max_connections=POLLERS))
        self._faults = Faults()
        self._offers = Offers(seed, self._edge_url, self._http)
        self._clock: Clock | None = None
        self._answers: Answers | None = None
        self._clients = FullClients(root, self._edge_url, self._http, self._trusted_root, _Following(self))
        self._told: dict[str, Flags] = {}
        rng = random.Random(f"{seed}|fleet")
        self.devices = [draw_device(number, populations.home, rng) for number in range(devices)]
        self.devices += [draw_left_behind(devices + number, populations.home, rng) for number in range(old_apps)]
        self._usual = devices

    def admit_new_population(self, share: float) -> int:
        """Put the new population behind `share` of the devices; returns how many changed hands."""
        rng = random.Random(f"{self._seed}|new")
        taken = sorted(rng.sample(range(self._usual), round(share * self._usual)))
        for number in taken:
            person, context = self._populations.new.draw(rng)
            former = self.devices[number]
            context = context.model_copy(update={"device_class": former.context.device_class, "os": former.context.os})
            self.devices[number] = replace(former, person=person, context=context)
        return len(taken)

    def inject(self, fault: Fault) -> None:
        """From now on `fault.model_version` misbehaves on devices."""
        self._faults.inject(fault)

    def tick(self, clock: Clock, dictations_per_device: int) -> TickStats:
        """Every device asks for its model, dictates, and reports; nothing is waited for afterwards.

        Raises:
            EdgeRefusedError: the edge does not answer or refuses telemetry.
        """
        started = time.monotonic()
        self._clock = clock
        round_ = _Round(clock.now(), random.Random(f"{self._seed}|{clock.now().isoformat()}"))
        flags = self._poll()
        chosen = _full(self.devices, flags)
        full = [device for device in self.devices if device in chosen or self._clients.holds(device.device_id)]
        round_.refused |= self._clients.update(full)
        for device, told in zip(self.devices, flags, strict=True):
            if told.assignment.model_version is None and told.mode is InferenceMode.REMOTE:
                self._dictate_afar(device, min(dictations_per_device, AFAR_A_TICK), round_)
            elif self._ready(told.assignment, round_):
                self._dictate(device, told.assignment, dictations_per_device, round_)
        self._report(round_.events)
        captured = self._offers.post(round_.offers, round_.at)
        return TickStats(
            at=round_.at,
            devices=len(self.devices),
            events=len(round_.events),
            by_model=dict(Counter(event.model_version for event in round_.events)),
            word_error_rate={model: round_.errors[model] / max(1, words) for model, words in round_.words.items()},
            captured=captured,
            refused=round_.refused,
            remote=round_.remote,
            seconds=time.monotonic() - started,
        )

    def answering(self) -> dict[str, str]:
        """Every full client asks what to run and hears a clip: the model that answered, by device id."""
        return self._clients.answering(self.devices)

    def close(self) -> None:
        self._clients.close()
        self._http.close()

    # --- which model --------------------------------------------------------------------------------------------------

    def _poll(self) -> list[Flags]:
        """What each device is told, in order, over OFREP."""
        with ThreadPoolExecutor(POLLERS) as pool:
            return list(pool.map(self._ask, self.devices))

    def _ask(self, device: Device) -> Flags:
        """What a `DeviceClient` asks, in its own words; the last answer is kept while the edge says that it holds."""
        try:
            told = ask_flags(
                self._http, self._edge_url, device.device_id, device.context, self._told.get(device.device_id)
            )
        except EdgeUnavailableError as error:
            raise EdgeRefusedError(str(error)) from error
        self._told[device.device_id] = told
        return told

    def _ready(self, assignment: DeviceAssignment, round_: _Round) -> bool:
        """Whether a device with this assignment has a model to run; one that it refuses is noted."""
        if assignment.model_version is None or assignment.bundle_digest is None:
            return False
        if assignment.model_version in round_.refused:
            return False
        try:
            self._shared().model(assignment.model_version, assignment.bundle_digest)
        except (DeviceError, TrustError) as error:
            round_.refused[assignment.model_version] = str(error)
            return False
        return True

    def _shared(self) -> Answers:
        if self._answers is None:
            self._answers = Answers(
                self._root / "shared", self._edge_url, self._http, self._trusted_root(), lambda: self._time().now()
            )
        return self._answers

    def _time(self) -> Clock:
        if self._clock is None:
            raise FleetError("the fleet has not ticked yet")
        return self._clock

    def _trusted_root(self) -> bytes:
        """The root that an app would ship with; a simulated factory reads it where it is published."""
        import httpx

        try:
            response = self._http.get(f"{self._edge_url}/tuf/metadata/1.root.json")
            response.raise_for_status()
        except httpx.HTTPError as error:
            raise EdgeRefusedError(f"edge serves no update repository: {error}; publish a bundle first") from error
        return response.content

    # --- dictations ---------------------------------------------------------------------------------------------------

    def _dictate(self, device: Device, assignment: DeviceAssignment, count: int, round_: _Round) -> None:
        """On the device, with the model it was assigned and the shadow beside it."""
        for number in range(count):
            clip = round_.rng.choice(device.person.clips)
            heard = self._heard(device, assignment, clip)
            told = self._note(device, clip, heard, number, count, round_)
            duration_s = clip.heard()[1].duration_s
            shadow = self._shadow(assignment, clip, device.context.device_class, duration_s, round_.rng)
            event = TelemetryEvent(**(dict(told) | shadow)) if shadow else told
            round_.events.append(event)
            reason = failure_mode(heard.answer)
            if reason is not FailureMode.NONE and device.person.scopes:
                said = (event, heard.answer.text, heard.answer.posteriors)
                round_.offers.append(Offer(device.person, device.context, clip, reason, *said))

    def _dictate_afar(self, device: Device, count: int, round_: _Round) -> None:
        """By the device's own client, which has no model and asks the edge, if its person allows that."""
        for number in range(count):
            clip = round_.rng.choice(device.person.clips)
            dictation = self._clients.dictate(device, clip)
            if dictation is None:
                return
            answer = answer_to(clip, dictation.text, dictation.confidence, {}, None)
            heard = _Heard(
                dictation.model_version,
                None,
                answer,
                dictation.latency_ms,
                fallback=dictation.fallback,
                answered=dictation.answered,
            )
            round_.events.append(self._note(device, clip, heard, number, count, round_))
            round_.remote += dictation.answered is InferenceMode.REMOTE

    def _heard(self, device: Device, assignment: DeviceAssignment, clip: FleetClip) -> _Heard:
        """What the assigned model makes of a clip; a full client answers by itself, with the model in its slot."""
        model, digest = str(assignment.model_version), str(assignment.bundle_digest)
        fault = self._faults.of(model, shadow=False)
        own = self._clients.dictate(device, clip) if self._clients.holds(device.device_id) else None
        if own is not None and own.recognition is not None and own.bundle_digest == digest:
            answer = answer_to(clip, own.text, own.confidence, scalars(own.recognition.posteriors), fault)
        else:
            answer = self._shared().answer(model, digest, clip, fault)
        duration_s = clip.heard()[1].duration_s
        latency = self._shared().latency_ms(model, digest, device.context.device_class, duration_s, fault)
        return _Heard(model, assignment.release_id, answer, latency, fault.crash_rate if fault else 0.0)

    def _note(
        self, device: Device, clip: FleetClip, heard: _Heard, number: int, count: int, round_: _Round
    ) -> TelemetryEvent:
        """The `number`-th of `count` dictations as the device tells of it."""
        at, rng, answer = round_.at - timedelta(seconds=count - number), round_.rng, heard.answer
        _samples, measures = clip.heard()
        round_.errors[heard.model_version] += answer.errors
        round_.words[heard.model_version] += answer.words
        crashed = rng.random() < heard.crash_rate + CRASH_RATE
        return TelemetryEvent(
            event_id=f"{device.device_id}-{at:%Y%m%dT%H%M%S}-{number}",
            device_id=device.device_id,
            at=at,
            context=device.context,
            model_version=heard.model_version,
            release_id=heard.release_id,
            words=answer.words,
            corrected_words=corrected_words(answer, rng),
            confidence=answer.confidence,
            latency_ms=heard.latency_ms * rng.lognormvariate(0, JITTER),
            crashed=crashed,
            abandoned=not crashed and rng.random() < abandonment(answer),
            fallback=rng.random() < FALLBACK_RATE or heard.fallback,
            answered=heard.answered,
            **{name: getattr(measures, name) for name in MEASURED},
            speaking_rate=speaking_rate(answer.text, measures.duration_s),
        )

    def _shadow(
        self,
        assignment: DeviceAssignment,
        clip: FleetClip,
        device_class: DeviceClass,
        duration_s: float,
        rng: random.Random,
    ) -> dict[str, Any]:
        """The silent second model's figures, where the device has one to run."""
        model, digest = assignment.shadow_model_version, assignment.shadow_bundle_digest
        if model is None or digest is None:
            return {}
        fault = self._faults.of(model, shadow=True)
        answer = self._shared().answer(model, digest, clip, fault)
        latency = self._shared().latency_ms(model, digest, device_class, duration_s, fault)
        return {
            "shadow_model_version": model,
            "shadow_corrected_words": corrected_words(answer, rng),
            "shadow_latency_ms": latency * rng.lognormvariate(0, JITTER),
            "shadow_confidence": answer.confidence,
        }

    # --- telling ------------------------------------------------------------------------------------------------------

    def _report(self, events: Sequence[TelemetryEvent]) -> None:
        """Full clients report through their outbox, the others in batches."""
        rest = self._clients.report(events)
        for start in range(0, len(rest), BATCH):
            self._post(rest[start : start + BATCH])

    def _post(self, events: Sequence[TelemetryEvent]) -> None:
        import httpx

        body = '{"events":[' + ",".join(event.model_dump_json() for event in events) + "]}"
        try:
            response = self._http.post(
                f"{self._edge_url}/v1/telemetry", content=body, headers={"content-type": "application/json"}
            )
            response.raise_for_status()
        except httpx.HTTPError as error:
            raise EdgeRefusedError(f"edge did not take {len(events)} telemetry events: {error}") from error


MEASURED = (
    "duration_s",
    "snr_db",
    "loudness_dbfs",
    "clipping",
    "spectral_tilt",
    "band_low",
    "band_mid",
    "band_high",
)


@dataclass(frozen=True)
class _Following:
    """The clock of a full client: that of the fleet's current tick."""

    fleet: SimulatedFleet

    def now(self) -> datetime:
        return self.fleet._time().now()


def _full(devices: Sequence[Device], flags: Sequence[Flags]) -> list[Device]:
    """The first device of each class, the first that tries a candidate, and those that no model fits."""
    firsts: dict[DeviceClass, Device] = {}
    for device in devices:
        firsts.setdefault(device.context.device_class, device)
    trying = [one for one, told in zip(devices, flags, strict=True) if _tries(told.assignment)]
    unfit = [one for one, told in zip(devices, flags, strict=True) if told.assignment.model_version is None]
    live = any(told.assignment.model_version is not None for told in flags)
    return [*firsts.values(), *trying[:1], *(unfit if live else ())]


def _tries(assignment: DeviceAssignment) -> bool:
    """Whether the device answers with a model under trial; the silent second model of a shadow is none."""
    answers, shadows = assignment.model_version is not None, assignment.shadow_model_version is not None
    return answers and not shadows and assignment.reason != SETTLED
