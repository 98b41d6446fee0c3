"""Which lines of the ledger the Dagster UI has not been told yet.

A step of a release is told on an asset by the run that took it; what the sensor does itself (a rollback, what a person
decided, the other half of a change of the live model) has no run, and neither has a look. Those are told by the sensor.

Promise: the event log is the memory. A line counts as told only when an event on its asset names it, so a sensor or a
run that is killed after its ledger write leaves a line that the next tick tells, and no line is told twice. The
sensor's cursor only saves the search: lost, or of a ledger that was restored since, it costs one longer tick.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from voice_pipeline.release.analysis.looks import ANALYSIS
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.ledger import LedgerLine
from voice_pipeline.store.releases import TRANSITION
from voice_pipeline.store.store import Store

AT_A_TIME = 25
"""Lines told in one tick; the rest wait for the next, so that a long history never makes a tick long."""

OWN_REPORT = timedelta(minutes=10)
"""How long a run has to tell the step that it took, unless the release has gone on; longer, and it died in between."""

SHOWN_ON: dict[S, str] = {
    S.CANDIDATE: "release_candidate",
    S.GATED: "release_candidate",
    S.AWAITING_SIGN_OFF: "release_candidate",
    S.SHADOW: "shadow_release",
    S.CANARY_5: "canary_release",
    S.CANARY_25: "canary_release",
    S.CANARY_50: "canary_release",
    S.PRODUCTION: "production_release",
    S.SUPERSEDED: "production_release",
}
"""The asset of each state; held, rejected and rolled back are shown on the asset of the state before."""


def named(line: LedgerLine) -> str:
    """A ledger line's number and hash: a ledger that is restored from a backup gives the number out again."""
    return f"{line.seq} {line.hash}"


@dataclass(frozen=True)
class Audit:
    """One ledger line to tell on `asset`, partition `model_version`. A look observes; a step materialises."""

    seq: int
    release_id: str
    model_version: str
    asset: str
    is_step: bool


@dataclass(frozen=True)
class Untold:
    """What to tell now, and the cursor that holds once that is done."""

    audits: tuple[Audit, ...]
    cursor: str


def untold(store: Store, cursor: str | None, told_on: Callable[[str, str], frozenset[str]]) -> Untold:
    """The lines that no event tells, oldest first.

    Args:
        cursor: of the tick before; None asks for all.
        told_on: the ledger lines (`named`) that are told by the events on (asset, model version).
    """
    reached = int(cursor.split()[0]) if cursor else 0
    lines = _lines(store, reached - 1)
    if reached and (not lines or named(lines[0]) != cursor):
        lines = _lines(store, 0)
    return choose(lines, cursor, store.now(), told_on)


def choose(
    lines: Sequence[LedgerLine], cursor: str | None, now: datetime, told_on: Callable[[str, str], frozenset[str]]
) -> Untold:
    """`untold` among these lines, which are in order. Pure."""
    newest = {line.subject: line for line in lines}
    start = next((place for place, line in enumerate(lines, 1) if named(line) == cursor), 0)
    audits: list[Audit] = []
    reached = start
    waiting = False
    for place, line in enumerate(lines[start:], start + 1):
        audit = _audit(line)
        if audit is not None and named(line) not in told_on(audit.asset, audit.model_version):
            if len(audits) == AT_A_TIME:
                break
            young = now - datetime.fromisoformat(line.at) < OWN_REPORT
            if _own_run(line) and young and newest[line.subject] is line:
                waiting = True
                continue
            audits.append(audit)
        if not waiting:
            reached = place
    return Untold(tuple(audits), named(lines[reached - 1]) if reached else "")


def _lines(store: Store, after: int) -> list[LedgerLine]:
    lines = [line for kind in (TRANSITION, ANALYSIS) for line in store.ledger.lines(kind=kind, after=after)]
    return sorted(lines, key=lambda line: line.seq)


def _audit(line: LedgerLine) -> Audit | None:
    """None for a registration: the judgement that follows it in the same run tells it."""
    payload = line.payload
    if line.kind == ANALYSIS:
        asset = SHOWN_ON[S(payload["stage"])]
        return Audit(line.seq, line.subject, payload["model_version"], asset, is_step=False)
    to_state, before = S(payload["to"]), S(payload["from"]) if payload["from"] else S.CANDIDATE
    if to_state is S.CANDIDATE:
        return None
    asset = SHOWN_ON.get(to_state) or SHOWN_ON.get(before) or "canary_release"  # of held: the canary it was held in
    return Audit(line.seq, line.subject, payload["model_version"], asset, is_step=True)


def _own_run(line: LedgerLine) -> bool:
    """Whether a run takes such a step, and tells it: judgement, and every promotion. All else the sensor does."""
    if line.kind == ANALYSIS:
        return False
    before, to_state = line.payload["from"], S(line.payload["to"])
    if before == S.CANDIDATE:
        return True
    return before not in (S.HELD, S.SUPERSEDED) and to_state in (
        S.SHADOW, S.CANARY_5, S.CANARY_25, S.CANARY_50, S.PRODUCTION,
    )  # fmt: skip
