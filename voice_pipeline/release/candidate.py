"""How a published bundle becomes a release: registered, gated, and sent to sign-off where a person must look."""

from __future__ import annotations

from sqlalchemy import select

from voice_pipeline.release.errors import ReleaseRefusedError
from voice_pipeline.release.gates.evaluation import evaluate_gates
from voice_pipeline.release.gates.evidence import (
    StoredBundle,
    asks_for_sign_off,
    gate_problems,
    overridden_gates,
    published_bundle,
    settled,
    stored_verdicts,
)
from voice_pipeline.release.machine import Step, step_of, write_steps
from voice_pipeline.release.people.fitting import may_come_back
from voice_pipeline.release.people.overrides import said
from voice_pipeline.release.people.readmission import readmission_of
from voice_pipeline.release.policy import release_policy
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.ids import release_id
from voice_pipeline.schema.release import Outcome, Verdict
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import ReleasePolicy
from voice_pipeline.store.releases import ROLLING_OUT, ReleaseView, latest_release, live, live_of, releases_at_head
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import bundles

ACTOR = "release-candidate"


def register_candidate(store: Store, policy: ReleasePolicy, model_version: str) -> ReleaseView:
    """Register a model's published bundle as a release and judge it; a repeat changes nothing.

    A waiting release whose verdicts went stale (another live model, another policy, a new gate) is judged again. So is
    one that is rolling out, but that stays where it is: it goes on, or waits, by the new verdicts. A release that the
    gates rejected comes back as the next one of its model when people have overridden every gate that it failed, or
    under another policy; one that a person ended, when a person has readmitted it.

    Returns:
        The release: gated, awaiting sign-off, rejected, or where it was.

    Raises:
        MissingEvidenceError: a gate cannot be judged yet; the release stays a candidate.
        ReleaseRefusedError: another bundle of this model is on its way.
        LedgerConflictError: another controller was first; run again.
    """
    store.ledger.verify()
    bundle = published_bundle(store, model_version)
    view = _registered(store, policy, bundle)
    if view.state in (S.GATED, S.AWAITING_SIGN_OFF):
        view = _back_to_candidate(store, policy, view)
    if view.state in ROLLING_OUT and _stale_verdicts(store, policy, view, live(store)):
        evaluate_gates(store, policy, model_version)
    if view.state is not S.CANDIDATE:
        return view
    verdicts = evaluate_gates(store, policy, model_version)
    return _settle(store, policy, view, verdicts)


def awaiting_registration(store: Store) -> list[tuple[str, str]]:
    """(model_version, run key) of every published bundle that has no release, one whose gates were never judged, one
    that was rejected by gates which people have overridden since, or one that a person ended and a person readmitted.
    """
    rows = store.database.rows(
        select(bundles.c.model_version, bundles.c.bundle_digest)
        .where(bundles.c.published_at.is_not(None))
        .order_by(bundles.c.published_at)
    )
    waiting = []
    for row in rows:
        view = latest_release(store, row["model_version"])
        if (
            view is None
            or view.state is S.CANDIDATE
            or (view.ended and view.bundle_digest != row["bundle_digest"])
            or ((_rejected_by_gates(view) or may_come_back(view)) and _comes_back(store, release_policy(store), view))
        ):
            cause = {
                "bundle_digest": row["bundle_digest"],
                "seq": view.transitions[-1].seq if view else 0,
                "hour": f"{store.now():%Y-%m-%dT%H}",  # missing evidence, or a run that died: asked again an hour later
            }
            waiting.append((row["model_version"], digest(cause)))
    return waiting


def overridden_since(store: Store, policy: ReleasePolicy, view: ReleaseView) -> bool:
    """Whether people have settled every gate by which this release was rejected; what a person rejected stays so."""
    if not _rejected_by_gates(view):
        return False
    found = stored_verdicts(store, view.bundle_digest, policy.digest).values()
    overridden = overridden_gates(store, policy, view.bundle_digest)
    return all(settled(verdict, overridden) for verdict in found) and any(v.gate in overridden for v in found)


