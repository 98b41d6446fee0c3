"""What the rollout sensor's tick does with the decisions that wait, and what must hold before a gate is overridden.

Each decision is verified again, here, by what the ledger holds and the policy says now. What does not verify is never
acted upon: it is written down as refused, once, people are alerted, and the tick goes on with the next.
"""

from __future__ import annotations

from sqlalchemy import update

from voice_pipeline.release.errors import DecisionRefusedError, UnknownReleaseError, UnverifiedDecisionError
from voice_pipeline.release.gates.evidence import overridden_gates, settled, stored_verdicts
from voice_pipeline.release.machine import TRANSITIONS, Step, step_of, write_steps
from voice_pipeline.release.people.decisions import (
    QueuedDecision,
    SignedDecision,
    pending_decisions,
    queued_decision,
    record_decision,
)
from voice_pipeline.release.people.fitting import instead, may_come_back
from voice_pipeline.release.people.keys import PersonKey
from voice_pipeline.release.people.overrides import SETTLED
from voice_pipeline.release.people.readmission import readmission_of
from voice_pipeline.release.policy import standing_policy
from voice_pipeline.schema.release import Decision
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import ReleasePolicy
from voice_pipeline.store.alerts import raise_alert
from voice_pipeline.store.releases import ReleaseView, find_release, latest_release, release_stream, releases_at_head
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import decisions

LAPSED = "decision_lapsed"
REFUSED = "decision_refused"
ACTOR = "release-controller"


def carry_out_decisions(store: Store, policy: ReleasePolicy) -> tuple[list[str], list[str]]:
    """Act on waiting decisions except approvals, which `controller.advance` carries out; what no longer fits lapses.

    Returns:
        The ids of the releases about which something was carried out or lapsed, and notes about what was not.

    Raises:
        LedgerConflictError: another controller was first; what was done stays done.
    """
    done, notes = [], []
    for queued in pending_decisions(store):
        head, views = releases_at_head(store)
        view = next((v for v in views if v.release_id == queued.release_id), None)
        try:
            signed = queued_decision(store, policy, queued, view)
        except UnverifiedDecisionError as problem:
            notes.append(_refuse(store, queued, head, str(problem)))
            continue
        assert view is not None
        if signed.statement.decision is Decision.APPROVE and not _moved(view, signed):
            continue
        step = _step(view, signed)
        if step is None:
            notes.append(_lapse(store, signed, view, head))
        else:
            write_steps(store, head, views, [step], policy.digest, signed.actor, [signed.decision_id])
        done.append(view.release_id)
    return done, notes


def override_gate(
    store: Store, release_id: str, gate: str, person: PersonKey, reason: str
) -> tuple[SignedDecision, list[str]]:
    """Settle a gate that the release's bundle failed, by a person's signed word.

    Returns:
        The decision, and the gates that the bundle fails still.

    Raises:
        UnknownReleaseError: no such release.
        DecisionRefusedError: the gate has no verdict that could be overridden, or as `record_decision`.
    """
    policy = standing_policy(store).policy
    view = find_release(store, release_id)
    if view is None:
        raise UnknownReleaseError(f"release {release_id} does not exist; `voice-pipeline release status` lists all")
    if not policy.overrides.get(gate):
        those = ", ".join(sorted(name for name, who in policy.overrides.items() if who)) or "none"
        raise DecisionRefusedError(f"{gate} is no gate that can be overridden; policy/release.yaml lets: {those}")
    verdict = stored_verdicts(store, view.bundle_digest, policy.digest).get(gate)
    if verdict is None or verdict.outcome not in SETTLED or settled(verdict, {}):
        found = f"is {verdict.outcome}" if verdict else "was never judged under this policy"
        raise DecisionRefusedError(f"gate {gate} of {release_id} {found}; only what failed can be overridden")
    signed = record_decision(store, release_id, Decision.OVERRIDE, person, reason, gate)
    return signed, failing_gates(store, policy, view)


