"""What people say about a release: stored, checked against the policy's authority, picked up by the next tick.

A sign-off is never a run that waits. Each decision is a row and a ledger line, written together.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from sqlalchemy import insert, select

from voice_pipeline.release.errors import DecisionRefusedError, UnknownReleaseError
from voice_pipeline.release.policy import release_policy
from voice_pipeline.schema.release import Decision
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.releases import ROLLING_OUT, ReleaseView, releases_at_head
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import decisions

DECISION = "decision"

FITS: dict[Decision, frozenset[S]] = {
    Decision.APPROVE: frozenset({S.AWAITING_SIGN_OFF}),
    Decision.REJECT: frozenset({S.CANDIDATE, S.GATED, S.AWAITING_SIGN_OFF}),
    Decision.HOLD: ROLLING_OUT - {S.HELD},
    Decision.RESUME: frozenset({S.HELD}),
    Decision.ROLLBACK: ROLLING_OUT | {S.PRODUCTION},
}
"""In which states a decision means something."""


@dataclass(frozen=True)
class StoredDecision:
    """A decision that no transition has carried out yet."""

    decision_id: str
    release_id: str
    decision: Decision
    actor: str
    reason: str
    at: str


def record_decision(store: Store, release_id: str, decision: Decision, actor: str, reason: str) -> StoredDecision:
    """Store what `actor` decided; the next tick acts on it.

    Raises:
        UnknownReleaseError: no such release.
        DecisionRefusedError: the actor may not, the reason is empty, or the decision does not fit the state.
        LedgerConflictError: the release moved meanwhile; look again.
    """
    head, views = releases_at_head(store)
    view = next((v for v in views if v.release_id == release_id), None)
    if view is None:
        raise UnknownReleaseError(f"release {release_id} does not exist; `voice-pipeline release status` lists all")
    _check(store, view, decision, actor, reason)
    stored = StoredDecision(
        f"dec-{secrets.token_hex(8)}", release_id, decision, actor, reason.strip(), store.now().isoformat()
    )
    payload = {"decision_id": stored.decision_id, "decision": decision.value, "reason": stored.reason}
    with store.database.write() as connection:
        store.ledger.append(DECISION, release_id, payload, actor, head, connection)
        connection.execute(insert(decisions).values(**stored.__dict__))
    return stored


def pending_decisions(store: Store) -> list[StoredDecision]:
    """Decisions that no transition has carried out, oldest first."""
    statement = select(decisions).where(decisions.c.applied_seq.is_(None)).order_by(decisions.c.at)
    return [
        StoredDecision(
            row["decision_id"],
            row["release_id"],
            Decision(row["decision"]),
            row["actor"],
            row["reason"],
            row["at"],
        )
        for row in store.database.rows(statement)
    ]


def approval_of(store: Store, view: ReleaseView) -> StoredDecision | None:
    """The approval of a release that awaits its sign-off, given since it began to wait; None without one.

    Read from the ledger, so that a row written into the database by hand approves nothing.
    """
    since = next((t.seq for t in reversed(view.transitions) if t.to_state is S.AWAITING_SIGN_OFF), 0)
    for line in reversed(store.ledger.lines(kind=DECISION, subject=view.release_id)):
        if line.seq > since and line.payload["decision"] == Decision.APPROVE:
            payload = line.payload
            return StoredDecision(
                payload["decision_id"], view.release_id, Decision.APPROVE, line.actor, payload["reason"], line.at
            )
    return None


def _check(store: Store, view: ReleaseView, decision: Decision, actor: str, reason: str) -> None:
    policy = release_policy(store)
    if not reason.strip():
        raise DecisionRefusedError(f"{decision} of {view.release_id} needs a reason; give one")
    if not policy.may(actor, decision):
        named = ", ".join(policy.authority[decision])
        raise DecisionRefusedError(f"{actor} may not {decision} releases; policy/release.yaml names {named}")
    if view.state not in FITS[decision]:
        fits = ", ".join(sorted(FITS[decision]))
        raise DecisionRefusedError(f"release {view.release_id} is {view.state}; {decision} fits only {fits}")
