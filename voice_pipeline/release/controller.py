"""The controller: what a tick does, and the only door through which a release advances.

Promises:
- `tick` undoes harm itself, in one ledger write, before it returns; promotions it only proposes.
- `advance` re-reads all stored evidence and refuses with the reason: incomplete, stale or foreign verdicts, a bundle
  that changed on disk, no passing look at this stage, harm seen now. Who calls it (a sensor's run, a person in the UI,
  another run) makes no difference.
- Both act by compare-and-swap on the ledger; killed anywhere they leave a valid state, and a repeat goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

from voice_pipeline.release.analysis.looks import exhausted, let_in_again, looks_of, passing_look, record_look
from voice_pipeline.release.analysis.observations import stage_entry
from voice_pipeline.release.analysis.stage import Analysis, analyse, watch
from voice_pipeline.release.carrying_out import carry_out_decisions
from voice_pipeline.release.errors import ReleaseRefusedError, UnknownReleaseError
from voice_pipeline.release.gates.evidence import (
    GATES,
    gate_problems,
    integrity_problem,
    overridden_gates,
)
from voice_pipeline.release.machine import NEXT_STAGE, step_of, write_steps
from voice_pipeline.release.people import staffing
from voice_pipeline.release.people.decisions import SignedDecision, approval_of
from voice_pipeline.release.people.overrides import said
from voice_pipeline.release.policy import standing_policy
from voice_pipeline.release.refusals import refusals, stage_telemetry
from voice_pipeline.release.rollback import rollback_steps, tell_untold
from voice_pipeline.release.turns import Promotion, due_now
from voice_pipeline.schema.release import Outcome
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import STAGES, ReleasePolicy
from voice_pipeline.store.alerts import raise_alert
from voice_pipeline.store.errors import LedgerBrokenError, LedgerConflictError
from voice_pipeline.store.releases import (
    ReleaseView,
    latest_release,
    live_of,
    releases_at_head,
    rolling_out_of,
)
from voice_pipeline.store.store import Store

T = TypeVar("T")
TRIES = 5
CONTROLLER = "release-controller"
CANARIES = (S.CANARY_5, S.CANARY_25, S.CANARY_50)


@dataclass(frozen=True)
class TickResult:
    """What a tick did (`rolled_back`, `decided`: release ids), what is due, and in `notes` what releases wait for."""

    rolled_back: tuple[str, ...]
    decided: tuple[str, ...]
    due: tuple[Promotion, ...]
    notes: tuple[str, ...]


def tick(store: Store, policy: ReleasePolicy) -> TickResult:
    """Look at everything once: harm, looks, decisions of people, and what may go on.

    What conflicts with another controller is decided anew at once, up to `TRIES` times; then it is left to the other
    one, or to the next tick.

    Raises:
        LedgerBrokenError: the ledger does not verify; nothing is done.
    """
    try:
        store.ledger.verify()
    except LedgerBrokenError as broken:
        raise_alert(store, {"ledger_broken": str(store.now().date())}, "the ledger does not verify", str(broken))
        raise
    before = {view.release_id for view in releases_at_head(store)[1] if view.state is S.ROLLED_BACK}
    notes: list[str] = []
    decided: list[str] = []
    try:
        # First: neither what a person decided nor an alert that cannot be sent may keep harm from being undone.
        notes += _decided_anew(lambda: _watch(store, policy))
        decided, refused = _decided_anew(lambda: carry_out_decisions(store, policy))
        notes += refused
    except LedgerConflictError as conflict:
        notes.append(str(conflict))
    tell_untold(store)
    staffing.tell_untold(store, policy)
    _, views = releases_at_head(store)
    rolled_back = [v.release_id for v in views if v.state is S.ROLLED_BACK and v.release_id not in before]
    due, waiting = due_now(store, policy, views)
    return TickResult(tuple(rolled_back), tuple(decided), tuple(due), (*notes, *waiting))


def tick_by_standing_policy(store: Store) -> TickResult:
    """A tick by the rules in force. While the policy file is invalid these are the last good ones: harm is undone and
    people's decisions are carried out, nothing is promoted, and people are told.

    Raises:
        PolicyError: the file is invalid and there never was a good one.
        LedgerBrokenError: the ledger does not verify; nothing is done.
    """
    standing = standing_policy(store)
    result = tick(store, standing.policy)
    if not standing.problem:
        return result
    raise_alert(store, {"release_policy": standing.problem}, "the release policy is not valid", standing.problem)
    return replace(result, due=(), notes=(standing.problem, *result.notes))


def _decided_anew(decide: Callable[[], T]) -> T:
    """What `decide` gives, which reads and decides again whenever somebody else was first.

    Raises:
        LedgerConflictError: somebody was first each time.
    """
    for _ in range(TRIES - 1):
        try:
            return decide()
        except LedgerConflictError:
            continue
    return decide()


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
    approval = approval_of(store, policy, view) if view.state is S.AWAITING_SIGN_OFF else None
    look = passing_look(store, policy, view) if view.state in STAGES else None
    live = live_of(views)
    overridden = overridden_gates(store, policy, view.bundle_digest)
    steps = []
    if to_state is S.PRODUCTION and live is not None:
        steps.append(step_of(live, S.SUPERSEDED, f"{model_version} takes its place"))
    evidence = {
        "look": look.seq if look else None,
        "figures": look.figures if look else None,
        "approved_by": approval.actor if approval else None,
        "overridden": {gate: signed.decision_id for gate, signed in overridden.items()},
        "previous_live": live.release_id if live else None,
    }
    reason = _reason(to_state, look.reason if look else "", approval, list(overridden.values()))
    steps.append(step_of(view, to_state, reason, evidence))
    write_steps(store, head, views, steps, policy.digest, actor, [approval.decision_id] if approval else [])
    return _latest(store, model_version)


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


def _watch(store: Store, policy: ReleasePolicy) -> list[str]:
    """Analyse the release that is rolling out: undo it on harm, hold it on a changed bundle, make a look when due."""
    head, views = releases_at_head(store)
    view, live = rolling_out_of(tuple(views)), live_of(tuple(views))
    if view is None or live is None:
        return []
    telemetry = stage_telemetry(store, policy, view, live)
    unjudged = gate_problems(store, policy, view.bundle_digest, live.bundle_digest)
    passed = passing_look(store, policy, view) is not None
    if view.state is S.HELD or unjudged or passed:  # another look would spend its error for nothing
        analysis = watch(policy, view.stage, telemetry)
    else:
        analysis = analyse(policy, view.stage, telemetry, looks_of(store, view), let_in_again(store, view))
    if analysis.outcome is Outcome.FAIL:
        _undo(store, policy, head, views, view, analysis)
        return [f"{view.release_id} rolled back: {analysis.reason}"]
    if analysis.look:
        head = record_look(store, policy, view, analysis, head, CONTROLLER).seq
    if view.state is S.HELD:
        return [f"{view.release_id} is held in {view.stage}: {view.transitions[-1].reason}"]
    why = "; ".join([*unjudged, analysis.reason])
    problem = _hold_reason(store, policy, view, why)
    if problem:
        step = step_of(view, S.HELD, f"held by the controller: {problem}", analysis.figures)
        write_steps(store, head, views, [step], policy.digest, CONTROLLER)
    return [f"{view.release_id} in {view.stage}: {problem or why}"]


def _undo(
    store: Store, policy: ReleasePolicy, head: int, views: list[ReleaseView], view: ReleaseView, analysis: Analysis
) -> None:
    """Write the rollback, then tell people. Where a look showed the harm, look and rollback are one transaction: a
    controller that died between the two would leave a spent look, and the harm to the next one.
    """
    steps = rollback_steps(view, views, analysis.reason, analysis.figures)
    with store.database.write() as connection:
        if analysis.look:
            head = record_look(store, policy, view, analysis, head, CONTROLLER, connection).seq
        write_steps(store, head, views, steps, policy.digest, CONTROLLER, connection=connection)
    tell_untold(store)


def _hold_reason(store: Store, policy: ReleasePolicy, view: ReleaseView, why: str) -> str:
    """Why a stage needs a person: the bundle changed, all looks are spent, or nothing was concluded for too long."""
    problem = integrity_problem(store, view.model_version, view.bundle_digest)
    if problem is not None:
        return problem
    looks = looks_of(store, view)
    if exhausted(store, policy, view):
        early = ", with which all error of this policy is spent" if len(looks) < policy.promotion.max_looks else ""
        return f"not shown non-inferior in {len(looks)} looks{early}: {why}"
    since = max([stage_entry(view)[1], *(look.at for look in looks)])
    idle = store.now() - since
    if idle > timedelta(minutes=policy.telemetry.hold_after_minutes) and passing_look(store, policy, view) is None:
        return f"nothing was concluded for {idle.total_seconds() / 3600:.0f} hours: {why}"
    return ""


def _reason(to_state: S, look: str, approval: SignedDecision | None, overridden: list[SignedDecision]) -> str:
    if approval is not None:
        way = "bootstrap, " if to_state is S.PRODUCTION else ""
        reason = f"{way}approved by {approval.actor}: {approval.reason}"
    else:
        reason = look or f"all {len(GATES)} gates pass" + (f" but {len(overridden)}" if overridden else "")
    return "; ".join([reason, *(said(signed) for signed in overridden)])


def _latest(store: Store, model_version: str) -> ReleaseView:
    view = latest_release(store, model_version)
    if view is None:
        raise UnknownReleaseError(f"model {model_version} has no release; materialise release_candidate first")
    return view
