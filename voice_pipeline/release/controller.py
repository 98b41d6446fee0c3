"""The controller: what a tick does, and the only door through which a release advances.

Promises:
- `tick` undoes harm itself, in one ledger write, before it returns; promotions it only proposes.
- `advance` re-reads all stored evidence and refuses with the reason: incomplete, stale or foreign verdicts, a bundle
  that changed on disk, no passing look at this stage, harm seen now. Who calls it (a sensor's run, a person in the UI,
  another run) makes no difference.
- Both act by compare-and-swap on the ledger head; killed anywhere they leave a valid state, and a repeat goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from voice_pipeline.release.analysis import Analysis, analyse
from voice_pipeline.release.decisions import StoredDecision, approval_of, pending_decisions
from voice_pipeline.release.errors import ReleaseRefusedError, UnknownReleaseError
from voice_pipeline.release.evidence import GATES, asks_for_sign_off, gate_problems, integrity_problem, stored_verdicts
from voice_pipeline.release.looks import exhausted, may_look, passing_look, record_look
from voice_pipeline.release.machine import NEXT_STAGE, TRANSITIONS, check_step, step_of, write_steps
from voice_pipeline.release.observations import read_stage
from voice_pipeline.release.rollback import roll_back, tell_untold
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.release import Decision, Outcome
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import STAGES, ReleasePolicy
from voice_pipeline.store.errors import LedgerConflictError
from voice_pipeline.store.releases import (
    ROLLING_OUT,
    ReleaseView,
    find_release,
    latest_release,
    live_of,
    releases_at_head,
    rolling_out_of,
)
from voice_pipeline.store.store import Store

CONTROLLER = "release-controller"
ASSET_OF: dict[S, str] = {
    S.CANDIDATE: "release_candidate",
    S.SHADOW: "shadow_release",
    S.CANARY_5: "canary_release",
    S.CANARY_25: "canary_release",
    S.CANARY_50: "canary_release",
    S.PRODUCTION: "production_release",
}
CANARIES = (S.CANARY_5, S.CANARY_25, S.CANARY_50)


@dataclass(frozen=True)
class Promotion:
    """A step whose evidence is complete: materialise `asset` of `model_version` to take it."""

    model_version: str
    asset: str
    to_state: S
    run_key: str


@dataclass(frozen=True)
class TickResult:
    """What a tick did (`rolled_back`, `decided`: release ids), what is due, and in `notes` what releases wait for."""

    rolled_back: tuple[str, ...]
    decided: tuple[str, ...]
    due: tuple[Promotion, ...]
    notes: tuple[str, ...]


def tick(store: Store, policy: ReleasePolicy) -> TickResult:
    """Look at everything once: harm, looks, decisions of people, and what may go on.

    A conflict with another controller leaves that work to it, or to the next tick.

    Raises:
        LedgerBrokenError: the ledger does not verify; nothing is done.
    """
    store.ledger.verify()
    before = {view.release_id for view in releases_at_head(store)[1] if view.state is S.ROLLED_BACK}
    tell_untold(store)
    notes: list[str] = []
    decided: list[str] = []
    try:
        notes += _watch(store, policy)  # first: nothing that a person decided may keep harm from being undone
        decided = _carry_out_decisions(store, policy)
    except LedgerConflictError as conflict:
        notes.append(str(conflict))
    _, views = releases_at_head(store)
    rolled_back = [v.release_id for v in views if v.state is S.ROLLED_BACK and v.release_id not in before]
    due = _due(store, policy, views, notes)
    return TickResult(tuple(rolled_back), tuple(decided), tuple(due), tuple(notes))


def advance(
    store: Store, policy: ReleasePolicy, model_version: str, to_state: S, actor: str = CONTROLLER
) -> ReleaseView:
    """Take a release to `to_state` if stored evidence allows it. Going where it already is, or was, changes nothing.

    Raises:
        UnknownReleaseError: the model was never registered.
        ReleaseRefusedError: the message lists every reason.
        LedgerConflictError: another controller was first; run again.
        LedgerBrokenError: the ledger does not verify.
    """
    store.ledger.verify()
    head, views = releases_at_head(store)
    view = _latest(store, model_version)
    if view.state is to_state or (not view.ended and view.stage is not to_state and view.entered(to_state)):
        return view
    reasons = refusals(store, policy, views, view, to_state)
    if reasons:
        raise ReleaseRefusedError(f"{view.release_id} may not go from {view.state} to {to_state}: {'; '.join(reasons)}")
    approval = approval_of(store, view) if view.state is S.AWAITING_SIGN_OFF else None
    look = passing_look(store, policy, view) if view.state in STAGES else None
    live = live_of(views)
    steps = []
    if to_state is S.PRODUCTION and live is not None:
        steps.append(step_of(live, S.SUPERSEDED, f"{model_version} takes its place"))
    evidence = {
        "look": look.seq if look else None,
        "figures": look.figures if look else None,
        "approved_by": approval.actor if approval else None,
        "previous_live": live.release_id if live else None,
    }
    steps.append(step_of(view, to_state, _reason(view, to_state, look.reason if look else "", approval), evidence))
    write_steps(store, head, views, steps, policy.digest, actor, [approval.decision_id] if approval else [])
    return _latest(store, model_version)


def refusals(
    store: Store, policy: ReleasePolicy, views: Sequence[ReleaseView], view: ReleaseView, to_state: S
) -> list[str]:
    """Every reason why `view` may not go to `to_state` now; empty when it may."""
    try:
        if to_state not in ASSET_OF or to_state is S.CANDIDATE:
            raise ReleaseRefusedError(f"no asset leads to {to_state}")
        if to_state is not S.PRODUCTION or view.state is S.AWAITING_SIGN_OFF:
            check_step(step_of(view, to_state, ""), views)
        elif to_state not in TRANSITIONS[view.state]:
            raise ReleaseRefusedError(f"{view.state} leads to {', '.join(TRANSITIONS[view.state]) or 'nothing'} only")
        elif view.state is S.SUPERSEDED:
            raise ReleaseRefusedError("a superseded model comes back only when the live one is rolled back")
        if view.state is S.HELD:
            raise ReleaseRefusedError("it is held; a person resumes it")
    except ReleaseRefusedError as refused:
        return [str(refused)]
    live = live_of(tuple(views))
    reasons = gate_problems(store, policy, view.bundle_digest, live.bundle_digest if live else "")
    problem = integrity_problem(store, view.model_version, view.bundle_digest)
    reasons += [problem] if problem else []
    reasons += _sign_off_problem(store, policy, view)
    if view.state in STAGES:
        reasons += _stage_problem(store, policy, view, live)
    return reasons


def next_canary(store: Store, model_version: str, requested: str | None) -> S:
    """Which canary stage `canary_release` means: the requested one, else the one after the release's stage.

    Raises:
        UnknownReleaseError: the model was never registered.
        ReleaseRefusedError: `requested` is no canary stage, or none follows from here.
    """
    if requested is not None:
        if requested not in {state.value for state in CANARIES}:
            raise ReleaseRefusedError(f"{requested!r} is no canary stage; use one of {', '.join(CANARIES)}")
        return S(requested)
    view = _latest(store, model_version)
    following = NEXT_STAGE.get(view.stage)
    if following not in CANARIES:
        raise ReleaseRefusedError(f"{view.release_id} is {view.state}: no canary stage follows from there")
    return following


def _carry_out_decisions(store: Store, policy: ReleasePolicy) -> list[str]:
    """Act on stored decisions except approvals, which `advance` carries out. One that no longer fits is let lapse."""
    done = []
    for decision in pending_decisions(store):
        head, views = releases_at_head(store)
        view = find_release(store, decision.release_id)
        if view is None or not _in_ledger(store, decision):
            continue
        if decision.decision is Decision.APPROVE and view.state is S.AWAITING_SIGN_OFF:
            continue
        target = _target(view, decision.decision)
        reason = f"{decision.decision} by {decision.actor}: {decision.reason}"
        ids = [decision.decision_id]
        if target is None:
            _lapse(store, decision, view, head)
        elif target is S.ROLLED_BACK:
            roll_back(store, policy, head, views, view, reason, {}, decision.actor, ids)
        else:
            write_steps(store, head, views, [step_of(view, target, reason)], policy.digest, decision.actor, ids)
        done.append(decision.release_id)
    return done


def _target(view: ReleaseView, decision: Decision) -> S | None:
    """Where a decision takes a release from its state now; None where it no longer means anything."""
    if decision is Decision.REJECT and S.REJECTED in TRANSITIONS[view.state]:
        return S.REJECTED
    if decision is Decision.HOLD and S.HELD in TRANSITIONS[view.state]:
        return S.HELD
    if decision is Decision.RESUME and view.state is S.HELD:
        return view.resume_state
    if decision is Decision.ROLLBACK and S.ROLLED_BACK in TRANSITIONS[view.state]:
        return S.ROLLED_BACK
    return None


def _lapse(store: Store, decision: StoredDecision, view: ReleaseView, head: int) -> None:
    from sqlalchemy import update

    from voice_pipeline.store.tables import decisions

    payload = {"decision_id": decision.decision_id, "decision": decision.decision.value, "state": view.state.value}
    with store.database.write() as connection:
        line = store.ledger.append("decision_lapsed", view.release_id, payload, CONTROLLER, head, connection)
        connection.execute(
            update(decisions).where(decisions.c.decision_id == decision.decision_id).values(applied_seq=line.seq)
        )


def _in_ledger(store: Store, decision: StoredDecision) -> bool:
    lines = store.ledger.lines(kind="decision", subject=decision.release_id)
    return any(
        line.payload["decision_id"] == decision.decision_id and line.payload["decision"] == decision.decision
        for line in lines
    )


def _watch(store: Store, policy: ReleasePolicy) -> list[str]:
    """Analyse the release that is rolling out: undo it on harm, hold it on a changed bundle, make a look when due."""
    head, views = releases_at_head(store)
    view, live = rolling_out_of(tuple(views)), live_of(tuple(views))
    if view is None or live is None:
        return []
    analysis = _analyse(store, policy, view, live)
    if analysis.outcome is Outcome.FAIL:
        if analysis.look and view.state is not S.HELD:
            head = record_look(store, policy, view, analysis, head, CONTROLLER).seq
        roll_back(store, policy, head, views, view, analysis.reason, analysis.figures, CONTROLLER)
        return [f"{view.release_id} rolled back: {analysis.reason}"]
    if view.state is S.HELD:
        return [f"{view.release_id} is held in {view.stage}: {view.transitions[-1].reason}"]
    problem = integrity_problem(store, view.model_version, view.bundle_digest)
    if problem is None and analysis.look and may_look(store, policy, view):
        look = record_look(store, policy, view, analysis, head, CONTROLLER)
        head = look.seq
    elif problem is None and exhausted(store, policy, view):
        problem = f"not shown non-inferior in {policy.promotion.max_looks} looks: {analysis.reason}"
    if problem is not None:
        step = step_of(view, S.HELD, f"held by the controller: {problem}", analysis.figures)
        write_steps(store, head, views, [step], policy.digest, CONTROLLER)
    return [f"{view.release_id} in {view.stage}: {problem or analysis.reason}"]


def _analyse(store: Store, policy: ReleasePolicy, view: ReleaseView, live: ReleaseView) -> Analysis:
    data = read_stage(store, view, live, policy.shadow.device_percent, policy.telemetry.active_minutes)
    return analyse(policy, view.stage, data)


def _due(store: Store, policy: ReleasePolicy, views: Sequence[ReleaseView], notes: list[str]) -> list[Promotion]:
    due = []
    live = live_of(tuple(views))
    champion = live.bundle_digest if live else ""
    for view in views:
        if view.state in (S.GATED, S.AWAITING_SIGN_OFF) and gate_problems(store, policy, view.bundle_digest, champion):
            due.append(_promotion(store, view, S.CANDIDATE, f"{policy.digest}{champion}"))
            continue
        to_state = _following(view, live)
        if to_state is None:
            continue
        reasons = refusals(store, policy, views, view, to_state)
        if reasons:
            notes.append(f"{view.release_id} waits for {to_state}: {'; '.join(reasons)}")
            continue
        look = passing_look(store, policy, view) if view.state in STAGES else None
        due.append(_promotion(store, view, to_state, str(look.seq if look else "")))
        if view.state not in ROLLING_OUT:
            break  # one at a time comes into the rollout; the rest wait for the next tick
    return due


def _following(view: ReleaseView, live: ReleaseView | None) -> S | None:
    if view.state is S.AWAITING_SIGN_OFF:
        return S.SHADOW if live else S.PRODUCTION
    return NEXT_STAGE.get(view.state)


def _promotion(store: Store, view: ReleaseView, to_state: S, evidence: str) -> Promotion:
    cause = {
        "release_id": view.release_id,
        "from_seq": view.transitions[-1].seq,
        "to": to_state.value,
        "evidence": evidence,
        "day": store.now().date().isoformat(),  # a refused or failed run is asked for again the next day
    }
    return Promotion(view.model_version, ASSET_OF[to_state], to_state, digest(cause))


def _sign_off_problem(store: Store, policy: ReleasePolicy, view: ReleaseView) -> list[str]:
    if view.state is S.AWAITING_SIGN_OFF:
        return [] if approval_of(store, view) else ["nobody has signed it off"]
    asking = any(asks_for_sign_off(v) for v in stored_verdicts(store, view.bundle_digest, policy.digest).values())
    if asking and not any(step.from_state is S.AWAITING_SIGN_OFF for step in view.transitions):
        return ["gate coverage asks for a sign-off that never was"]
    return []


def _stage_problem(store: Store, policy: ReleasePolicy, view: ReleaseView, live: ReleaseView | None) -> list[str]:
    if passing_look(store, policy, view) is None:
        return [f"no fresh passing look at {view.state}"]
    if live is None:
        return ["no live model to compare with"]
    analysis = _analyse(store, policy, view, live)
    return [analysis.reason] if analysis.outcome in (Outcome.FAIL, Outcome.INVALID) else []


def _reason(view: ReleaseView, to_state: S, look: str, approval: StoredDecision | None) -> str:
    if approval is not None:
        way = "bootstrap, " if to_state is S.PRODUCTION else ""
        return f"{way}approved by {approval.actor}: {approval.reason}"
    return look or f"all {len(GATES)} gates pass"


def _latest(store: Store, model_version: str) -> ReleaseView:
    view = latest_release(store, model_version)
    if view is None:
        raise UnknownReleaseError(f"model {model_version} has no release; materialise release_candidate first")
    return view
