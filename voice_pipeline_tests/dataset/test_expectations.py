"""The gate stops every broken row, names its clip, and keeps no transcript."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import pytest

from voice_pipeline.dataset.expectations import validate
from voice_pipeline.dataset.page import render
from voice_pipeline.schema.canonical import sha256_bytes
from voice_pipeline.schema.ids import uuid7

RNG = random.Random(1)


def row(number: int, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "clip_id": uuid7(datetime(2026, 3, 1, tzinfo=UTC), RNG),
        "content_sha256": sha256_bytes(str(number).encode()),
        "speaker": f"speaker-{number % 10}",
        "consent_id": f"consent-{number % 10}",
        "split": ("test", "dev", "train")[min(number % 10, 2)],
        "text": "it's a secret thing",
        "batch_id": "batch-20260301-001",
        "shard": "shards/batch-20260301-001.tar",
        "duration_s": 2.0,
        "device_class": "phone_low",
        "microphone": "built_in",
        "locale": "en-US",
        "captured_at": "2026-03-01T00:00:00+00:00",
    }
    return {**fields, **changes}


def sound(count: int = 40) -> list[dict[str, Any]]:
    return [row(number) for number in range(count)]


def test_sound_rows_pass_everything() -> None:
    validation = validate(sound())
    assert validation.passed
    assert [r for r in validation.results if not r.success] == []
    assert validation.rows == 40


BROKEN: dict[str, tuple[str, dict[str, Any]]] = {
    "empty text": ("text", {"text": ""}),
    "text is missing": ("text", {"text": None}),
    "capital letters": ("text", {"text": "Call Mary"}),
    "digits": ("text", {"text": "call 911"}),
    "trailing space": ("text", {"text": "call mary "}),
    "no speaker": ("speaker", {"speaker": None}),
    "no consent": ("consent_id", {"consent_id": None}),
    "too long": ("duration_s", {"duration_s": 30.5}),
    "no duration": ("duration_s", {"duration_s": 0.0}),
    "unknown split": ("split", {"split": "validation"}),
    "unknown device": ("device_class", {"device_class": "toaster"}),
    "unknown microphone": ("microphone", {"microphone": "tin can"}),
    "no digest": ("content_sha256", {"content_sha256": "abc"}),
    "no UUIDv7": ("clip_id", {"clip_id": "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"}),
    "speaker in two splits": ("splits_of_speaker", {"speaker": "speaker-0", "split": "train"}),
}


@pytest.mark.parametrize("case", BROKEN)
def test_one_broken_row_blocks_and_is_named(case: str) -> None:
    column, changes = BROKEN[case]
    rows = [*sound(), row(1007, **changes)]
    validation = validate(rows)
    assert not validation.passed
    failures = {failure.column: failure for failure in validation.failures("critical")}
    assert column in failures
    assert rows[-1]["clip_id"] in failures[column].clip_ids or failures[column].unexpected > 5


def test_a_recording_in_two_splits_blocks() -> None:
    rows = sound()
    rows[0]["content_sha256"] = rows[5]["content_sha256"]
    validation = validate(rows)
    assert "splits_of_recording" in {failure.column for failure in validation.failures("critical")}


def test_a_clip_that_counts_twice_blocks() -> None:
    rows = sound()
    assert not validate([*rows, rows[3]]).passed


def test_no_rows_block() -> None:
    assert not validate([]).passed


def test_odd_but_usable_rows_warn_and_pass() -> None:
    rows = [row(number, speaker="one", split="train") for number in range(20)]
    rows[3]["content_sha256"] = rows[4]["content_sha256"]
    validation = validate(rows)
    assert validation.passed
    assert {failure.column for failure in validation.failures("warning")} == {"speaker", "split", "content_sha256"}


def test_the_result_keeps_clip_ids_and_no_transcript() -> None:
    validation = validate([*sound(), row(7, text="My Secret")])
    assert "Secret" not in validation.model_dump_json()
    assert "Secret" not in render("Gate", validation)


def test_the_page_is_self_contained_and_shows_the_verdict() -> None:
    page = render("Gate <1>", validate([*sound(), row(7, text="UPPER")]))
    assert "Gate &lt;1&gt;: blocked" in page
    assert "transcripts are normalised" in page
    assert "http" not in page
    assert "<script" not in page
