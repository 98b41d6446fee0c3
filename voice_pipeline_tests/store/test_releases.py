"""The fold of the ledger's transitions takes no line that no controller can have written, and names it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_pipeline.schema.release import TRANSITIONS, ReleaseState
from voice_pipeline.store.errors import LedgerBrokenError
from voice_pipeline.store.ledger import LedgerLine
from voice_pipeline.store.releases import TRANSITION, fold, release_views
from voice_pipeline.store.store import Store
from voice_pipeline_tests.transitions import take, way

AT = datetime(2026, 11, 2, 9, tzinfo=UTC).isoformat()
STATES = st.sampled_from(ReleaseState)


def line(seq: int, release_id: str, before: ReleaseState | None, to: ReleaseState) -> LedgerLine:
    payload = {"model_version": "m", "bundle_digest": "b", "from": before, "to": to, "reason": "r"}
    payload |= {"policy_digest": "p", "evidence": {}}
    return LedgerLine(seq, "", "", AT, TRANSITION, release_id, "somebody", payload)


def lines_to(release_id: str, state: ReleaseState, seq: int = 0) -> list[LedgerLine]:
    path = [None, *way(None, state)]
    return [
        line(seq + n, release_id, before, to)
        for n, (before, to) in enumerate(pairwise(path), 1)  # type: ignore[arg-type]
    ]


@given(here=STATES, said=st.none() | STATES, to=STATES)
def test_a_step_counts_if_the_table_has_it_and_it_starts_where_the_release_is(
    here: ReleaseState, said: ReleaseState | None, to: ReleaseState
) -> None:
    lines = lines_to("r", here)
    lines.append(line(len(lines) + 1, "r", said, to))
    if said is here and to in TRANSITIONS[here]:
        assert fold(lines)[0].state is to
    else:
        with pytest.raises(LedgerBrokenError, match=rf"ledger line {len(lines)}: release r .*docs/runbook\.md"):
            fold(lines)


@given(to=STATES)
def test_a_release_begins_as_a_candidate(to: ReleaseState) -> None:
    if to is ReleaseState.CANDIDATE:
        assert fold([line(1, "r", None, to)])[0].state is to
    else:
        with pytest.raises(LedgerBrokenError, match="line 1: release r cannot go from nothing"):
            fold([line(1, "r", None, to)])


def test_two_live_releases_are_refused() -> None:
    lines = lines_to("one", ReleaseState.PRODUCTION)
    lines += lines_to("two", ReleaseState.PRODUCTION, len(lines))
    with pytest.raises(LedgerBrokenError, match=f"line {len(lines)}: release two cannot be live beside one"):
        fold(lines)


@pytest.mark.parametrize("payload", [{}, [], None, "x", {"from": None, "to": "moon"}, {"from": 3, "to": "candidate"}])
def test_a_line_that_is_no_transition_is_named(payload: Any) -> None:
    with pytest.raises(LedgerBrokenError, match="line 1 holds no transition"):
        fold([replace(line(1, "r", None, ReleaseState.CANDIDATE), payload=payload)])


def test_a_rejected_model_that_is_written_live_is_live_for_nobody(store: Store) -> None:
    """With every key: the reviewer's two lines."""
    take(store, "one", "m-1", "b", ReleaseState.PRODUCTION)
    take(store, "two", "m-2", "b", ReleaseState.REJECTED)
    take(store, "one", "m-1", "b", ReleaseState.SUPERSEDED)
    payload = line(1, "two", ReleaseState.CANARY_50, ReleaseState.PRODUCTION).payload
    seq = store.ledger.append(TRANSITION, "two", payload, "release-controller").seq
    with pytest.raises(LedgerBrokenError, match=f"line {seq}: release two is rejected, not canary_50"):
        release_views(store)
