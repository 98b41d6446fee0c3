"""Which steps are due: each release that rolls out by itself; those that wait to come in one at a time, in turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from voice_pipeline.release.analysis.looks import passing_look
from voice_pipeline.release.gates.evidence import gate_problems
from voice_pipeline.release.machine import NEXT_STAGE
from voice_pipeline.release.refusals import ASSET_OF, refusals
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import STAGES, ReleasePolicy
from voice_pipeline.store.releases import ROLLING_OUT, ReleaseView, live_of
from voice_pipeline.store.store import Store

ENTERING = (S.GATED, S.AWAITING_SIGN_OFF)
TURN = timedelta(hours=3)
"""So long, a run an hour, one release is asked for before another that waits beside it."""


@dataclass(frozen=True)
class Promotion:
    """A step whose evidence is complete: materialise `asset` of `model_version` to take it."""

    model_version: str
    asset: str
    to_state: S
    run_key: str


def due_now(store: Store, policy: ReleasePolicy, views: Sequence[ReleaseView]) -> tuple[list[Promotion], list[str]]:
    """The steps whose evidence is complete, and of each other release what it waits for."""
    due, notes = [], []
    live, turn = live_of(tuple(views)), on_turn(store, policy, views)
    champion = live.bundle_digest if live else ""
    for view in views:
        to_state = following(view, live)
        if to_state is None or view.state not in (*ENTERING, *STAGES):
            continue
        if gate_problems(store, policy, view.bundle_digest, champion):
            due.append(_promotion(store, view, S.CANDIDATE, f"{policy.digest}{champion}"))
        elif reasons := refusals(store, policy, views, view, to_state):
            notes.append(f"{view.release_id} waits for {to_state}: {'; '.join(reasons)}")
        elif view.state in STAGES:
            look = passing_look(store, policy, view)
            due.append(_promotion(store, view, to_state, str(look.seq if look else "")))
        elif view is turn:
            due.append(_promotion(store, view, to_state, ""))
        elif turn is not None:
            notes.append(f"{view.release_id} waits: it is the turn of {turn.release_id}")
    return due, notes


def on_turn(store: Store, policy: ReleasePolicy, views: Sequence[ReleaseView]) -> ReleaseView | None:
    """Of the releases that may come into the rollout the one that is asked for now; None where none may."""
    live = live_of(tuple(views))
    ready = []
    for view in views:
        to_state = following(view, live)
        if view.state in ENTERING and to_state and not refusals(store, policy, views, view, to_state):
            ready.append(view)
    return ready[_turn(ready, views, store.now())] if ready else None


def following(view: ReleaseView, live: ReleaseView | None) -> S | None:
    """Where a release goes next when its evidence allows it; None for one that goes nowhere by itself."""
    if view.state is S.AWAITING_SIGN_OFF:
        return S.SHADOW if live else S.PRODUCTION
    return NEXT_STAGE.get(view.state)


def _turn(ready: Sequence[ReleaseView], views: Sequence[ReleaseView], now: datetime) -> int:
    """Which of the releases that may come into the rollout is asked for now: the oldest for `TURN`, then the next, and
    so on in a round, counted from when the way was free and one was there. Where the runs of one always fail, the
    others come all the same; a release that came in ends the round, and the next begins with the oldest again.
    """
    steps = [step for view in views for step in view.transitions]
    freed = [step.at for step in steps if step.from_state in ROLLING_OUT and step.to_state not in ROLLING_OUT]
    came = min(datetime.fromisoformat(view.entered_at) for view in ready)
    since = max([came, *map(datetime.fromisoformat, freed)])
    return max(0, (now - since) // TURN) % len(ready)


def _promotion(store: Store, view: ReleaseView, to_state: S, evidence: str) -> Promotion:
    cause = {
        "release_id": view.release_id,
        "from_seq": view.transitions[-1].seq,
        "to": to_state.value,
        "evidence": evidence,
        "hour": f"{store.now():%Y-%m-%dT%H}",  # a run that died, failed or was second is asked for again an hour later
    }
    return Promotion(view.model_version, ASSET_OF[to_state], to_state, digest(cause))
