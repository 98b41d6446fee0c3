"""docs/error-rates.md: made under today's rules, true to a fresh run, and within what is promised."""

from __future__ import annotations

import re
from typing import Any

import pytest
from scipy.stats import binomtest

from voice_pipeline.benchmarks import BENCHMARKS
from voice_pipeline.rollout_table import (
    CRASH_X3,
    EQUAL,
    FIRST,
    PROMISES,
    SCENARIOS,
    SEED,
    beyond_canary_5,
    page,
    promoted,
    rolled_back,
    rules_digest,
    table,
    trials,
    went,
)
from voice_pipeline.rollout_trials import Effect, End, Fleet, StageStory, Trial, rollout
from voice_pipeline.schema.policy_file import load_policy
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import STAGES, ReleasePolicy
from voice_pipeline.settings import PROJECT_ROOT

DOCS = PROJECT_ROOT / "docs" / "error-rates.md"
ENOUGH = 1000
AGAIN = "run: voice-pipeline release trials > docs/error-rates.md"


@pytest.fixture(scope="module")
def policy() -> ReleasePolicy:
    return load_policy(PROJECT_ROOT / "policy" / "release.yaml", ReleasePolicy)


def ended(end: End, stage: S, minutes: float = 10.0, exposed: int = 7) -> Trial:
    stories = [StageStory(state, minutes, 2, 1, exposed) for state in STAGES[: STAGES.index(stage) + 1]]
    return Trial(end, stage, "", tuple(stories))


def measured(name: str) -> tuple[float, str, float]:
    """(share, ≤ or ≥, goal) of a promise as the page tells it."""
    row = re.search(rf"^\| `{name}` \|.*\| ([≤≥]) (\d+)% \| ([\d.]+)% \(", DOCS.read_text(), re.MULTILINE)
    assert row, f"{DOCS.name} tells nothing of {name}; {AGAIN}"
    return float(row[3]) / 100, row[1], float(row[2]) / 100


def test_the_table_was_made_under_the_rules_as_they_are(policy: ReleasePolicy) -> None:
    assert f"rules `{rules_digest(policy)}`" in DOCS.read_text(), f"the rules of rollouts changed; {AGAIN}"


def test_the_table_was_made_by_the_code_as_it_is(policy: ReleasePolicy) -> None:
    """Another analysis, or another fleet, lets the first rollouts go otherwise."""
    again = {name: trials(policy, one.effect, FIRST, SEED, one.fleet) for name, one in SCENARIOS.items()}
    told = DOCS.read_text()
    assert f"seed {SEED}, rules" in told
    assert f"first {FIRST} rollouts of each candidate `{went(again)}`" in told, f"rollouts go otherwise now; {AGAIN}"


def too_few(told: str) -> list[str]:
    """What is wrong with the numbers of rollouts of a page: by its command, and by its table."""
    asked = re.search(r"^Made by `voice-pipeline release trials --rollouts (\d+) --seed \d+", told, re.MULTILINE)
    wrong = [] if asked and int(asked[1]) >= ENOUGH else [f"the command asks for {asked[1] if asked else 'no number'}"]
    for name, promise in PROMISES.items():
        said = SCENARIOS[promise.scenario].said
        row = re.search(rf"^\| {re.escape(said)} \| (\d+) \|", told, re.MULTILINE)
        if row is None or int(row[1]) < ENOUGH:
            wrong.append(f"{name}: {row[1] if row else 'no'} rollouts of {said}")
    return wrong


def test_each_promise_is_measured_on_a_thousand_rollouts() -> None:
    assert not too_few(DOCS.read_text()), f"fewer than {ENOUGH} rollouts tell too little; {AGAIN}"


def test_a_page_of_a_few_rollouts_tells_too_little(policy: ReleasePolicy) -> None:
    for n, enough in ((ENOUGH, True), (ENOUGH - 1, False), (40, False)):
        found = {name: [ended(End.HELD, S.SHADOW)] * n for name in SCENARIOS}
        told = page(policy, found, 1, f"voice-pipeline release trials --rollouts {n} --seed 1 > docs/error-rates.md")
        assert (too_few(told) == []) is enough
        fewer = told.replace(f"--rollouts {n}", "--rollouts 40")
        assert too_few(fewer)[0] == "the command asks for 40"


