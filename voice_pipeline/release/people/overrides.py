"""Overrides: a gate that a bundle failed, settled by the signed word of a person whom the policy lets do that.

An override is bound to bundle, policy and gate, counts for `gates.max_age_days`, and stops counting when the person is
removed. It settles a judged verdict only, and only in whether the release may go on: the verdict itself stays as it is,
in table and ledger. No stage, look or sample of a rollout can be overridden, nor the bundle's integrity.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from voice_pipeline.release.errors import UnverifiedDecisionError
from voice_pipeline.release.people.decisions import DECISION, SignedDecision, verified
from voice_pipeline.schema.release import Decision, Outcome, Verdict
from voice_pipeline.schema.release_policy import ReleasePolicy
from voice_pipeline.store.ledger import LedgerLine
from voice_pipeline.store.releases import release_views
from voice_pipeline.store.store import Store

SETTLED = (Outcome.FAIL, Outcome.INCONCLUSIVE)
"""What can be overridden: a verdict that was reached. INVALID is none."""


def overrides_of(
    store: Store, policy: ReleasePolicy, bundle_digest: str, verdict_lines: Sequence[LedgerLine]
) -> dict[str, SignedDecision]:
    """The override in force of each gate of a bundle under a policy.

    Args:
        verdict_lines: the ledger's verdicts about this bundle; a gate that none of them failed before the override was
            signed is not overridden.
    """
    found = {}
    for view in release_views(store):
        if view.bundle_digest != bundle_digest:
            continue
        for line in store.ledger.lines(kind=DECISION, subject=view.release_id):
            if not isinstance(line.payload, dict) or line.payload.get("decision") != Decision.OVERRIDE:
                continue
            try:
                signed = verified(store, policy, line, view)
            except UnverifiedDecisionError:
                continue
            if _in_force(store, policy, signed, verdict_lines):
                found[str(signed.statement.gate)] = signed
    return found


def verdict_in(line: LedgerLine) -> Verdict | None:
    """The verdict that a ledger line holds; None of a line that holds no valid one: it judged nothing."""
    try:
        return Verdict.model_validate({name: line.payload[name] for name in Verdict.model_fields})
    except (KeyError, TypeError, ValueError):
        return None


def said(overridden: SignedDecision) -> str:
    """How a transition's reason tells of it."""
    return f"gate {overridden.statement.gate} overridden by {overridden.actor}: {overridden.reason}"


def _in_force(store: Store, policy: ReleasePolicy, signed: SignedDecision, verdict_lines: Sequence[LedgerLine]) -> bool:
    statement = signed.statement
    before = (verdict_in(line) for line in verdict_lines if line.seq < signed.seq)
    judged = any(
        verdict.gate == statement.gate
        and verdict.policy_digest == statement.policy_digest
        and verdict.outcome in SETTLED
        for verdict in before
        if verdict is not None
    )
    signed_at = min(statement.at, signed.recorded_at)
    fresh = store.now() - signed_at <= timedelta(days=policy.gates.max_age_days)
    return judged and fresh and statement.policy_digest == policy.digest
