"""Which steps are due: each release that rolls out by itself; those that wait to come in one at a time, in turns.

Turns are a round robin, worked out anew from ledger and clock each time, so every controller finds the same. Since the
way became free, a release joins the end of the queue when it may come in (its gates passed, or a person signed it off)
and leaves it when its state changes. The first is asked for during `TURN`, then goes to the end.

Nobody gets in before one that waits, and a turn ends by its time or because its release leaves. So among n releases
whoever stays has a whole turn within (n + 1) * `TURN`: the rest of its own, one of each other, its own.

One that may not start for what is no line of its own (its bundle changed, its verdicts went stale, who signed it off
was removed) keeps its place; meanwhile its turn is lent to the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import zip_longest

from voice_pipeline.release.analysis.looks import passing_look
from voice_pipeline.release.gates.evidence import gate_problems
from voice_pipeline.release.machine import NEXT_STAGE
from voice_pipeline.release.people.decisions import SignedDecision, signed_decisions
from voice_pipeline.release.refusals import ASSET_OF, refusals
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.release import Decision
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import STAGES, ReleasePolicy
from voice_pipeline.store.releases import ROLLING_OUT, ReleaseView, Transition, live_of
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


@dataclass(frozen=True)
class Change:
    """Ledger line `seq`: from `at` on a release may come into the rollout (`joins`), or no longer."""

    seq: int
    at: datetime
    release_id: str
    joins: bool


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
    live, ready = live_of(tuple(views)), {}
    for view in views:
        to_state = following(view, live)
        if view.state in ENTERING and to_state and not refusals(store, policy, views, view, to_state):
            ready[view.release_id] = view
    if not ready:
        return None
    changes = sorted(_changes(store, views), key=lambda change: change.seq)
    return next(ready[release_id] for release_id in queued(changes, store.now()) if release_id in ready)


def queued(changes: Iterable[Change], now: datetime) -> list[str]:
    """Who waits to come in after `changes`, given in the order of the ledger; the turn is that of the first."""
    queue: deque[str] = deque()
    began = datetime.min.replace(tzinfo=UTC)
    for change in changes:
        began = _passed_on(queue, began, change.at)
        if not queue or (queue[0] == change.release_id and not change.joins):
            began = change.at
        if change.joins:
            queue.append(change.release_id)
        else:
            queue.remove(change.release_id)
    _passed_on(queue, began, now)
    return list(queue)


def following(view: ReleaseView, live: ReleaseView | None) -> S | None:
    """Where a release goes next when its evidence allows it; None for one that goes nowhere by itself."""
    if view.state is S.AWAITING_SIGN_OFF:
        return S.SHADOW if live else S.PRODUCTION
    return NEXT_STAGE.get(view.state)


def _passed_on(queue: deque[str], began: datetime, now: datetime) -> datetime:
    """Turn the queue by the turns that are over since `began`; returns when the running one began."""
    over = max(0, (now - began) // TURN)  # a clock may be set back
    queue.rotate(-over)
    return began + over * TURN


def _changes(store: Store, views: Sequence[ReleaseView]) -> Iterator[Change]:
    """Who could come in and no longer could, since no release rolls out any more."""
    steps = [step for view in views for step in view.transitions]
    freed = [step for step in steps if step.from_state in ROLLING_OUT and step.to_state not in ROLLING_OUT]
    free = max(freed, key=lambda step: step.seq, default=steps[0])
    for view in views:
        for step, after in zip_longest(view.transitions, view.transitions[1:]):
            if step.to_state not in ENTERING or (after and after.seq < free.seq):
                continue
            ready = step if step.to_state is S.GATED else _signed_off(store, view, step, after)
            for line, joins in ((ready, True), (after, False)):
                if ready and line:
                    at = max(datetime.fromisoformat(line.at), datetime.fromisoformat(free.at))
                    yield Change(line.seq, at, view.release_id, joins)


def _signed_off(store: Store, view: ReleaseView, step: Transition, after: Transition | None) -> SignedDecision | None:
    """The first word that signed a release off which awaited that from `step` to `after`."""
    for signed in signed_decisions(store, view.release_id):
        within = step.seq < signed.seq and (after is None or signed.seq < after.seq)
        if within and signed.statement.decision is Decision.APPROVE:
            return signed
    return None


def _promotion(store: Store, view: ReleaseView, to_state: S, evidence: str) -> Promotion:
    cause = {
        "release_id": view.release_id,
        "from_seq": view.transitions[-1].seq,
        "to": to_state.value,
        "evidence": evidence,
        "hour": f"{store.now():%Y-%m-%dT%H}",  # a run that died, failed or was second is asked for again an hour later
    }
    return Promotion(view.model_version, ASSET_OF[to_state], to_state, digest(cause))
