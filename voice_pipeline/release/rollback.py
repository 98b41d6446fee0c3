"""Undoing a release: one ledger transaction first, then the incident and the alert that tell people.

The order is the promise: devices are safe as soon as the transaction commits. A controller that dies before it told
anyone is made good by the next tick (`tell_untold`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select

from voice_pipeline.release.machine import Step, step_of, write_steps
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.monitoring import Action, IncidentKind
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import ReleasePolicy
from voice_pipeline.store.alerts import raise_alert
from voice_pipeline.store.incidents import open_incident
from voice_pipeline.store.releases import ReleaseView, release_views, rolling_out_of
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import alerts


def rollback_steps(
    view: ReleaseView, views: Sequence[ReleaseView], reason: str, evidence: dict[str, Any]
) -> list[Step]:
    """The steps that undo `view`. For the live release: back to the one before, and whatever rolls out falls too."""
    steps = [step_of(view, S.ROLLED_BACK, reason, evidence)]
    if view.state is not S.PRODUCTION:
        return steps
    other = rolling_out_of(tuple(views))
    if other is not None:
        steps.append(step_of(other, S.ROLLED_BACK, f"the live model {view.model_version} it ran beside is rolled back"))
    previous = next((v for v in views if v.release_id == view.previous_live and v.state is S.SUPERSEDED), None)
    if previous is not None:
        evidence = {"previous_live": previous.previous_live}
        steps.append(step_of(previous, S.PRODUCTION, f"back in place of {view.model_version}", evidence))
    return steps


def roll_back(
    store: Store,
    policy: ReleasePolicy,
    head: int,
    views: Sequence[ReleaseView],
    view: ReleaseView,
    reason: str,
    evidence: dict[str, Any],
    actor: str,
    decision_ids: Sequence[str] = (),
) -> None:
    """Write the rollback, then tell people.

    Raises:
        LedgerConflictError: another controller was first; nothing was written.
    """
    steps = rollback_steps(view, views, reason, evidence)
    write_steps(store, head, views, steps, policy.digest, actor, decision_ids)
    tell_untold(store)


def tell_untold(store: Store) -> list[str]:
    """Open an incident and alert for every rolled-back release of which nobody was told; returns their ids."""
    told = []
    for view in release_views(store):
        cause = {"release_id": view.release_id, "event": "rolled_back"}
        if view.state is not S.ROLLED_BACK or _alerted(store, cause):
            continue
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
        told.append(view.release_id)
    return told


def _alerted(store: Store, cause: dict[str, str]) -> bool:
    return store.database.row(select(alerts.c.alert_id).where(alerts.c.alert_id == digest(cause))) is not None
