"""A release as people read it in the Dagster UI: plain values and Markdown tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from voice_pipeline.release.evidence import asks_for_sign_off, stored_verdicts
from voice_pipeline.schema.release import Outcome, ReleaseState
from voice_pipeline.schema.release_policy import ReleasePolicy
from voice_pipeline.store.errors import LedgerBrokenError
from voice_pipeline.store.releases import ReleaseView, latest_release, release_views
from voice_pipeline.store.store import Store


def facts(view: ReleaseView) -> dict[str, Any]:
    """Where a release stands, as metadata."""
    return {
        "release_id": view.release_id,
        "state": view.state.value,
        "exposure_percent": view.exposure_percent,
        "bundle_digest": view.bundle_digest,
        "reason": view.transitions[-1].reason,
    }


def story(view: ReleaseView) -> str:
    """All transitions as a Markdown table."""
    lines = ["| at | from | to | by | reason |", "|---|---|---|---|---|"]
    for step in view.transitions:
        reason = step.reason.replace("|", "/").replace("\n", " ")
        lines.append(f"| {step.at[:19]} | {step.from_state or ''} | {step.to_state} | {step.actor} | {reason} |")
    return "\n".join(lines)


def verdict_table(store: Store, view: ReleaseView) -> str:
    """The newest verdict of each gate under the policy of the last transition, as a Markdown table."""
    lines = ["| gate | outcome | value | threshold | detail |", "|---|---|--:|--:|---|"]
    for verdict in stored_verdicts(store, view.bundle_digest, view.transitions[-1].policy_digest).values():
        value = "" if verdict.value is None else f"{verdict.value:.4g}"
        threshold = "" if verdict.threshold is None else f"{verdict.threshold:.4g}"
        detail = verdict.detail.replace("|", "/").replace("\n", " ")
        lines.append(f"| {verdict.gate} | {verdict.outcome} | {value} | {threshold} | {detail} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class JudgedGate:
    """One gate as an asset check shows it; `passed` also where a person's sign-off settles it."""

    passed: bool
    metadata: dict[str, Any]


def judged_gate(store: Store, policy: ReleasePolicy, model_version: str, gate: str) -> JudgedGate:
    """A gate of a model's newest release under `policy`; without a verdict it has not passed."""
    view = latest_release(store, model_version)
    found = stored_verdicts(store, view.bundle_digest, policy.digest) if view else {}
    verdict = found.get(gate)
    if verdict is None:
        return JudgedGate(False, {"detail": "no verdict is stored for this bundle and policy"})
    passed = verdict.outcome is Outcome.PASS or asks_for_sign_off(verdict)
    figures = {"value": verdict.value, "threshold": verdict.threshold}
    metadata = {"outcome": verdict.outcome.value, "metric": verdict.metric, "detail": verdict.detail}
    return JudgedGate(passed, {**metadata, **{k: v for k, v in figures.items() if v is not None}})


def live_state(store: Store) -> tuple[bool, dict[str, Any]]:
    """Whether at most one release is live, and which."""
    live = [view.release_id for view in release_views(store) if view.state is ReleaseState.PRODUCTION]
    return len(live) <= 1, {"live": ", ".join(live) or "none"}


def ledger_state(store: Store) -> tuple[bool, dict[str, Any]]:
    """Whether the ledger verifies, with its length or what is wrong."""
    try:
        return True, {"lines": store.ledger.verify()}
    except LedgerBrokenError as error:
        return False, {"problem": str(error)}
