"""Recordings one already holds, taken in as consented clips through the same intake that devices use.

Promises: an import that cannot be taken in whole takes nothing in: every recording is decoded and judged first (the
import is held in memory as FLAC). Everything minted (clip ids, event ids, times of day) comes from the seed and from a
recording's corpus, speaker and path, so a recording that is imported again, on whatever day, is held once; one whose
sound has changed since is left as it was, and told.
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
from voice_pipeline.schema.canonical import digest, sha256_bytes
from voice_pipeline.schema.clip import CaptureEvent
from voice_pipeline.schema.consent import ConsentReceipt, Scope
from voice_pipeline.schema.ids import uuid7
from voice_pipeline.speech.audio import Samples, encode_flac, pcm16
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clips as clip_table
from voice_pipeline.store.tables import consents, inbox
from voice_pipeline.store.vault import subject_token

FEWEST_SPEAKERS = 4
NOTICE = "corpus-import-1"
PREFIX = "import-"
RANDOM_PART = 14
"""Where a UUIDv7 has told its time, and the part begins that is drawn from a recording's own name."""

TRAIN_SCOPES = frozenset({Scope.TRANSCRIBE_REVIEW, Scope.TRAIN, Scope.EVALUATE})
TEST_SCOPES = frozenset({Scope.TRANSCRIBE_REVIEW, Scope.EVALUATE})


@dataclass(frozen=True)
class Imported:
    """What an import came to.

    Attributes:
        texts: reference text by clip id, new clips and those held already; for simulated reviewers only.
        new: how many clips came in now.
        held: how many recordings had come in before.
        changed: of these, names of those that sound otherwise now; what came in before was kept.
    """

    texts: dict[str, str]
    new: int
    held: int
    changed: tuple[str, ...]


@dataclass(frozen=True)
class _Former:
    """A recording that came in before: `content` is the digest of a catalogued clip's samples, `original` of a file."""

    clip_id: str
    content: str | None
    original: str

    def sounds_like(self, samples: Samples) -> bool:
        if self.content is not None:
            return self.content == sha256_bytes(pcm16(samples))
        return self.original == sha256_bytes(encode_flac(samples))


def import_clips(store: Store, clips: Sequence[CorpusClip], days: Sequence[date], seed: int) -> Imported:
    """Take `clips` in, spread evenly over `days`.

    Speakers of the `test` split allow review and evaluation, never training.

    Raises:
        CorpusError: no clips, no days, fewer than four speakers, a day ahead of the clock or too long ago, or a
            recording that cannot be read or is refused.
    """
    _refuse_unusable(store, clips, days)
    receipts = {name: _receipt(store, name, clips, days[0]) for name in {clip.speaker for clip in clips}}
    former = _former(store)
    texts: dict[str, str] = {}
    changed: list[str] = []
    fresh: list[tuple[CorpusClip, CaptureEvent, bytes]] = []
    for number, clip in enumerate(clips):
        event = _event(seed, clip, receipts[clip.speaker], days[number * len(days) // len(clips)])
        known = former.get(event.clip_id[RANDOM_PART:])
        if known is None:
            fresh.append((clip, event, encode_flac(clip.samples())))
            continue
        texts[known.clip_id] = clip.text
        if not known.sounds_like(clip.samples()):
            changed.append(clip.name)
    _judge(store, fresh)
    held = len(clips) - len(fresh)
    answers = accept_many(store, [(event, audio) for _, event, audio in fresh])
    for answer, (clip, _, _) in zip(answers, fresh, strict=True):
        if answer.refused is not None:  # an erasure came between
            raise CorpusError(f"recording {clip.name} was refused: {answer.refused}")
        texts[answer.clip_id] = clip.text
    return Imported(texts, new=sum(not answer.duplicate for answer in answers), held=held, changed=tuple(changed))


def _refuse_unusable(store: Store, clips: Sequence[CorpusClip], days: Sequence[date]) -> None:
    if not clips or not days:
        raise CorpusError("an import needs at least one clip and one day")
    for day in days:
        if partition_day(datetime.combine(day, time(8), UTC), store.now()) != day.isoformat():
            raise CorpusError(
                f"day {day} is ahead of {store.now():%F %R} UTC or over {MAX_AGE.days} days ago; choose another"
            )
    names = {clip.speaker for clip in clips}
    if len(names) < FEWEST_SPEAKERS:
        raise CorpusError(
            f"a corpus of {len(names)} speakers cannot be split into training, development and test; "
            f"bring recordings of at least {FEWEST_SPEAKERS} speakers"
        )


def _former(store: Store) -> dict[str, _Former]:
    """What imports brought before, by the part of its clip id that its name decides; erased recordings are unknown."""
    rows = store.database.rows(
        select(inbox.c.clip_id, inbox.c.sha256, clip_table.c.content_sha256)
        .outerjoin(clip_table, clip_table.c.clip_id == inbox.c.clip_id)
        .where(inbox.c.event_id.startswith(PREFIX), inbox.c.state != "erased")
        .order_by(inbox.c.clip_id.desc())
    )
    return {row["clip_id"][RANDOM_PART:]: _Former(row["clip_id"], row["content_sha256"], row["sha256"]) for row in rows}


def _judge(store: Store, fresh: Sequence[tuple[CorpusClip, CaptureEvent, bytes]]) -> None:
    """Raises `CorpusError` for the first recording that the intake would refuse."""
    receipts = {row["consent_id"]: dict(row) for row in store.database.rows(select(consents))}
    erased = store.vault.erased()
    for clip, event, audio in fresh:
        refusal = refusal_of(event, len(audio), receipts, erased)
        if refusal is not None:
            raise CorpusError(f"recording {clip.name} is refused: {refusal.detail}; nothing was taken in, leave it out")


def _receipt(store: Store, name: str, clips: Sequence[CorpusClip], first_day: date) -> ConsentReceipt:
    token = subject_token(store.subject_salt, name)
    tested = any(clip.split == "test" for clip in clips if clip.speaker == name)
    granted = datetime.combine(first_day, time(0), UTC)
    scopes = TEST_SCOPES if tested else TRAIN_SCOPES
    return ConsentReceipt(
        consent_id=digest([token, sorted(scopes), granted])[:32],
        subject_token=token,
        scopes=scopes,
        granted_at=granted,
        notice_version=NOTICE,
    )


def _event(seed: int, clip: CorpusClip, consent: ConsentReceipt, day: date) -> CaptureEvent:
    """What a clip's ids and time are drawn from is its own name: another corpus with the same seed collides nowhere."""
    rng = random.Random(f"{seed}|{clip.corpus}|{clip.speaker}|{clip.name}")
    captured = datetime.combine(day, time(8), UTC) + timedelta(seconds=rng.randrange(10 * 3600))
    clip_id = uuid7(captured, rng)
    return CaptureEvent(
        event_id=f"{PREFIX}{clip_id}",
        clip_id=clip_id,
        consent=consent,
        captured_at=captured,
        context=clip.context,
        accent=clip.accent[:80],
        gender=clip.gender[:20],
        age=clip.age[:20],
        source=clip.corpus[:80],
    )
