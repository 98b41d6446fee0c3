"""Looks: promotion tests that were made, as ledger lines: their error is spent once, their result is evidence."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from voice_pipeline.release.analysis.observations import stage_entry
from voice_pipeline.release.analysis.promotion import all_spent
from voice_pipeline.release.analysis.stage import Analysis
from voice_pipeline.schema.release import Outcome
from voice_pipeline.schema.release_policy import ReleasePolicy
from voice_pipeline.store.ledger import LedgerLine
from voice_pipeline.store.releases import ALL_TRANSITIONS, ReleaseView, release_stream, release_views
from voice_pipeline.store.store import Store

ANALYSIS = "analysis"


@dataclass(frozen=True)
class Look:
    """One promotion test of one stage. `stage_seq` is the ledger line with which the stage began."""

    seq: int
    at: datetime
    stage_seq: int
    bundle_digest: str
    policy_digest: str
    outcome: Outcome
    reason: str
    figures: dict[str, Any]


def looks_of(store: Store, view: ReleaseView) -> list[Look]:
    """The looks made since this release came into its stage, oldest first."""
    stage_seq, _ = stage_entry(view)
    looks = [_look(line) for line in store.ledger.lines(kind=ANALYSIS, subject=view.release_id)]
    return [look for look in looks if look.stage_seq == stage_seq]


def let_in_again(store: Store, view: ReleaseView) -> int:
    """How often people let this bundle into its stage again: each time it was resumed there, and each later release of
    it that came as far, after a person had ended the one before.
    """
    releases = (one for one in release_views(store) if one.bundle_digest == view.bundle_digest)
    return sum(step.to_state is view.stage for one in releases for step in one.transitions) - 1


def record_look(
    store: Store,
    policy: ReleasePolicy,
    view: ReleaseView,
    analysis: Analysis,
    head: int,
    actor: str,
    connection: Connection | None = None,
) -> Look:
    """Append the look made at `head` (in the transaction of `connection`): of two controllers only one spends it.

    Raises:
        LedgerConflictError: a release moved, or something was said of this one; look again.
    """
    payload = {
        "stage": view.stage.value,
        "stage_seq": stage_entry(view)[0],
        "model_version": view.model_version,
        "bundle_digest": view.bundle_digest,
        "policy_digest": policy.digest,
        "outcome": analysis.outcome.value,
        "reason": analysis.reason,
        "figures": analysis.figures,
    }
    failed = analysis.outcome is Outcome.FAIL
    stream = ALL_TRANSITIONS if failed else release_stream(view.release_id, view.bundle_digest)
    return _look(store.ledger.append(ANALYSIS, view.release_id, payload, actor, head, connection, stream))


def passing_look(store: Store, policy: ReleasePolicy, view: ReleaseView) -> Look | None:
    """The newest look of this stage if it is a PASS, fresh, and about this bundle under this policy; else None."""
    looks = looks_of(store, view)
    if not looks:
        return None
    last = looks[-1]
    fresh = store.now() - last.at <= timedelta(minutes=policy.telemetry.stale_minutes)
    bound = (last.bundle_digest, last.policy_digest) == (view.bundle_digest, policy.digest)
    return last if last.outcome is Outcome.PASS and fresh and bound else None


def exhausted(store: Store, policy: ReleasePolicy, view: ReleaseView) -> bool:
    """All looks of the stage, or their error, are spent and the last one is no longer, or never was, a pass."""
    return (
        all_spent(policy, looks_of(store, view), let_in_again(store, view))
        and passing_look(store, policy, view) is None
    )


def _look(line: LedgerLine) -> Look:
    payload = line.payload
    return Look(
        seq=line.seq,
        at=datetime.fromisoformat(line.at),
        stage_seq=payload["stage_seq"],
        bundle_digest=payload["bundle_digest"],
        policy_digest=payload["policy_digest"],
        outcome=Outcome(payload["outcome"]),
        reason=payload["reason"],
        figures=payload["figures"],
    )
