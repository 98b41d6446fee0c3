"""Where every release stands, folded from the ledger's transition lines and from nothing else.

Promise: there is no second copy of a release's state that could disagree with the ledger. The fold is kept in memory
under the ledger's head, so asking again costs one small query.

A transition line has kind `transition`, subject `release_id` and the payload of `Transition`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from voice_pipeline.schema.release import EXPOSURE_PERCENT, TRANSITIONS, ReleaseState
from voice_pipeline.store.checkpoint import RESTORE
from voice_pipeline.store.errors import LedgerBrokenError
from voice_pipeline.store.ledger import Ledger, LedgerLine, Stream
from voice_pipeline.store.store import Store

TRANSITION = "transition"

ALL_TRANSITIONS = Stream(kinds=frozenset({TRANSITION}))
"""What undoing a release is decided upon: where every release stands. Harm that was once shown stays shown, so neither
a later look nor a later verdict nor anything that has nothing to do with releases may keep it from being undone."""

ENDED = frozenset({ReleaseState.REJECTED, ReleaseState.ROLLED_BACK, ReleaseState.SUPERSEDED})
ROLLING_OUT = frozenset(
    {ReleaseState.SHADOW, ReleaseState.CANARY_5, ReleaseState.CANARY_25, ReleaseState.CANARY_50, ReleaseState.HELD}
)


def release_stream(*ids: str) -> Stream:
    """What any other step of a release is decided upon: where every release stands (one is live, one rolls out), and
    all that is said of it or its bundle (looks, decisions, verdicts).

    Args:
        ids: the release's id and its bundle's digest, the subjects of those lines.
    """
    return Stream(ALL_TRANSITIONS.kinds, frozenset(ids))


@dataclass(frozen=True)
class Transition:
    """One step of one release. `from_state` is None at its registration; `evidence` is plain JSON."""

    seq: int
    at: str
    actor: str
    from_state: ReleaseState | None
    to_state: ReleaseState
    reason: str
    policy_digest: str
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ReleaseView:
    """A release as the ledger tells it.

    Attributes:
        entered_at: ISO time at which it came into `state`.
        previous_live: release_id to which a rollback returns: the live release when this one was registered,
            or when it became live itself; None for the first.
        exposure_percent: share of devices on this model; a held release keeps that of the stage it was held in.
        resume_state: for a held release the stage it resumes to, else None.
        transitions: its whole history in order.
    """

    release_id: str
    model_version: str
    bundle_digest: str
    state: ReleaseState
    entered_at: str
    previous_live: str | None
    exposure_percent: int
    transitions: tuple[Transition, ...]
    resume_state: ReleaseState | None = None

    @property
    def stage(self) -> ReleaseState:
        """The state that says what devices do: of a held release, the stage in which it was held."""
        return self.resume_state or self.state

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def entered(self, state: ReleaseState) -> str | None:
        """ISO time at which this release last came into `state`, or None."""
        return next((t.at for t in reversed(self.transitions) if t.to_state is state), None)


_folds: WeakKeyDictionary[Ledger, tuple[int, tuple[ReleaseView, ...]]] = WeakKeyDictionary()


def release_views(store: Store) -> list[ReleaseView]:
    """All releases in order of registration."""
    return list(_fold(store)[1])


def releases_at_head(store: Store) -> tuple[int, list[ReleaseView]]:
    """The ledger head and the releases as of that head: what a compare-and-swap append decides upon."""
    head, views = _fold(store)
    return head, list(views)


def find_release(store: Store, release_id: str) -> ReleaseView | None:
    return next((view for view in _fold(store)[1] if view.release_id == release_id), None)


def latest_release(store: Store, model_version: str) -> ReleaseView | None:
    """The newest release of a model, or None where it has none."""
    return next((view for view in reversed(_fold(store)[1]) if view.model_version == model_version), None)


def live(store: Store) -> ReleaseView | None:
    """The one release in production, or None before the first."""
    return live_of(_fold(store)[1])


def live_of(views: list[ReleaseView] | tuple[ReleaseView, ...]) -> ReleaseView | None:
    return next((view for view in views if view.state is ReleaseState.PRODUCTION), None)


def rolling_out(store: Store) -> ReleaseView | None:
    """The one release that devices see beside the live one (shadow, canary, or held there), or None."""
    return rolling_out_of(_fold(store)[1])


def rolling_out_of(views: list[ReleaseView] | tuple[ReleaseView, ...]) -> ReleaseView | None:
    return next((view for view in views if view.state in ROLLING_OUT), None)


def in_progress(store: Store) -> list[ReleaseView]:
    """Releases that are neither live nor ended, in order of registration."""
    return [view for view in _fold(store)[1] if not view.ended and view.state is not ReleaseState.PRODUCTION]


def _fold(store: Store) -> tuple[int, tuple[ReleaseView, ...]]:
    head = store.ledger.head()
    cached = _folds.get(store.ledger)
    if cached is None or cached[0] != head:
        # A line appended since `head` was read is cut off, so the pair (head, views) is always one state of the ledger.
        lines = [line for line in store.ledger.lines(kind=TRANSITION) if line.seq <= head]
        cached = (head, fold(lines))
        _folds[store.ledger] = cached
    return cached


def fold(lines: list[LedgerLine]) -> tuple[ReleaseView, ...]:
    """Transition lines, in order, as releases. Pure: the same lines always give the same releases.

    Raises:
        LedgerBrokenError: names the first line that the state machine does not allow: no controller wrote it.
    """
    views: dict[str, ReleaseView] = {}
    for line in lines:
        views[line.subject] = _after(views.get(line.subject), line, live_of(tuple(views.values())))
    return tuple(views.values())


def _after(view: ReleaseView | None, line: LedgerLine, live_now: ReleaseView | None) -> ReleaseView:
    payload, step = line.payload, _transition(line)
    problem = _problem(view, step, live_now)
    if problem:
        raise LedgerBrokenError(f"ledger line {line.seq}: release {line.subject} {problem}; {RESTORE}")
    resume_state = view.state if view and step.to_state is ReleaseState.HELD else None
    return ReleaseView(
        release_id=line.subject,
        model_version=payload["model_version"],
        bundle_digest=payload["bundle_digest"],
        state=step.to_state,
        entered_at=line.at,
        previous_live=_previous_live(view, step, live_now),
        exposure_percent=EXPOSURE_PERCENT.get(resume_state or step.to_state, 0),
        transitions=(*(view.transitions if view else ()), step),
        resume_state=resume_state,
    )


def _transition(line: LedgerLine) -> Transition:
    payload = line.payload
    try:
        return Transition(
            seq=line.seq,
            at=line.at,
            actor=line.actor,
            from_state=ReleaseState(payload["from"]) if payload["from"] else None,
            to_state=ReleaseState(payload["to"]),
            reason=payload["reason"],
            policy_digest=payload["policy_digest"],
            evidence=payload.get("evidence") or {},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LedgerBrokenError(f"ledger line {line.seq} holds no transition of a release; {RESTORE}") from error


def _problem(view: ReleaseView | None, step: Transition, live_now: ReleaseView | None) -> str:
    """Empty, or why no controller can have written this line."""
    state = view.state if view else None
    if step.from_state is not state:
        return f"is {state or 'not registered'}, not {step.from_state or 'new'}, as the line says"
    if step.to_state not in TRANSITIONS[state]:
        return f"cannot go from {state or 'nothing'} to {step.to_state}"
    if step.to_state is ReleaseState.PRODUCTION and live_now is not None:
        return f"cannot be live beside {live_now.release_id}"
    return ""


def _previous_live(view: ReleaseView | None, step: Transition, live_now: ReleaseView | None) -> str | None:
    if view is None:
        return live_now.release_id if live_now else None
    if step.to_state is ReleaseState.PRODUCTION and "previous_live" in step.evidence:
        previous: str | None = step.evidence["previous_live"]
        return previous
    return view.previous_live
