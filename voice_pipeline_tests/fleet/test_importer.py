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
from voice_pipeline.schema.clip import UNKNOWN_DEVICE, CaptureEvent, DeviceContext
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
    imported = import_clips(store, CLIPS, DAYS, seed=1)
    assert (imported.new, imported.held, imported.changed) == (len(CLIPS), 0, ())
    assert sorted(imported.texts.values()) == sorted(clip.text for clip in CLIPS)
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
    assert (again.new, again.held, again.changed) == (len(CLIPS) - 16, 16, ())
    assert set(again.texts) == present
    assert len(present) == len(CLIPS)


@pytest.mark.parametrize("catalogued", [False, True])
def test_what_was_imported_before_is_held_once_on_whatever_day_and_a_changed_recording_is_told(
    store: Store, catalogued: bool
) -> None:
    first = import_clips(store, CLIPS, DAYS, seed=1)
    if catalogued:
        for day in DAYS:
            ingest_day(store, day.isoformat())
    before = store.database.rows(select(inbox))
    again = import_clips(store, CLIPS, DAYS[:1], seed=1)
    assert (again.new, again.held, again.changed, again.texts) == (0, len(CLIPS), (), first.texts)
    other = [replace(CLIPS[0], read=CLIPS[1].read), *CLIPS[1:], _clip(30)]
    third = import_clips(store, other, DAYS[1:], seed=1)
    assert (third.new, third.held, third.changed) == (1, len(CLIPS), ("clip-0",))
    assert store.database.rows(select(inbox))[: len(before)] == before


def test_a_recording_of_an_erased_speaker_is_refused_not_held(store: Store) -> None:
    import_clips(store, CLIPS, DAYS, seed=1)
    erase_subject(store, subject_token(store.subject_salt, "s4"), actor="s4")
    with pytest.raises(CorpusError, match="clip-4 is refused: its subject was erased"):
        import_clips(store, CLIPS, DAYS, seed=1)


def test_what_a_manifest_says_of_a_device_is_kept_and_nothing_is_invented(store: Store) -> None:
    told = replace(CLIPS[0], context=DeviceContext(**{**UNKNOWN_DEVICE.model_dump(), "microphone": "headset"}))
    import_clips(store, [told, *CLIPS[1:]], DAYS, seed=1)
    for day in DAYS:
        ingest_day(store, day.isoformat())
    columns = (clips.c.device_class, clips.c.os, clips.c.app_version, clips.c.microphone, clips.c.locale)
    rows = [tuple(row.values()) for row in store.database.rows(select(*columns))]
    unknown = ("unknown", "unknown", "unknown", "unknown", "und")
    assert sorted(set(rows)) == [("unknown", "unknown", "unknown", "headset", "und"), unknown]
    assert rows.count(unknown) == len(CLIPS) - 1


def _fail() -> np.ndarray:
    raise CorpusError("the disk is gone")


def test_a_corpus_of_three_speakers_is_refused_in_one_line(store: Store) -> None:
    with pytest.raises(CorpusError, match=r"3 speakers .* at least 4 speakers") as error:
        import_clips(store, [clip for clip in CLIPS if clip.speaker in {"s0", "s1", "s2"}], DAYS, seed=1)
    assert "\n" not in str(error.value)


def test_two_corpora_with_one_seed_do_not_collide(store: Store) -> None:
    others = [replace(clip, corpus="another") for clip in CLIPS]
    first, second = (import_clips(store, corpus, DAYS, seed=1).texts for corpus in (CLIPS, others))
    assert not first.keys() & second.keys()
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
