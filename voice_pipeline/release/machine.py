"""The state machine of a release (the table is in `schema.release`), and the one way to write a transition.

Promise: a transition is one append (or one transaction of two, when the live model changes), refused if a line that
the decision depends upon (`release_stream`) came after the head that it was made upon. A controller killed anywhere
leaves the state before or the state after; of two controllers that decide at once, the second is refused
(`LedgerConflictError`) and decides again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, update

from voice_pipeline.release.errors import ReleaseRefusedError
from voice_pipeline.schema.release import TRANSITIONS as TRANSITIONS
from voice_pipeline.schema.release import PersonEvent
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.ledger import LedgerLine, Stream
from voice_pipeline.store.releases import (
    ALL_TRANSITIONS,
    TRANSITION,
    ReleaseView,
    live_of,
    release_stream,
    rolling_out_of,
)
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import decisions

NEXT_STAGE: dict[S, S] = {
    S.GATED: S.SHADOW,
    S.SHADOW: S.CANARY_5,
    S.CANARY_5: S.CANARY_25,
    S.CANARY_25: S.CANARY_50,
    S.CANARY_50: S.PRODUCTION,
}
"""Where a release goes when its evidence allows it; a sign-off stands before shadow, or before the first production."""


@dataclass(frozen=True)
class Step:
    """A transition about to be written. `release_id` may be new, then `view` is None."""

    release_id: str
    model_version: str
    bundle_digest: str
    from_state: S | None
    to_state: S
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)


def step_of(view: ReleaseView, to_state: S, reason: str, evidence: dict[str, Any] | None = None) -> Step:
    return Step(
        view.release_id, view.model_version, view.bundle_digest, view.state, to_state, reason, dict(evidence or {})
    )


def check_step(step: Step, views: Sequence[ReleaseView]) -> None:
    """Raises:
    ReleaseRefusedError: the table has no such transition, or it would break an invariant: one live model,
        one rollout, no resumption elsewhere, the straight way for the first model only.
    """
    view = next((v for v in views if v.release_id == step.release_id), None)
    state = view.state if view else None
    name = f"release {step.release_id}"
    if state is not step.from_state:
        raise ReleaseRefusedError(f"{name} is {state or 'not registered'}, not {step.from_state}; read it again")
    if step.to_state not in TRANSITIONS[state]:
        allowed = ", ".join(TRANSITIONS[state]) or "nothing: this is an end"
        raise ReleaseRefusedError(f"{name} cannot go from {state} to {step.to_state}; from here it can go to {allowed}")
    live, other = live_of(tuple(views)), rolling_out_of(tuple(views))
    if state is S.HELD and step.to_state is not S.ROLLED_BACK and view is not None:
        if step.to_state is not view.resume_state:
            raise ReleaseRefusedError(f"{name} was held in {view.resume_state} and resumes only there")
    elif step.to_state is S.SHADOW and other is not None:
        raise ReleaseRefusedError(f"{name} waits: {other.release_id} is rolling out ({other.state})")
    elif step.to_state is S.SHADOW and live is None:
        raise ReleaseRefusedError(f"{name} has no live model to run beside; a first model is signed off to production")
    if step.to_state is S.PRODUCTION and live is not None:
        raise ReleaseRefusedError(f"{name} cannot be live beside {live.release_id}")


def write_steps(
    store: Store,
    head: int,
    views: Sequence[ReleaseView],
    steps: Sequence[Step],
    policy_digest: str,
    actor: str,
    decision_ids: Sequence[str] = (),
    connection: Connection | None = None,
) -> list[LedgerLine]:
    """Append `steps`, decided upon at `head`, in one transaction (the caller's, where `connection` is given), and mark
    the decisions that they carry out.

    Raises:
        ReleaseRefusedError: see `check_step`; the steps are checked against the state each one finds.
        LedgerConflictError: another controller was first.
    """
    if connection is None:
        with store.database.write() as own:
            return write_steps(store, head, views, steps, policy_digest, actor, decision_ids, own)
    states = {view.release_id: view for view in views}
    _check_batch(steps)
    lines: list[LedgerLine] = []
    for step in steps:
        check_step(step, tuple(states.values()))
        payload, upon = _payload(step, policy_digest), lines[-1].seq if lines else head
        line = store.ledger.append(TRANSITION, step.release_id, payload, actor, upon, connection, _stream(steps))
        lines.append(line)
        _apply(states, step, line)
    _mark(connection, decision_ids, lines[-1].seq)
    return lines


def _stream(steps: Sequence[Step]) -> Stream:
    """The lines that overturn what was decided; a rollback waits for none but transitions, whoever asks for it."""
    if any(step.to_state is S.ROLLED_BACK for step in steps):
        return ALL_TRANSITIONS
    stream = release_stream(*(name for step in steps for name in (step.release_id, step.bundle_digest)))
    return replace(stream, kinds=stream.kinds | {PersonEvent.REMOVED, PersonEvent.FOUNDED_ANEW})


def _check_batch(steps: Sequence[Step]) -> None:
    """What may stand in one transaction: a step alone, a change of the live model, a rollback with what it undoes."""
    for step in steps:
        if step.from_state is S.AWAITING_SIGN_OFF and step.to_state is S.PRODUCTION and len(steps) > 1:
            raise ReleaseRefusedError(
                f"release {step.release_id} cannot replace a live model without shadow and canary; start in shadow"
            )
        if step.from_state is S.SUPERSEDED and all(other.to_state is not S.ROLLED_BACK for other in steps):
            raise ReleaseRefusedError(
                f"release {step.release_id} was superseded and comes back only when the live release is rolled back"
            )


def _payload(step: Step, policy_digest: str) -> dict[str, Any]:
    return {
        "model_version": step.model_version,
        "bundle_digest": step.bundle_digest,
        "from": step.from_state.value if step.from_state else None,
        "to": step.to_state.value,
        "reason": step.reason,
        "policy_digest": policy_digest,
        "evidence": step.evidence,
    }


def _apply(states: dict[str, ReleaseView], step: Step, line: LedgerLine) -> None:
    """What the fold will say of this release, as far as `check_step` reads it."""
    held_in = step.from_state if step.to_state is S.HELD else None
    states[step.release_id] = ReleaseView(
        release_id=step.release_id,
        model_version=step.model_version,
        bundle_digest=step.bundle_digest,
        state=step.to_state,
        entered_at=line.at,
        previous_live=None,
        exposure_percent=0,
        transitions=(),
        resume_state=held_in,
    )


def _mark(connection: Connection, decision_ids: Sequence[str], seq: int) -> None:
    for decision_id in decision_ids:
        connection.execute(
            update(decisions)
            .where(decisions.c.decision_id == decision_id, decisions.c.applied_seq.is_(None))
            .values(applied_seq=seq)
        )
