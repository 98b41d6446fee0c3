"""The story of a release: all that the ledger holds, and nothing that somebody typed can be more than text."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from voice_pipeline.release.errors import UnknownReleaseError
from voice_pipeline.release.story import presentation
from voice_pipeline.release.story.markdown import LONGEST_CELL, plain, table
from voice_pipeline.release.story.presentation import LEDGER_LINE, Markdown, awaited, page, story
from voice_pipeline.release.story.timeline import told_looks
from voice_pipeline.schema.policy_file import load_policy
from voice_pipeline.schema.release import Decision, Outcome
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import FILE_NAME, ReleasePolicy
from voice_pipeline.settings import PROJECT_ROOT
from voice_pipeline_tests.release.story.test_charts import START, figures, histories, look_line, release, step_line
from voice_pipeline_tests.release.world import Behaviour, World, record_decision, tick

READER = MarkdownIt("commonmark", {"html": True}).enable("table")
ATTACKS = (
    "a | b | c |\n|---|---|\n| d",
    "<img src=x onerror=alert(1)>",
    "[all gates pass](javascript:alert(1))",
    "![x](https://example.com/a.png)",
    "`code` **bold** _it_ ~~no~~ # head",
    "\\| \\\\| \\",
    "&lt;b&gt; &#124;",
    "<https://example.com> <!-- hidden",
    "line\u2028line\r\n\r\n---\r\n> quote",
    "\u202elive era secived 001",
)


def inside(tokens: list[Token]) -> list[Token]:
    return [t for token in tokens for t in (token, *inside(token.children or []))]


def cells(markdown: str) -> list[str]:
    """What each cell of a table shows."""
    found = inside(READER.parse(markdown))
    return [t.content for t in found if t.type == "text" or t.type == "code_inline"]


@given(st.text())
@settings(max_examples=300)
def test_whatever_was_typed_is_shown_letter_by_letter_in_one_cell(typed: str) -> None:
    shown_in_one_cell(typed)


def shown_in_one_cell(typed: str) -> None:
    written = table(("a", "b"), [("x", typed), ("y", "z")])
    tokens = inside(READER.parse(written))
    assert [t.type for t in tokens].count("td_open") == 4
    assert not {t.type for t in tokens} & {"html_block", "html_inline", "link_open", "image", "em_open", "code_inline"}
    shown = "".join(t.content for t in tokens if t.type in ("text", "text_special"))
    one_line = re.sub(r"[\x00-\x20\x7f-\x9f\u2028\u2029\u200b-\u200f\u202a-\u202e\u2066-\u2069]+", " ", typed).strip()
    short = one_line if len(one_line) <= LONGEST_CELL else one_line[: LONGEST_CELL - 1] + "…"
    assert shown.replace("\u00a0", " ").split() == f"abx{short}yz".replace("\u00a0", " ").split()


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_shown_letter_by_letter_in_one_cell(attack: str) -> None:
    shown_in_one_cell(attack)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_reason_is_no_markup_anywhere_in_the_story(world: World, attack: str) -> None:
    lines = [
        step_line(1, START, None, S.CANDIDATE, attack),
        step_line(2, START, S.CANDIDATE, S.AWAITING_SIGN_OFF, attack),
    ]
    tokens = inside(READER.parse(story(world.policy, release(lines), (), ())))
    assert not {t.type for t in tokens} & {"html_block", "html_inline", "link_open", "image", "hr", "blockquote_open"}
    assert [t.type for t in tokens].count("tr_open") == 3


@given(histories())
@settings(max_examples=60, deadline=None)
def test_every_step_and_every_look_has_a_row(lines: list) -> None:
    policy = load_policy(PROJECT_ROOT / "policy" / FILE_NAME, ReleasePolicy)
    view, looks = release(lines), told_looks(lines)
    rows = [t.type for t in inside(READER.parse(story(policy, view, looks)))].count("tr_open")
    assert rows == len(view.transitions) + 1 + (2 * (len(looks) + 1) if looks else 0)


def test_a_look_shows_its_sample_bounds_margin_latency_and_each_guardrail(world: World) -> None:
    told = figures(0.011, -0.042, 0.045, 0.15)
    told["noninferiority"]["crash"] = {**told["noninferiority"]["correction_rate"], "margin": 0.12}
    harm = {"candidate": 0.021, "control": 0.013, "lower": 0, "margin": 0.2}
    told["harm"] = {"silence": {**harm, "harmful": False}, "slow": {**harm, "harmful": True}}
    lines = [step_line(1, START, None, S.CANDIDATE), look_line(2, START, S.CANARY_5, Outcome.INCONCLUSIVE, told)]
    shown = [cell.replace("\u00a0", " ") for cell in cells(story(world.policy, release(lines), told_looks(lines)))]
    for expected in (
        "canary 5", "INCONCLUSIVE", "12 / 240", "+1.1 [-4.2, +4.5]", "+15.0", "1.02", "crash < +12.0",
        "+1.1 (≤ +4.5) ok", "2.1 / 1.3 no harm", "2.1 / 1.3 HARM", "slow",
    ):  # fmt: skip
        assert expected in shown


def test_who_decided_is_told_with_their_reason(world: World) -> None:
    first = world.model(0.2)
    world.bootstrap(first)
    view = world.view(first)
    shown = cells(str(page(world.store, world.policy, view.release_id, view.transitions[-1].seq)["story"]))
    at = shown.index("Who decided")
    assert shown[at + 5 :][1:4] == ["demo", "approve", "first model"]


@pytest.mark.parametrize("payload", [{"decision": "approve", "reason": "fine, says the boss"}, ["no", "word"]])
def test_what_nobody_signed_is_told_as_nobodys_word(world: World, payload: Any) -> None:
    first = world.model(0.2)
    world.bootstrap(first)
    view = world.view(first)
    line = world.store.ledger.append("decision", view.release_id, payload, "demo")
    told = str(page(world.store, world.policy, view.release_id, line.seq)["story"])
    assert "first model" in told
    assert "boss" not in told


def test_what_a_release_awaited_is_told_in_every_state_that_waits(world: World) -> None:
    first = world.model(0.2)
    view = world.register(first)
    assert "a sign-off by demo or release-manager" in awaited(world.policy, view, ())
    world.bootstrap(first)
    assert awaited(world.policy, world.view(first), ()) == ""
    world.report()
    second = world.model(0.1)
    assert "its turn" in awaited(world.policy, world.register(second), ())
    world.settle()
    assert "a first look: 30 minutes, 20 devices and 100 dictations" in awaited(world.policy, world.view(second), ())
    record_decision(world.store, world.view(second).release_id, Decision.HOLD, world.person(), "wait")
    world.settle()
    assert "demo or release-manager to resume, or a rollback (hold by demo: wait)" in awaited(
        world.policy, world.view(second), ()
    )


def test_an_inconclusive_look_is_what_a_stage_waits_on(world: World) -> None:
    lines = [step_line(1, START, None, S.CANDIDATE), step_line(2, START, S.CANDIDATE, S.GATED)]
    lines += [step_line(3, START, S.GATED, S.SHADOW)]
    looks = told_looks([look_line(4, START + timedelta(hours=1), S.SHADOW, Outcome.INCONCLUSIVE, {})])
    most = world.policy.promotion.max_looks
    assert awaited(world.policy, release(lines), looks) == f"look 2 of {most}; the last was inconclusive: because"
    passed = told_looks([look_line(4, START, S.SHADOW, Outcome.PASS, {})])
    assert "its last look passed" in awaited(world.policy, release(lines), passed)


def test_a_page_told_late_is_the_page_told_at_once(world: World) -> None:
    """Byte for byte, whatever happened to the release since."""
    first = world.model(0.2)
    world.bootstrap(first)
    world.report()
    model = world.model(0.1)
    release_id = world.register(model).release_id
    world.settle()
    seq = world.view(model).transitions[-1].seq
    at_once = page(world.store, world.policy, release_id, seq)
    world.report()
    world.settle()
    world.behaviour[model] = Behaviour(crash=1.0)
    world.report()
    tick(world.store, world.policy)
    assert world.view(model).transitions[-1].seq > seq
    assert page(world.store, world.policy, release_id, seq) == at_once
    assert str(at_once[LEDGER_LINE]).startswith(f"{seq} ")
    assert {name for name, value in at_once.items() if isinstance(value, Markdown)} == {
        "chart",
        "story",
        "gate_verdicts",
    }


def test_a_line_about_another_release_has_no_page(world: World) -> None:
    first = world.model(0.2)
    world.bootstrap(first)
    release_id = world.view(first).release_id
    foreign = next(line.seq for line in world.store.ledger.lines() if line.subject != release_id)
    with pytest.raises(UnknownReleaseError, match=f"ledger line {foreign} is not about release {release_id}"):
        page(world.store, world.policy, release_id, foreign)


def test_a_picture_that_cannot_be_drawn_says_why_and_stops_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bytes:
        raise RuntimeError("no font | <b>")

    monkeypatch.setattr(presentation, "rollout_png", broken)
    lines = [step_line(1, START, None, S.CANDIDATE)]
    assert presentation.chart(release(lines), ()) == f"no chart: {plain('RuntimeError: no font | <b>')}"
