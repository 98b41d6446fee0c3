"""Clips that the fleet's people give away: consent receipt, audio and reference text.

The same recording is offered once; a tick offers a bounded number, the least sure first, since devices are frugal too.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from voice_pipeline.fleet.errors import FleetError
from voice_pipeline.fleet.scenario import FleetClip, Person
from voice_pipeline.schema.clip import CaptureEvent, DeviceContext, FailureMode
from voice_pipeline.schema.consent import ConsentReceipt
from voice_pipeline.schema.ids import uuid7
from voice_pipeline.schema.telemetry import TelemetryEvent
from voice_pipeline.speech.audio import encode_flac

if TYPE_CHECKING:
    import httpx

MOST_A_TICK = 240
POSTERS = 4
NOTICE = "field-1"


class OfferRefusedError(FleetError):
    """The edge did not take an offered clip."""


@dataclass(frozen=True)
class Offer:
    """A dictation that a person lets people listen to, and why the device offers it."""

    person: Person
    context: DeviceContext
    clip: FleetClip
    reason: FailureMode
    event: TelemetryEvent
    hypothesis: str
    posteriors: dict[str, float]


class Offers:
    """Posts offers; remembers which recordings were taken."""

    def __init__(self, seed: int, edge_url: str, http: httpx.Client) -> None:
        self._seed = seed
        self._url = f"{edge_url}/v1/captures"
        self._http = http
        self._taken: set[str] = set()
        self._receipts: dict[str, ConsentReceipt] = {}

    def post(self, offers: Sequence[Offer], at: datetime) -> dict[str, str]:
        """Post at most `MOST_A_TICK` recordings that were not posted before; returns reference text by clip id.

        Raises:
            OfferRefusedError: the edge does not answer or refuses one.
        """
        fresh: dict[str, Offer] = {}
        for offer in sorted(offers, key=lambda o: (o.event.confidence, o.event.event_id)):
            if offer.clip.name not in self._taken:
                fresh.setdefault(offer.clip.name, offer)
        rng = random.Random(f"{self._seed}|offers|{at.isoformat()}")
        chosen = list(fresh.values())[:MOST_A_TICK]
        events = [self._event(offer, uuid7(offer.event.at, rng), at) for offer in chosen]
        with ThreadPoolExecutor(POSTERS) as pool:
            list(pool.map(self._send, events, chosen))
        self._taken.update(offer.clip.name for offer in chosen)
        return {event.clip_id: offer.clip.text for event, offer in zip(events, chosen, strict=True)}

    def _event(self, offer: Offer, clip_id: str, at: datetime) -> CaptureEvent:
        return CaptureEvent(
            event_id=f"capture-{clip_id}",
            clip_id=clip_id,
            consent=self._receipt(offer.person, at),
            captured_at=offer.event.at,
            context=offer.context,
            failure_mode=offer.reason,
            model_version=offer.event.model_version,
            hypothesis=offer.hypothesis,
            confidence=offer.event.confidence,
            latency_ms=offer.event.latency_ms,
            posteriors=offer.posteriors,
            accent=offer.person.accent,
            gender=offer.person.gender,
            source=offer.person.source,
        )

    def _receipt(self, person: Person, at: datetime) -> ConsentReceipt:
        """One grant a person, given when first needed. The fleet makes its own pseudonyms, as installations do."""
        if person.name not in self._receipts:
            token = hashlib.sha256(f"fleet|{self._seed}|{person.name}".encode()).hexdigest()[:32]
            self._receipts[person.name] = ConsentReceipt(
                consent_id=f"consent-field-{token[:12]}",
                subject_token=token,
                scopes=person.scopes,
                granted_at=at - timedelta(hours=1),
                notice_version=NOTICE,
            )
        return self._receipts[person.name]

    def _send(self, event: CaptureEvent, offer: Offer) -> None:
        import httpx

        samples, _measures = offer.clip.heard()
        try:
            response = self._http.post(
                self._url,
                data={"event": event.model_dump_json()},
                files={"audio": ("clip.flac", encode_flac(samples), "audio/flac")},
            )
            response.raise_for_status()
        except httpx.HTTPError as error:
            raise OfferRefusedError(f"edge did not take clip {event.clip_id}: {error}") from error
