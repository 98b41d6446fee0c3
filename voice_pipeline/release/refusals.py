"""Why a release may not take a step now: read from stored evidence alone, whoever asks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from voice_pipeline.release.analysis.looks import passing_look
from voice_pipeline.release.analysis.observations import StageTelemetry, read_stage
from voice_pipeline.release.analysis.stage import watch
from voice_pipeline.release.errors import ReleaseRefusedError
from voice_pipeline.release.gates.evidence import (
    asks_for_sign_off,
    gate_problems,
    integrity_problem,
    stored_verdicts,
)
from voice_pipeline.release.machine import TRANSITIONS, check_step, step_of
from voice_pipeline.release.people.decisions import approval_of, waiting_rejection
from voice_pipeline.schema.release import Outcome
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import STAGES, ReleasePolicy
from voice_pipeline.store.releases import ReleaseView, live_of
from voice_pipeline.store.store import Store

ASSET_OF: dict[S, str] = {
    S.CANDIDATE: "release_candidate",
    S.SHADOW: "shadow_release",
    S.CANARY_5: "canary_release",
    S.CANARY_25: "canary_release",
    S.CANARY_50: "canary_release",
    S.PRODUCTION: "production_release",
}


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
    rejection = waiting_rejection(store, policy, view)
    reasons += [f"rollout_sensor has to carry out first: {rejection.said}"] if rejection else []
    reasons += _sign_off_problem(store, policy, view)
    if view.state in STAGES:
        reasons += _stage_problem(store, policy, view, live)
    return reasons


def stage_telemetry(store: Store, policy: ReleasePolicy, view: ReleaseView, live: ReleaseView) -> StageTelemetry:
    """What devices sent about the stage in which `view` is."""
    shadow, active = policy.shadow.device_percent, policy.telemetry.active_minutes
    return read_stage(store, view, live, shadow, active, policy.compatibility)


def _sign_off_problem(store: Store, policy: ReleasePolicy, view: ReleaseView) -> list[str]:
    if view.state is S.AWAITING_SIGN_OFF:
        return [] if approval_of(store, policy, view) else ["nobody has signed it off"]
    verdicts = stored_verdicts(store, view.bundle_digest, policy.digest).values()
    asking = {verdict.gate for verdict in verdicts if asks_for_sign_off(verdict)} - _signed_off(view)
    back = f"voice-pipeline release rollback {view.release_id} --as NAME --reason WHY"
    return [
        f"gate {gate} asks for a sign-off that never was, and no rollout is signed off on its way: roll it back "
        f"(`{back}`), and ask for the next model (`voice-pipeline training request`) or readmit this one "
        "(`voice-pipeline release readmit`); a person then signs off first"
        for gate in sorted(asking)
    ]


def _signed_off(view: ReleaseView) -> set[str]:
    """The gates that asked when a person let the release go on: what asks later was not before that person."""
    signed = set()
    for asked, step in pairwise(view.transitions):
        if step.from_state is S.AWAITING_SIGN_OFF and step.to_state in (S.SHADOW, S.PRODUCTION):
            found = asked.evidence.get("verdicts", {})
            signed |= {gate for gate, outcome in found.items() if outcome == Outcome.INCONCLUSIVE}
    return signed


def _stage_problem(store: Store, policy: ReleasePolicy, view: ReleaseView, live: ReleaseView | None) -> list[str]:
    if passing_look(store, policy, view) is None:
        return [f"no fresh passing look at {view.state}"]
    if live is None:
        return ["no live model to compare with"]
    telemetry = stage_telemetry(store, policy, view, live)
    analysis = watch(policy, view.stage, telemetry)
    return [analysis.reason] if analysis.outcome in (Outcome.FAIL, Outcome.INVALID) else []
