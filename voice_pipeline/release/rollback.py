"""Undoing a release: one ledger transaction first, then the incident and the alert that tell people.

The order is the promise: devices are safe as soon as the transaction commits. A controller that dies before it told
anyone is made good by the next tick (`tell_untold`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select

from voice_pipeline.release.machine import Step, step_of
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.monitoring import Action, IncidentKind
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.alerts import raise_alert
from voice_pipeline.store.incidents import open_incident
from voice_pipeline.store.releases import ReleaseView, release_views, rolling_out_of
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import alerts

CONTROLLERS = ("release-controller", "release-candidate")
"""Who writes transitions without a person: what a person did needs no telling."""

BESIDE = "beside"
"""In the evidence of a release that fell because the live one beside it was rolled back: the live one's id."""

ASKING = {
    S.HELD: "`voice-pipeline release resume {0}` starts its stage afresh, `release rollback {0}` undoes it",
    S.AWAITING_SIGN_OFF: "`voice-pipeline release approve {0}` or `release reject {0}`",
}
"""States that wait for a person, and what to do there."""


def rollback_steps(
    view: ReleaseView, views: Sequence[ReleaseView], reason: str, evidence: dict[str, Any]
) -> list[Step]:
    """The steps that undo `view`. For the live release: back to the one before, and whatever rolls out falls too."""
    steps = [step_of(view, S.ROLLED_BACK, reason, evidence)]
    if view.state is not S.PRODUCTION:
        return steps
    other = rolling_out_of(tuple(views))
    if other is not None:
        fallen = f"the live model {view.model_version} it ran beside is rolled back"
        steps.append(step_of(other, S.ROLLED_BACK, fallen, {BESIDE: view.release_id}))
    previous = model_before(view, views)
    if previous is not None:
        evidence = {"previous_live": previous.previous_live}
        steps.append(step_of(previous, S.PRODUCTION, f"back in place of {view.model_version}: {reason}", evidence))
    return steps


def model_before(view: ReleaseView, views: Sequence[ReleaseView]) -> ReleaseView | None:
    """The release that is live again when the live `view` is rolled back; None: then there is no model."""
    return next((v for v in views if v.release_id == view.previous_live and v.state is S.SUPERSEDED), None)


def tell_untold(store: Store) -> list[str]:
    """Tell people of what nobody told them yet: rollbacks (an incident and an alert), and releases that wait for a
    person (an alert: a stage that the controller held, a sign-off). Returns the ids of the releases told of.
    """
    told = []
    for view in release_views(store):
        last = view.transitions[-1]
        if view.state is S.ROLLED_BACK:
            cause = {"release_id": view.release_id, "event": "rolled_back"}
        elif view.state in ASKING and last.actor in CONTROLLERS:
            cause = {"release_id": view.release_id, "event": f"{view.state.value} since ledger line {last.seq}"}
        else:
            continue
        if _alerted(store, cause):
            continue
        if view.state is S.ROLLED_BACK:
            _tell_of_rollback(store, view, cause)
        else:
            what_to_do = ASKING[view.state].format(view.release_id)
            body = f"release {view.release_id} is {view.state}: {last.reason}; {what_to_do}"
            raise_alert(store, cause, f"{view.model_version} waits for a person", body)
        told.append(view.release_id)
    return told


def _tell_of_rollback(store: Store, view: ReleaseView, cause: dict[str, str]) -> None:
    last = view.transitions[-1]
    summary = f"release {view.release_id} was rolled back from {last.from_state}: {last.reason}"
    detail = {
        "bundle_digest": view.bundle_digest,
        "from": last.from_state.value if last.from_state else None,
        "at": last.at,
        "actor": last.actor,
        "ledger_seq": last.seq,
        "evidence": last.evidence,
    }
    open_incident(store, IncidentKind.RELEASE_HARM, cause, view.model_version, Action.ROLL_BACK, summary, detail)
    raise_alert(store, cause, f"rolled back {view.model_version}", summary)


def _alerted(store: Store, cause: dict[str, str]) -> bool:
    return store.database.row(select(alerts.c.alert_id).where(alerts.c.alert_id == digest(cause))) is not None