def test_a_page_says_that_a_crashing_model_is_held_and_not_undone_only_where_it_was(policy: ReleasePolicy) -> None:
    waits, undone = ended(End.HELD, S.CANARY_5), ended(End.ROLLED_BACK, S.CANARY_5)
    for crashing, said in (
        ([waits] * 7 + [undone] * 3, "decides (70.0% (39.7% to 89.2%)); the engine rolled back 30.0%"),
        ([waits] * 5 + [undone] * 5, ""),
        ([ended(End.HELD, S.SHADOW)] * 10, ""),
        ([ended(End.HELD, S.CANARY_25)] * 10, ""),
    ):
        told = page(policy, {name: [undone] for name in SCENARIOS} | {CRASH_X3: crashing}, 9, "a command")
        assert ("until a person\ndecides" in told) is bool(said)
        assert said in told


@pytest.mark.parametrize("name", PROMISES)
def test_what_was_measured_is_what_was_promised(name: str) -> None:
    share, sign, goal = measured(name)
    assert (sign, goal) == ("≥" if PROMISES[name].at_least else "≤", PROMISES[name].goal)
    assert (BENCHMARKS[name].goal, BENCHMARKS[name].at_least) == (goal, PROMISES[name].at_least)
    assert share >= goal if PROMISES[name].at_least else share <= goal


def test_a_few_fresh_rollouts_agree_with_the_table(policy: ReleasePolicy) -> None:
    found = trials(policy, SCENARIOS[EQUAL].effect, rollouts=24, seed=4711)
    for name, count in (("power_at_margin", promoted), ("aa_false_rollback", rolled_back)):
        told = min(max(measured(name)[0], 0.005), 0.995)  # told to a tenth of a percent, of finitely many
        assert binomtest(count(found), len(found), told).pvalue > 0.001, f"{name}: {AGAIN}"


def test_every_rule_of_a_rollout_is_in_the_digest_and_who_may_approve_is_not(policy: ReleasePolicy) -> None:
    known = rules_digest(policy)
    changes: list[dict[str, Any]] = [
        {"promotion": policy.promotion.model_copy(update={"alpha": 0.04})},
        {"guardrails": policy.guardrails.model_copy(update={"crash": 0.03})},
        {"telemetry": policy.telemetry.model_copy(update={"sample_ratio_p": 0.01})},
        {"shadow": policy.shadow.model_copy(update={"device_percent": 21.0})},
        {"stages": (policy.stages[0].model_copy(update={"min_events": 1}), *policy.stages[1:])},
    ]
    assert all(rules_digest(policy.model_copy(update=change)) != known for change in changes)
    assert rules_digest(policy.model_copy(update={"owner": "team:other", "lease_seconds": 1})) == known


def test_rollouts_are_counted_by_how_they_end_and_how_far_they_came() -> None:
    found = [
        ended(End.PRODUCTION, S.CANARY_50),
        ended(End.HELD, S.SHADOW),
        ended(End.ROLLED_BACK, S.CANARY_5, minutes=20, exposed=30),
        ended(End.ROLLED_BACK, S.CANARY_5, minutes=40, exposed=50),
    ]
    assert (promoted(found), rolled_back(found), beyond_canary_5(found)) == (1, 2, 1)
    *_, row = table({EQUAL: found})
    assert "| 25.0% (4.6% to 69.9%) |" in row
    assert row.endswith("| canary_5 (67%), 40 min, 30 devices |")


def test_many_processes_find_what_one_finds(policy: ReleasePolicy) -> None:
    fleet, gross = Fleet(devices=300, history_hours=1), Effect(latency=3.0)
    found = trials(policy, gross, 20, 1, fleet)
    assert len(found) == 20
    for index in (0, 11, 19):
        assert found[index] == rollout(policy, fleet, gross, 1, index)


def test_the_page_tells_command_seed_rules_and_fleet(policy: ReleasePolicy) -> None:
    told = page(policy, {name: [ended(End.HELD, S.SHADOW)] for name in SCENARIOS}, 9, "a command")
    for part in (
        "`a command`",
        "seed 9",
        rules_digest(policy),
        "`devices` 1000",
        *(s.said for s in SCENARIOS.values()),
    ):
        assert part in told
