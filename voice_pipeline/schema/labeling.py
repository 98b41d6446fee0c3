"""Routes, tasks and reviews: how a clip becomes a label."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from voice_pipeline.schema.base import Record, UtcTime


class Route(StrEnum):
    """Where triage sends a clip."""

    ACCEPT = "accept"
    TRANSCRIPTION_QA = "transcription_qa"
    ACCENT_REVIEW = "accent_review"
    PHONETIC_REVIEW = "phonetic_review"
    AUGMENT = "augment"
    DUPLICATE = "duplicate"
    REJECT = "reject"


class ReviewPass(StrEnum):
    """Blind first and second pass, then a third person decides where they differ. Gold items score reviewers."""

    FIRST = "first"
    SECOND = "second"
    ADJUDICATION = "adjudication"
    GOLD = "gold"


class TaskState(StrEnum):
    OPEN = "open"
    DONE = "done"
    ESCALATED = "escalated"
    WITHDRAWN = "withdrawn"


class LabelMethod(StrEnum):
    SINGLE = "single"
    AGREED = "agreed"
    ADJUDICATED = "adjudicated"


class MisheardSpan(Record):
    """A stretch of the audio (seconds from its start) where the machine misheard."""

    start_s: float = Field(ge=0)
    end_s: float = Field(ge=0)
    heard: str
    said: str


class Review(Record):
    """One reviewer's answer to one task."""

    task_id: str
    reviewer: str
    transcript: str = Field(max_length=2000)
    unintelligible: bool = False
    spans: tuple[MisheardSpan, ...] = ()
    submitted_at: UtcTime
