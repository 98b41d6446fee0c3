"""A release that people took back by mistake may come back: as the next release of its model, through every gate and
every stage again, if a person signs for it.

What harm took back never does, nor what its gates rejected (an override settles those).
"""

from __future__ import annotations

from voice_pipeline.release.errors import UnverifiedDecisionError
from voice_pipeline.release.people.decisions import DECISION, SignedDecision, verified
from voice_pipeline.release.people.fitting import may_come_back
from voice_pipeline.schema.release import Decision
from voice_pipeline.schema.release_policy import ReleasePolicy
from voice_pipeline.store.releases import ReleaseView
from voice_pipeline.store.store import Store


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
