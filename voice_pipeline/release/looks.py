"""Looks: promotion tests that were made, as ledger lines: their alpha is spent once, their result is evidence."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from voice_pipeline.release.analysis import Analysis
from voice_pipeline.release.observations import stage_entry
from voice_pipeline.schema.release import Outcome
from voice_pipeline.schema.release_policy import ReleasePolicy
from voice_pipeline.store.ledger import LedgerLine
from voice_pipeline.store.releases import ReleaseView
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


def record_look(
    store: Store, policy: ReleasePolicy, view: ReleaseView, analysis: Analysis, head: int, actor: str
) -> Look:
    """Append the look at `head`: of two controllers only one spends it.

    Raises:
        LedgerConflictError: the ledger moved; look again.
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
    return _look(store.ledger.append(ANALYSIS, view.release_id, payload, actor, expected_head=head))


def passing_look(store: Store, policy: ReleasePolicy, view: ReleaseView) -> Look | None:
    """The newest look of this stage if it is a PASS, fresh, and about this bundle under this policy; else None."""
    looks = looks_of(store, view)
    if not looks:
        return None
    last = looks[-1]
    fresh = store.now() - last.at <= timedelta(minutes=policy.telemetry.stale_minutes)
    bound = (last.bundle_digest, last.policy_digest) == (view.bundle_digest, policy.digest)
    return last if last.outcome is Outcome.PASS and fresh and bound else None


def may_look(store: Store, policy: ReleasePolicy, view: ReleaseView) -> bool:
    """Whether another look is allowed now: some left, and the last one `min_minutes` ago."""
    looks = looks_of(store, view)
    if not looks:
        return True
    spacing = timedelta(minutes=policy.stage(view.stage).min_minutes)
    return len(looks) < policy.promotion.max_looks and store.now() - looks[-1].at >= spacing


def exhausted(store: Store, policy: ReleasePolicy, view: ReleaseView) -> bool:
    """All looks of the stage are spent and the last one is no longer, or never was, a pass."""
    return len(looks_of(store, view)) >= policy.promotion.max_looks and passing_look(store, policy, view) is None


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
