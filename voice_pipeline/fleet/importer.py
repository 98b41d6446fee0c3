"""Recordings one already holds, taken in as consented clips through the same intake that devices use.

Promises: an import that cannot be taken in whole takes nothing in: every recording is decoded and judged first (the
import is held in memory as FLAC). Everything minted (clip ids, event ids, device contexts, times of day) comes from the
seed, so the same import twice is the same clips once.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import select

from voice_pipeline.capture.admission import refusal_of
from voice_pipeline.capture.days import MAX_AGE, partition_day
from voice_pipeline.capture.intake import accept_many
from voice_pipeline.fleet.corpus import CorpusClip
from voice_pipeline.fleet.errors import CorpusError
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.clip import CaptureEvent, DeviceClass, DeviceContext, Microphone
from voice_pipeline.schema.consent import ConsentReceipt, Scope
from voice_pipeline.schema.ids import uuid7
from voice_pipeline.speech.audio import encode_flac
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import consents, inbox
from voice_pipeline.store.vault import subject_token

FEWEST_SPEAKERS = 4
NOTICE = "corpus-import-1"
TRAIN_SCOPES = frozenset({Scope.TRANSCRIBE_REVIEW, Scope.TRAIN, Scope.EVALUATE})
TEST_SCOPES = frozenset({Scope.TRANSCRIBE_REVIEW, Scope.EVALUATE})
MICROPHONES = (Microphone.HEADSET, Microphone.BUILT_IN, Microphone.BLUETOOTH)


@dataclass(frozen=True)
class Speaker:
    """What all clips of one speaker share."""

    consent: ConsentReceipt
    context: DeviceContext


def import_clips(store: Store, clips: Sequence[CorpusClip], days: Sequence[date], seed: int) -> dict[str, str]:
    """Take `clips` in, spread evenly over `days`; returns reference text by clip id, for simulated reviewers only.

    Speakers of the `test` split allow review and evaluation, never training.

    Raises:
        CorpusError: no clips, no days, fewer than four speakers, a day ahead of the clock or too long ago, or a
            recording that cannot be read or is refused.
    """
    if not clips or not days:
        raise CorpusError("an import needs at least one clip and one day")
    for day in days:
        if partition_day(datetime.combine(day, time(8), UTC), store.now()) != day.isoformat():
            raise CorpusError(
                f"day {day} is ahead of {store.now():%F %R} UTC or over {MAX_AGE.days} days ago; choose another"
            )
    names = sorted({clip.speaker for clip in clips})
    if len(names) < FEWEST_SPEAKERS:
        raise CorpusError(
            f"a corpus of {len(names)} speakers cannot be split into training, development and test; "
            f"bring recordings of at least {FEWEST_SPEAKERS} speakers"
        )
    speakers = {name: _speaker(store, name, clips, days[0], seed) for name in names}
    events = [
        _event(seed, clip, speakers[clip.speaker], days[n * len(days) // len(clips)]) for n, clip in enumerate(clips)
    ]
    items = [(event, encode_flac(clip.samples())) for event, clip in zip(events, clips, strict=True)]
    _judge(store, items, clips)
    truth: dict[str, str] = {}
    for answer, clip in zip(accept_many(store, items), clips, strict=True):
        if answer.refused is not None:  # an erasure came between
            raise CorpusError(f"recording {clip.name} was refused: {answer.refused}")
        truth[answer.clip_id] = clip.text
    return truth


def _judge(store: Store, items: Sequence[tuple[CaptureEvent, bytes]], clips: Sequence[CorpusClip]) -> None:
    """Raises `CorpusError` for the first recording that the intake would refuse; what it already has it takes again."""
    receipts = {row["consent_id"]: dict(row) for row in store.database.rows(select(consents))}
    known = {row["event_id"] for row in store.database.rows(select(inbox.c.event_id))}
    erased = store.vault.erased()
    for (event, audio), clip in zip(items, clips, strict=True):
        refusal = None if event.event_id in known else refusal_of(event, len(audio), receipts, erased)
        if refusal is not None:
            raise CorpusError(f"recording {clip.name} is refused: {refusal.detail}; nothing was taken in, leave it out")


def _speaker(store: Store, name: str, clips: Sequence[CorpusClip], first_day: date, seed: int) -> Speaker:
    rng = random.Random(f"{seed}|{name}")
    token = subject_token(store.subject_salt, name)
    tested = any(clip.split == "test" for clip in clips if clip.speaker == name)
    granted = datetime.combine(first_day, time(0), UTC)
    scopes = TEST_SCOPES if tested else TRAIN_SCOPES
    consent_id = digest([token, sorted(scopes), granted])[:32]
    return Speaker(
        consent=ConsentReceipt(
            consent_id=consent_id, subject_token=token, scopes=scopes, granted_at=granted, notice_version=NOTICE
        ),
        context=DeviceContext(
            device_class=rng.choice(list(DeviceClass)),
            os="linux-6",
            app_version="1.4.0",
            microphone=rng.choice(MICROPHONES),
        ),
    )


def _event(seed: int, clip: CorpusClip, speaker: Speaker, day: date) -> CaptureEvent:
    """What a clip's ids and time are drawn from is its own name: another corpus with the same seed collides nowhere."""
    rng = random.Random(f"{seed}|{clip.corpus}|{clip.speaker}|{clip.name}")
    captured = datetime.combine(day, time(8), UTC) + timedelta(seconds=rng.randrange(10 * 3600))
    clip_id = uuid7(captured, rng)
    return CaptureEvent(
        event_id=f"import-{clip_id}",
        clip_id=clip_id,
        consent=speaker.consent,
        captured_at=captured,
        context=speaker.context,
        accent=clip.accent[:80],
        gender=clip.gender[:20],
        age=clip.age[:20],
        source=clip.corpus[:80],
    )