def readmit(store: Store, release_id: str, person: PersonKey, reason: str) -> SignedDecision:
    """Let a release come back that a person ended, as the next one of its model: all gates and all stages anew.

    Raises:
        UnknownReleaseError: no such release.
        DecisionRefusedError: it is not the newest of its model, harm or its gates ended it, or as `record_decision`.
    """
    policy = standing_policy(store).policy
    view = find_release(store, release_id)
    if view is None:
        raise UnknownReleaseError(f"release {release_id} does not exist; `voice-pipeline release status` lists all")
    newest = latest_release(store, view.model_version)
    if newest is not None and newest.release_id != release_id:
        raise DecisionRefusedError(f"{release_id} came back already, as {newest.release_id}, which is {newest.state}")
    if view.ended and not may_come_back(view):
        why = view.transitions[-1].reason
        raise DecisionRefusedError(
            f"release {release_id} is {view.state} ({why}), and no person took it back: {instead(view)}"
        )
    if (signed := readmission_of(store, policy, view)) is not None:
        raise DecisionRefusedError(f"{release_id} was readmitted already: {signed.said}")
    return record_decision(store, release_id, Decision.READMIT, person, reason)


def failing_gates(store: Store, policy: ReleasePolicy, view: ReleaseView) -> list[str]:
    """The gates whose verdict holds this release's bundle back and that nobody has overridden."""
    overridden = overridden_gates(store, policy, view.bundle_digest)
    found = stored_verdicts(store, view.bundle_digest, policy.digest)
    return [gate for gate, verdict in found.items() if not settled(verdict, overridden)]


def _step(view: ReleaseView, signed: SignedDecision) -> Step | None:
    """What a decision does to a release as it is now; None where it no longer means anything."""
    evidence = {"decision_id": signed.decision_id}
    decision = signed.statement.decision
    if decision is Decision.REJECT and S.REJECTED in TRANSITIONS[view.state]:
        return step_of(view, S.REJECTED, signed.said, evidence)
    if decision is Decision.RESUME and view.resume_state is not None and not _moved(view, signed):
        return step_of(view, view.resume_state, signed.said, evidence)
    return None


def _moved(view: ReleaseView, signed: SignedDecision) -> bool:
    """Whether the release is no longer as the person saw it: what lets a release go on is then said anew."""
    return view.transitions[-1].seq != signed.statement.seen_seq


def _lapse(store: Store, signed: SignedDecision, view: ReleaseView, head: int) -> str:
    """Write down and tell people, once, that a decision came too late for its release."""
    payload = {
        "decision_id": signed.decision_id,
        "decision": signed.statement.decision.value,
        "state": view.state.value,
    }
    told = f"{view.release_id} is {view.state} ({view.transitions[-1].reason}); this came too late: {signed.said}"
    raise_alert(store, {"decision_id": signed.decision_id, "event": LAPSED}, "a decision was not carried out", told)
    _close(store, LAPSED, signed.decision_id, view.release_id, payload, head)
    return told


def _refuse(store: Store, queued: QueuedDecision, head: int, problem: str) -> str:
    """Write down and tell people, once, that a row of the queue counts for nothing."""
    payload = {"decision_id": str(queued.decision_id), "reason": problem}
    raise_alert(store, {"decision_id": payload["decision_id"], "event": REFUSED}, "a decision was refused", problem)
    _close(store, REFUSED, queued.decision_id, str(queued.release_id), payload, head)
    return problem


def _close(store: Store, kind: str, decision_id: str, release_id: str, payload: dict[str, str], head: int) -> None:
    with store.database.write() as connection:
        stream = release_stream(release_id)
        line = store.ledger.append(kind, release_id, payload, ACTOR, head, connection, stream)
        connection.execute(update(decisions).where(decisions.c.decision_id == decision_id).values(applied_seq=line.seq))