def _comes_back(store: Store, policy: ReleasePolicy, view: ReleaseView) -> bool:
    return overridden_since(store, policy, view) or readmission_of(store, policy, view) is not None


def _rejected_by_gates(view: ReleaseView) -> bool:
    return view.state is S.REJECTED and view.transitions[-1].actor == ACTOR


def _registered(store: Store, policy: ReleasePolicy, bundle: StoredBundle) -> ReleaseView:
    head, views = releases_at_head(store)
    mine = [view for view in views if view.model_version == bundle.model_version]
    latest = mine[-1] if mine else None
    reason = "signed bundle published"
    if latest is not None and latest.bundle_digest == bundle.bundle_digest:
        other_policy = _rejected_by_gates(latest) and latest.transitions[-1].policy_digest != policy.digest
        if not other_policy and not _comes_back(store, policy, latest):
            return latest
        if readmitted := readmission_of(store, policy, latest):
            reason = f"{latest.release_id} comes back, {readmitted.said}"
    elif latest is not None and not latest.ended:
        raise ReleaseRefusedError(
            f"release {latest.release_id} carries another bundle of {bundle.model_version} and is {latest.state}; "
            "reject it or roll it back first"
        )
    step = Step(
        release_id=release_id(bundle.model_version, len(mine) + 1),
        model_version=bundle.model_version,
        bundle_digest=bundle.bundle_digest,
        from_state=None,
        to_state=S.CANDIDATE,
        reason=reason,
        evidence={"suite_digest": bundle.manifest.suite_digest, "dataset_version": bundle.manifest.dataset_version},
    )
    write_steps(store, head, views, [step], policy.digest, ACTOR)
    return _latest(store, bundle.model_version)


def _back_to_candidate(store: Store, policy: ReleasePolicy, view: ReleaseView) -> ReleaseView:
    head, views = releases_at_head(store)
    problems = _stale_verdicts(store, policy, view, live_of(views))
    if not problems:
        return view
    step = step_of(view, S.CANDIDATE, f"to be judged again: {'; '.join(problems)}")
    write_steps(store, head, views, [step], policy.digest, ACTOR)
    return _latest(store, view.model_version)


def _stale_verdicts(store: Store, policy: ReleasePolicy, view: ReleaseView, champion: ReleaseView | None) -> list[str]:
    return gate_problems(store, policy, view.bundle_digest, champion.bundle_digest if champion else "")


def _settle(store: Store, policy: ReleasePolicy, view: ReleaseView, verdicts: list[Verdict]) -> ReleaseView:
    head, views = releases_at_head(store)
    overridden = overridden_gates(store, policy, view.bundle_digest)
    failed = [v for v in verdicts if not settled(v, overridden)]
    settling = [said(overridden[v.gate]) for v in verdicts if v.gate in overridden and v.outcome is not Outcome.PASS]
    asking = [v for v in verdicts if asks_for_sign_off(v)]
    if failed:
        to_state, reason = S.REJECTED, "; ".join(f"gate {v.gate} is {v.outcome}: {v.detail}" for v in failed)
    elif live(store) is None:
        to_state, reason = S.AWAITING_SIGN_OFF, "bootstrap: no model is live to compare with, a person signs off"
    elif asking:
        asked = "; ".join(f"{v.gate}: {v.detail}" for v in asking)
        to_state, reason = S.AWAITING_SIGN_OFF, f"too little evidence: {asked}"
    else:
        to_state, reason = S.GATED, f"all {len(verdicts)} gates pass"
        if settling:
            reason = f"{len(verdicts) - len(settling)} of {len(verdicts)} gates pass"
    reason = "; ".join([reason, *settling])
    evidence = {"verdicts": {v.gate: v.outcome.value for v in verdicts}}
    write_steps(store, head, views, [step_of(view, to_state, reason, evidence)], policy.digest, ACTOR)
    return _latest(store, view.model_version)


def _latest(store: Store, model_version: str) -> ReleaseView:
    view = latest_release(store, model_version)
    if view is None:
        raise ReleaseRefusedError(
            f"model {model_version} has no release although one was just written; verify the ledger"
        )
    return view
