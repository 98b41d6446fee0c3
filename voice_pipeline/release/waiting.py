"""What a release waits for, in one line for people: who must sign, which look, what figure is nearest to harm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from voice_pipeline.release.analysis.looks import looks_of, passing_look
from voice_pipeline.release.analysis.stage import READY, watch
from voice_pipeline.release.carrying_out import failing_gates
from voice_pipeline.release.people.decisions import approval_of, waiting_decision
from voice_pipeline.release.people.fitting import may_come_back
from voice_pipeline.release.people.readmission import readmission_of
from voice_pipeline.release.refusals import ASSET_OF, refusals, stage_telemetry
from voice_pipeline.release.turns import following, on_turn
from voice_pipeline.schema.release import Decision
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import STAGES, ReleasePolicy
from voice_pipeline.store.releases import ReleaseView, live_of
from voice_pipeline.store.store import Store


def waits_for(store: Store, policy: ReleasePolicy, views: Sequence[ReleaseView], view: ReleaseView) -> str:
    """What has to happen before `view` goes on; "" where nothing has to."""
    signed = waiting_decision(store, policy, view)
    if signed and signed.statement.decision is not Decision.APPROVE:
        return f"rollout_sensor, to carry out: {signed.said}"
    if view.state is S.CANDIDATE:
        return "verdicts of its gates"
    if view.state is S.HELD:
        return f"resume by {policy.said(Decision.RESUME)}, or rollback: {view.transitions[-1].reason}"
    if view.state is S.AWAITING_SIGN_OFF and approval_of(store, policy, view) is None:
        return f"approve by {policy.said(Decision.APPROVE)}: {view.transitions[-1].reason}"
    if view.ended and view is _newest(views, view):
        return _way_back(store, policy, view)
    live = live_of(tuple(views))
    to_state = following(view, live)
    if to_state is None:
        return ""
    if view.state in STAGES and live is not None and passing_look(store, policy, view) is None:
        return _look(store, policy, view, live)
    waits = refusals(store, policy, views, view, to_state) or [_run_or_turn(store, policy, views, view, to_state)]
    return "; ".join([signed.said, *waits] if signed else waits)


def _run_or_turn(
    store: Store, policy: ReleasePolicy, views: Sequence[ReleaseView], view: ReleaseView, to_state: S
) -> str:
    turn = on_turn(store, policy, views)
    if turn is None or turn is view or view.state in STAGES:
        return f"the run of {ASSET_OF[to_state]}"
    return f"its turn, which is that of {turn.release_id}"


def _look(store: Store, policy: ReleasePolicy, view: ReleaseView, live: ReleaseView) -> str:
    seen, made = watch(policy, view.stage, stage_telemetry(store, policy, view, live)), looks_of(store, view)
    parts = [f"look {len(made) + 1} of {policy.promotion.max_looks}"]
    if seen.reason != READY:
        parts.append(seen.reason)
    elif made:
        parts.append(f"the last was {made[-1].outcome}: {made[-1].reason}")
    return "; ".join([*parts, *_nearest_to_harm(seen.figures.get("harm", {}))])


def _nearest_to_harm(tests: dict[str, dict[str, Any]]) -> list[str]:
    """Of the harm tests that show any, the one that lacks least: it is harm when the first figure passes the second."""
    near = {name: test["lower"] - test["margin"] for name, test in tests.items() if test["lower"] > 0}
    if not near:
        return []
    name = max(near, key=lambda name: near[name])
    return [f"nearest to harm: {name}, certainly {tests[name]['lower']:+.1%} of {tests[name]['margin']:+.1%}"]


def _newest(views: Sequence[ReleaseView], view: ReleaseView) -> ReleaseView:
    return [v for v in views if v.model_version == view.model_version][-1]


def _way_back(store: Store, policy: ReleasePolicy, view: ReleaseView) -> str:
    """Of the newest release of a model, which ended: who could let it come back."""
    if may_come_back(view):
        if signed := readmission_of(store, policy, view):
            return f"signed_bundle_sensor, to register it again: {signed.said}"
        return f"nothing, unless readmitted by {policy.said(Decision.READMIT)}"
    failing = failing_gates(store, policy, view) if view.state is S.REJECTED else []
    if not failing or any(not policy.overrides.get(gate) for gate in failing):
        return ""
    said = (f"{gate} by {policy.said(Decision.OVERRIDE, gate)}" for gate in failing)
    return f"nothing, unless overridden: {', '.join(said)}"
