"""Consent receipts, in the sense of ISO/IEC TS 27560:2023: who allowed what, when, under which notice."""

from __future__ import annotations

from enum import StrEnum

from voice_pipeline.schema.base import Record, UtcTime


class Scope(StrEnum):
    """What a person allowed. A clip is used for nothing that its consent does not name."""

    TRANSCRIBE_REVIEW = "transcribe_review"
    TRAIN = "train"
    EVALUATE = "evaluate"


class ConsentReceipt(Record):
    """One grant by one installation (`subject_token`, an HMAC pseudonym, never an account)."""

    consent_id: str
    subject_token: str
    scopes: frozenset[Scope]
    granted_at: UtcTime
    notice_version: str
    jurisdiction: str = ""
