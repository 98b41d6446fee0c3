"""An import is consented, repeatable and quick."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from sqlalchemy import func, select

from voice_pipeline.capture.erasure import erase_subject
from voice_pipeline.capture.ingest import ingest_day
from voice_pipeline.capture.intake import Accepted, accept_many
from voice_pipeline.fleet import importer
from voice_pipeline.fleet.corpus import CorpusClip
from voice_pipeline.fleet.errors import CorpusError
from voice_pipeline.fleet.importer import import_clips
from voice_pipeline.schema.clip import CaptureEvent
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clips, consents, inbox
from voice_pipeline.store.vault import subject_token

DAYS = [date(2026, 10, 30), date(2026, 10, 31), date(2026, 11, 1)]


def _clip(number: int) -> CorpusClip:
    samples = np.random.default_rng(number).standard_normal(4_000).astype(np.float32) * 0.1
    speaker = number % 5
    return CorpusClip(
        name=f"clip-{number}",
        text=f"text {number}",
        speaker=f"s{speaker}",
        accent="",
        gender="",
        age="",
        split="test" if speaker == 0 else "train",
        corpus="own",
        read=lambda: samples,
    )


CLIPS = [_clip(number) for number in range(30)]


def test_every_clip_comes_in_on_its_day_under_its_speakers_consent(store: Store) -> None:
    truth = import_clips(store, CLIPS, DAYS, seed=1)
    assert sorted(truth.values()) == sorted(clip.text for clip in CLIPS)
    assert sum(ingest_day(store, day.isoformat()).catalogued for day in DAYS) == len(CLIPS)
    days = store.database.rows(select(clips.c.capture_date, func.count().label("n")).group_by(clips.c.capture_date))
    assert {row["capture_date"]: row["n"] for row in days} == {day.isoformat(): 10 for day in DAYS}
    scopes = [row["scopes"] for row in store.database.rows(select(consents.c.scopes))]
    assert sorted("train" in allowed for allowed in scopes) == [False, True, True, True, True]


def test_one_damaged_recording_keeps_the_whole_import_out(store: Store) -> None:
    broken = [*CLIPS[:20], replace(CLIPS[20], read=_fail), *CLIPS[21:]]
    with pytest.raises(CorpusError, match="the disk is gone"):
        import_clips(store, broken, DAYS, seed=1)
    assert store.database.scalar(select(func.count()).select_from(inbox)) == 0


def test_one_refused_recording_keeps_the_whole_import_out(store: Store) -> None:
    erase_subject(store, subject_token(store.subject_salt, "s4"), actor="s4")
    with pytest.raises(CorpusError, match="clip-4 is refused: its subject was erased"):
        import_clips(store, CLIPS, DAYS, seed=1)
    assert store.database.scalar(select(func.count()).select_from(inbox)) == 0


def test_an_import_that_broke_off_is_completed_by_the_same_import(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def accept_some(store: Store, items: list[tuple[CaptureEvent, bytes]]) -> list[Accepted]:
        accept_many(store, items[:16])
        raise OSError("the disk is gone")

    monkeypatch.setattr(importer, "accept_many", accept_some)
    with pytest.raises(OSError, match="disk"):
        import_clips(store, CLIPS, DAYS, seed=1)
    monkeypatch.undo()
    assert store.database.scalar(select(func.count()).select_from(inbox)) == 16
    again = import_clips(store, CLIPS, DAYS, seed=1)
    present = {row["clip_id"] for row in store.database.rows(select(inbox.c.clip_id))}
    assert set(again) == present
    assert len(present) == len(CLIPS)


def _fail() -> np.ndarray:
    raise CorpusError("the disk is gone")


def test_a_corpus_of_three_speakers_is_refused_in_one_line(store: Store) -> None:
    with pytest.raises(CorpusError, match=r"3 speakers .* at least 4 speakers") as error:
        import_clips(store, [clip for clip in CLIPS if clip.speaker in {"s0", "s1", "s2"}], DAYS, seed=1)
    assert "\n" not in str(error.value)


def test_two_corpora_with_one_seed_do_not_collide(store: Store) -> None:
    others = [replace(clip, corpus="another") for clip in CLIPS]
    assert not import_clips(store, CLIPS, DAYS, seed=1).keys() & import_clips(store, others, DAYS, seed=1).keys()
    assert store.database.scalar(select(func.count()).select_from(inbox)) == 2 * len(CLIPS)


def test_a_speaker_is_a_pseudonym(store: Store) -> None:
    import_clips(store, CLIPS, DAYS, seed=1)
    events = [str(row["event"]) for row in store.database.rows(select(inbox.c.event))]
    assert not any("'s1'" in event for event in events)


@pytest.mark.parametrize("days", [[], [date(2026, 11, 9)], [date(2025, 1, 1)]])
def test_days_the_clock_does_not_believe_are_refused_before_anything_comes_in(store: Store, days: list[date]) -> None:
    with pytest.raises(CorpusError):
        import_clips(store, CLIPS, days, seed=1)
    assert store.database.scalar(select(func.count()).select_from(inbox)) == 0
