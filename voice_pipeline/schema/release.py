"""States, verdicts and outcomes of a release."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from voice_pipeline.schema.base import Record, Sha256, UtcTime

DecisionId = Annotated[str, StringConstraints(pattern=r"^dec-[0-9a-f]{16}$")]


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


TRANSITIONS: dict[ReleaseState | None, tuple[ReleaseState, ...]] = {
    None: (ReleaseState.CANDIDATE,),
    ReleaseState.CANDIDATE: (ReleaseState.GATED, ReleaseState.AWAITING_SIGN_OFF, ReleaseState.REJECTED),
    ReleaseState.GATED: (
        ReleaseState.SHADOW,
        ReleaseState.CANDIDATE,
        ReleaseState.REJECTED,
        # back to candidate: the champion or the policy changed, gate again
    ),
    ReleaseState.AWAITING_SIGN_OFF: (
        ReleaseState.SHADOW,
        ReleaseState.PRODUCTION,
        ReleaseState.CANDIDATE,
        ReleaseState.REJECTED,
        # straight to production: first model only
    ),
    ReleaseState.SHADOW: (ReleaseState.CANARY_5, ReleaseState.HELD, ReleaseState.ROLLED_BACK),
    ReleaseState.CANARY_5: (ReleaseState.CANARY_25, ReleaseState.HELD, ReleaseState.ROLLED_BACK),
    ReleaseState.CANARY_25: (ReleaseState.CANARY_50, ReleaseState.HELD, ReleaseState.ROLLED_BACK),
    ReleaseState.CANARY_50: (ReleaseState.PRODUCTION, ReleaseState.HELD, ReleaseState.ROLLED_BACK),
    ReleaseState.HELD: (
        ReleaseState.SHADOW,
        ReleaseState.CANARY_5,
        ReleaseState.CANARY_25,
        ReleaseState.CANARY_50,
        ReleaseState.ROLLED_BACK,
        # resumes only where it was held
    ),
    ReleaseState.PRODUCTION: (ReleaseState.SUPERSEDED, ReleaseState.ROLLED_BACK),
    ReleaseState.SUPERSEDED: (ReleaseState.PRODUCTION,),  # only as the other half of a rollback
    ReleaseState.REJECTED: (),
    ReleaseState.ROLLED_BACK: (),
}
"""Where a release can go; from None at its registration."""


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


class PersonEvent(StrEnum):
    """Kinds of the ledger lines that say who may decide."""

    ENROLLED = "person_enrolled"
    REMOVED = "person_removed"
    FOUNDED_ANEW = "people_founded_anew"


class PersonStatement(Record):
    """What an enrolled person signs: that somebody else may decide from now on, or that somebody may no more.

    Attributes:
        event: an enrolment or a removal.
        fingerprint: sha256 of the public key (DER) of the person it is about.
        at: when it was signed.
        upon: hash of the ledger line that was the last one then, so that it counts in this ledger and as its next line.
    """

    event: PersonEvent
    name: str
    role: str
    fingerprint: Sha256
    at: UtcTime
    upon: Sha256


class Decision(StrEnum):
    """What a person may say about a release."""

    APPROVE = "approve"
    REJECT = "reject"
    HOLD = "hold"
    RESUME = "resume"
    ROLLBACK = "rollback"
    OVERRIDE = "override"
    READMIT = "readmit"


class DecisionStatement(Record):
    """What a person signs: one decision about one release as it stood then.

    Attributes:
        bundle_digest: of the release, so that the decision counts for exactly these bytes.
        policy_digest: the rules it was made under.
        gate: the gate that is overridden; None with every other decision.
        at: when it was signed.
        seen_seq: ledger line of the last transition of the release that the person saw.
    """

    decision_id: DecisionId
    release_id: str
    bundle_digest: Sha256
    policy_digest: Sha256
    decision: Decision
    gate: str | None
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    at: UtcTime
    seen_seq: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _a_gate_is_overridden(self) -> DecisionStatement:
        if (self.gate is not None) != (self.decision is Decision.OVERRIDE):
            raise ValueError("an override names its gate, no other decision names one")
        return self
