"""A release that people took back by mistake may come back: as the next release of its model, through every gate and
every stage again, if a person signs for it.

What harm took back never does, nor what its gates rejected (an override settles those).
"""

from __future__ import annotations

from voice_pipeline.release.errors import UnverifiedDecisionError
from voice_pipeline.release.people.decisions import DECISION, FITS, SignedDecision, verified
from voice_pipeline.release.rollback import BESIDE
from voice_pipeline.schema.release import Decision
from voice_pipeline.schema.release_policy import ReleasePolicy
from voice_pipeline.store.releases import ReleaseView
from voice_pipeline.store.store import Store


def may_come_back(view: ReleaseView) -> bool:
    """Whether it ended by a person's word, or only because the live model beside it fell."""
    last = view.transitions[-1]
    return view.state in FITS[Decision.READMIT] and bool({"decision_id", BESIDE} & last.evidence.keys())


def readmission_of(store: Store, policy: ReleasePolicy, view: ReleaseView) -> SignedDecision | None:
    """The word by which an ended release comes back; None without one that verifies."""
    if not may_come_back(view):
        return None
    for line in reversed(store.ledger.lines(kind=DECISION, subject=view.release_id)):
        try:
            signed = verified(store, policy, line, view)
        except UnverifiedDecisionError:
            continue
        if signed.statement.decision is Decision.READMIT:
            return signed
    return None
