"""States, verdicts and outcomes of a release."""

from __future__ import annotations

from enum import StrEnum

from voice_pipeline.schema.base import Record, Sha256, UtcTime


class ReleaseState(StrEnum):
    """Where a release stands. Canary states carry their exposure in percent."""

    CANDIDATE = "candidate"
    GATED = "gated"
    AWAITING_SIGN_OFF = "awaiting_sign_off"
    SHADOW = "shadow"
    CANARY_5 = "canary_5"
    CANARY_25 = "canary_25"
    CANARY_50 = "canary_50"
    PRODUCTION = "production"
    HELD = "held"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"
    SUPERSEDED = "superseded"


EXPOSURE_PERCENT: dict[ReleaseState, int] = {
    ReleaseState.CANARY_5: 5,
    ReleaseState.CANARY_25: 25,
    ReleaseState.CANARY_50: 50,
    ReleaseState.PRODUCTION: 100,
}


class Outcome(StrEnum):
    """Four outcomes of any analysis; only PASS promotes."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"


class Verdict(Record):
    """One gate's stored judgement of one bundle. Missing, stale or errored counts as failure."""

    gate: str
    bundle_digest: Sha256
    policy_digest: Sha256
    metric: str
    value: float | None
    threshold: float | None
    outcome: Outcome
    detail: str
    evidence: str
    at: UtcTime


class Decision(StrEnum):
    """What a person may say about a release."""

    APPROVE = "approve"
    REJECT = "reject"
    HOLD = "hold"
    RESUME = "resume"
    ROLLBACK = "rollback"
