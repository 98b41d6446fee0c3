"""The picture of a rollout: any release can be drawn, twice the same, small enough for an event log that keeps many."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from voice_pipeline.release.machine import TRANSITIONS
from voice_pipeline.release.story.charts import MARKERS, NARROWEST, alt_text, rollout_png, segments_of
from voice_pipeline.release.story.timeline import (
    Difference,
    Harm,
    ToldLook,
    release_as_of,
    told_harm,
    told_look,
    told_looks,
)
from voice_pipeline.schema.release import EXPOSURE_PERCENT, Outcome
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import STAGES
from voice_pipeline.store.ledger import LedgerLine
from voice_pipeline.store.releases import ReleaseView

START = datetime(2026, 11, 2, 23, 50, tzinfo=UTC)
RELEASE = "m-20261102-0123abcd-r1"
FRACTION = st.none() | st.floats(-1, 1)
MOST_BYTES = 45_000  # in base64 60 kB


def step_line(
    seq: int, at: datetime, from_state: S | None, to_state: S, reason: str = "", **evidence: object
) -> LedgerLine:
    payload: dict[str, object] = {"model_version": "m-20261102-0123abcd"}
    payload |= {"bundle_digest": "b" * 64, "policy_digest": "p" * 64}
    payload |= {"from": from_state.value if from_state else None, "to": to_state.value, "reason": reason}
    return LedgerLine(
        seq, f"{seq:064x}", "", at.isoformat(), "transition", RELEASE, "somebody", {**payload, "evidence": evidence}
    )


def look_line(seq: int, at: datetime, stage: S, outcome: Outcome, figures: dict) -> LedgerLine:
    payload: dict[str, object] = {
        "stage": stage.value,
        "stage_seq": 1,
        "model_version": "m-20261102-0123abcd",
        "outcome": outcome.value,
    }
    payload |= {"bundle_digest": "b" * 64, "policy_digest": "p" * 64, "reason": "because", "figures": figures}
    return LedgerLine(seq, f"{seq:064x}", "", at.isoformat(), "analysis", RELEASE, "release-controller", payload)


def figures(difference: float | None, lower: float | None, upper: float | None, margin: float) -> dict:
    test = {"difference": difference, "lower": lower, "upper": upper, "margin": margin, "passes": True, "fails": False}
    arms = {"candidate": 12, "control": 240}
    return {"noninferiority": {"correction_rate": test}, "latency_ratio": 1.02, "devices": arms, "events": arms}


HARM: dict[str, Any] = {
    "candidate": 0.6,
    "control": 0.2,
    "lower": 0.31,
    "margin": 0.05,
    "harmful": True,
}


@st.composite
def histories(draw: st.DrawFn) -> list[LedgerLine]:
    """Any way through the state machine, at any pace, with looks of any outcome; rolled back with or without harm."""
    at, state, held_in, seq = START, S.CANDIDATE, S.SHADOW, 1
    lines = [step_line(seq, at, None, S.CANDIDATE)]
    for _ in range(draw(st.integers(0, 30))):
        at += timedelta(seconds=draw(st.sampled_from([-5, 0, 1, 60, 3600, 40 * 86400])))
        seq += 1
        if state in STAGES and draw(st.booleans()):
            low, value, high = draw(st.tuples(FRACTION, FRACTION, FRACTION))
            told = draw(st.sampled_from([{}, figures(value, low, high, 0.05)]))
            lines.append(look_line(seq, at, state, draw(st.sampled_from(list(Outcome))), told))
            continue
        if not TRANSITIONS[state]:
            break
        following = held_in if state is S.HELD and draw(st.booleans()) else draw(st.sampled_from(TRANSITIONS[state]))
        evidence = {"harm": {"crash": HARM, "slow": {**HARM, "harmful": False}}} if draw(st.booleans()) else {}
        lines.append(step_line(seq, at, state, following, draw(st.text(max_size=20)), **evidence))
        held_in, state = (state if following is S.HELD else held_in), following
    return lines


def release(lines: list[LedgerLine]) -> ReleaseView:
    view = release_as_of(lines)
    assert view is not None
    return view


@given(histories())
@settings(max_examples=25, deadline=None)
def test_any_history_can_be_drawn_and_told_and_is_small(lines: list[LedgerLine]) -> None:
    view, looks = release(lines), told_looks(lines)
    png = rollout_png(view, looks)
    assert len(png) < MOST_BYTES
    assert Image.open(io.BytesIO(png)).format == "PNG"
    assert "\n" not in alt_text(view, looks)


@given(histories())
@settings(max_examples=200, deadline=None)
def test_states_fill_the_width_in_order_and_each_can_be_read(lines: list[LedgerLine]) -> None:
    segments = segments_of(release(lines), told_looks(lines))
    assert segments[0].left == pytest.approx(0)
    assert segments[-1].right == pytest.approx(1)
    for one, other in pairwise(segments):
        assert one.right == pytest.approx(other.left)
    narrowest = min(NARROWEST, 0.7 / len(segments)) / 1.7  # what is made wider takes 0.7 of a width at most from others
    assert all(segment.right - segment.left >= narrowest for segment in segments)


@given(histories())
@settings(max_examples=200, deadline=None)
def test_exposure_is_what_the_ledger_says_after_every_step(lines: list[LedgerLine]) -> None:
    segments = segments_of(release(lines), told_looks(lines))
    for segment in segments:
        assert segment.exposure == release([line for line in lines if line.seq <= segment.step.seq]).exposure_percent
    assert {segment.exposure for segment in segments} <= {0, *EXPOSURE_PERCENT.values()}


def whole_story() -> list[LedgerLine]:
    way = [S.CANDIDATE, S.GATED, S.SHADOW, S.CANARY_5, S.HELD, S.CANARY_5, S.CANARY_25, S.ROLLED_BACK]
    lines: list[LedgerLine] = []
    for number, (before, after) in enumerate(zip([None, *way], way, strict=False)):
        at = START + timedelta(minutes=40 * number)
        evidence = {"harm": {"crash": HARM}} if after is S.ROLLED_BACK else {}
        lines.append(step_line(len(lines) + 1, at, before, after, "reason", **evidence))
        if after in STAGES:
            told = figures(0.01, -0.02, 0.03, 0.05)
            lines.append(look_line(len(lines) + 1, at + timedelta(minutes=30), after, Outcome.PASS, told))
    return lines


def test_the_same_release_gives_the_same_bytes_and_another_gives_others() -> None:
    lines = whole_story()
    drawn = rollout_png(release(lines), told_looks(lines))
    assert rollout_png(release(lines), told_looks(lines)) == drawn
    assert rollout_png(release(lines), told_looks(lines)[:-1]) != drawn
    assert rollout_png(release(lines[:-1]), told_looks(lines[:-1])) != drawn


def test_a_release_id_that_would_be_a_formula_is_drawn_as_it_is() -> None:
    lines = [LedgerLine(**{**line.__dict__, "subject": r"m-$\frac{1}$-r1"}) for line in whole_story()]
    assert rollout_png(release(lines), told_looks(lines))


def test_no_outcome_is_told_by_colour_alone() -> None:
    assert len({marker for marker, _ in MARKERS.values()}) == len(Outcome) == len(MARKERS)


def test_the_alternative_text_names_every_state_with_its_time_every_outcome_and_the_harm() -> None:
    lines = whole_story()
    said = alt_text(release(lines), told_looks(lines))
    assert "shadow from 2026-11-03 01:10" in said
    assert "rolled back from 2026-11-03 04:30" in said
    assert "4 pass" in said
    assert "harm in crash" in said


def test_looks_written_before_guardrails_were_tested_are_read_too() -> None:
    """Until 2026-11 a look held one flat test, of the correction rate."""
    flat = {"difference": 0.01, "lower": -0.02, "upper": 0.04, "margin": 0.05, "alpha": 0.0125, "candidate_n": 60}
    flat |= {"control_n": 60, "passes": True, "fails": False}
    line = look_line(5, START, S.SHADOW, Outcome.PASS, {"noninferiority": flat, "latency_ratio": 1.1})
    assert told_look(line).correction_rate == Difference(0.01, -0.02, 0.04, 0.05, passes=True, fails=False)
    assert told_look(line).latency_ratio == 1.1


def test_what_a_look_does_not_hold_is_absent() -> None:
    assert told_look(look_line(5, START, S.SHADOW, Outcome.FAIL, {})) == ToldLook(
        seq=5, at=START, stage=S.SHADOW, outcome=Outcome.FAIL, reason="because"
    )
    assert told_harm({"harm": {"crash": HARM, "slow": {"margin": 0.1}}}) == {"crash": Harm(**HARM)}
