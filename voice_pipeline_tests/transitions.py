"""Releases taken through the ledger as a controller would, by the shortest way that the state machine allows."""

from __future__ import annotations

from typing import Any

from voice_pipeline.schema.release import TRANSITIONS, ReleaseState
from voice_pipeline.store.releases import TRANSITION
from voice_pipeline.store.store import Store


def way(before: ReleaseState | None, to: ReleaseState) -> list[ReleaseState]:
    """The states after `before` up to `to`; empty where none leads there."""
    ways: list[list[ReleaseState]] = [[]]
    for found in ways:
        for state in TRANSITIONS[found[-1] if found else before]:
            if state is to:
                return [*found, state]
            if state not in found and state is not ReleaseState.HELD:
                ways.append([*found, state])
    return []


def take(store: Store, release_id: str, model_version: str, digest: str, *states: ReleaseState, **payload: Any) -> None:
    """Append the transitions of a release through `states`, and through those that lie between them."""
    lines = store.ledger.lines(kind=TRANSITION, subject=release_id)
    before = ReleaseState(lines[-1].payload["to"]) if lines else None
    for goal in states:
        path = way(before, goal)
        assert path, f"no way from {before} to {goal}"
        for state in path:
            line = {"model_version": model_version, "bundle_digest": digest, "from": before, "to": state}
            line |= {"reason": "test", "policy_digest": "p", "evidence": {}} | payload
            store.ledger.append(TRANSITION, release_id, line, actor="test")
            before = state
