"""The retrain policy: what asks, what is refused and why, and that no rule can be walked around."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_pipeline.schema.policy_file import PolicyError, load_policy
from voice_pipeline.schema.retrain_policy import (
    Profile,
    RetrainCause,
    RetrainDecision,
    RetrainPolicy,
    RetrainTrigger,
    Triggers,
)
from voice_pipeline.schema.training import Hyperparameters
from voice_pipeline.settings import PROJECT_ROOT
from voice_pipeline.training.decisions import DatasetFact, Situation, judge

NOW = datetime(2026, 11, 2, 9, tzinfo=UTC)
PROFILE = Profile(scratch=Hyperparameters(), warm_start=Hyperparameters())
POLICY = RetrainPolicy(profiles={"full": PROFILE}, cooldown_hours=12, min_new_clips=20, min_incident_clips=5)
REQUEST = RetrainCause(trigger=RetrainTrigger.MANUAL, actor="ann", reason="refresh", number=1)
NEW = DatasetFact("ds-2", planned_for=False, new_clips=30, incidents=())
QUIET = Situation(
    now=NOW,
    dataset=replace(NEW, planned_for=True),
    waiting_incidents=(),
    requests=(),
    approved=frozenset(),
    last_planned_at=NOW - timedelta(days=2),
    minutes_spent=0.0,
    minutes_expected=1.0,
)


def only(situation: Situation, policy: RetrainPolicy = POLICY) -> RetrainDecision:
    (decision,) = judge(policy, situation)
    return decision


def test_nothing_new_asks_for_nothing() -> None:
    assert judge(POLICY, QUIET) == []
    assert judge(POLICY, replace(QUIET, dataset=None)) == []


def test_a_new_dataset_version_is_trained_on() -> None:
    decision = only(replace(QUIET, dataset=NEW))
    assert decision.approved
    assert decision.cause.dataset_version == "ds-2"
    assert "30 new clips" in decision.reason


def test_too_few_new_clips_wait() -> None:
    decision = only(replace(QUIET, dataset=replace(NEW, new_clips=19)))
    assert not decision.approved
    assert decision.reason == "19 new clips to learn from, 20 are needed"


def test_the_cooldown_holds_to_its_last_second_and_no_longer() -> None:
    ready = replace(QUIET, dataset=NEW, last_planned_at=NOW - timedelta(hours=12))
    assert only(ready).approved
    early = replace(ready, last_planned_at=NOW - timedelta(hours=12) + timedelta(seconds=1))
    assert "cooldown of 12 h lasts until 2026-11-02 09:00 UTC" in only(early).reason


def test_an_incident_joins_the_dataset_that_holds_its_clips_and_waits_for_no_cooldown() -> None:
    situation = replace(
        QUIET,
        dataset=replace(NEW, new_clips=6, incidents=("inc-20261101-001",)),
        waiting_incidents=("inc-20261101-001",),
        last_planned_at=NOW,
    )
    decision = only(situation)
    assert decision.approved
    assert decision.cause.incidents == ("inc-20261101-001",)
    switched_off = POLICY.model_copy(update={"triggers": Triggers(incident=False)})
    assert not only(situation, switched_off).approved


def test_an_incident_without_labelled_clips_waits_and_says_so() -> None:
    decision = only(replace(QUIET, waiting_incidents=("inc-20261101-001",)))
    assert not decision.approved
    assert "waits for a dataset version" in decision.reason


def test_a_request_by_hand_needs_neither_new_clips_nor_cooldown() -> None:
    situation = replace(QUIET, requests=(REQUEST,), last_planned_at=NOW)
    assert only(situation).approved
    assert "asked for by ann: refresh" in only(situation).reason
    assert only(replace(situation, dataset=None)).reason == "there is no dataset version yet"


def test_the_budget_binds_every_cause_and_counts_what_this_look_plans() -> None:
    policy = POLICY.model_copy(update={"monthly_training_minutes": 11.0})
    requests = tuple(REQUEST.model_copy(update={"number": n}) for n in (1, 2))
    situation = replace(QUIET, dataset=NEW, requests=requests, minutes_spent=9.0)
    approved = [decision.approved for decision in judge(policy, situation)]
    assert approved == [True, True, False]
    assert "budget of 11 min" in judge(policy, situation)[2].reason


def test_an_approved_cause_is_never_decided_again() -> None:
    situation = replace(QUIET, requests=(REQUEST,))
    assert judge(POLICY, replace(situation, approved=frozenset({REQUEST.digest}))) == []


@pytest.mark.parametrize("trigger", ["dataset_version", "manual"])
def test_a_trigger_that_is_off_asks_in_vain(trigger: str) -> None:
    policy = POLICY.model_copy(update={"triggers": Triggers(**{trigger: False})})
    decisions = judge(policy, replace(QUIET, dataset=NEW, requests=(REQUEST,)))
    refused = {decision.cause.trigger.value for decision in decisions if not decision.approved}
    assert refused == {trigger}


situations = st.builds(
    Situation,
    now=st.just(NOW),
    dataset=st.none()
    | st.builds(
        DatasetFact,
        dataset_version=st.just("ds-2"),
        planned_for=st.booleans(),
        new_clips=st.integers(0, 50),
        incidents=st.sampled_from([(), ("inc-1",)]),
    ),
    waiting_incidents=st.sampled_from([(), ("inc-1",), ("inc-1", "inc-2")]),
    requests=st.sampled_from([(), (REQUEST,)]),
    approved=st.sampled_from([frozenset(), frozenset({REQUEST.digest})]),
    last_planned_at=st.none() | st.integers(0, 48).map(lambda hours: NOW - timedelta(hours=hours)),
    minutes_spent=st.floats(0, 20),
    minutes_expected=st.floats(0, 5),
)


@given(situations, st.floats(0, 20))
def test_no_situation_breaks_the_budget_or_decides_twice(situation: Situation, budget: float) -> None:
    policy = POLICY.model_copy(update={"monthly_training_minutes": budget})
    decisions = judge(policy, situation)
    approved = [decision for decision in decisions if decision.approved]
    ids = [decision.decision_id for decision in decisions]
    assert len(ids) == len(set(ids))
    assert not set(ids) & situation.approved
    if approved:
        assert situation.minutes_spent + len(approved) * situation.minutes_expected <= budget + 1e-9
        assert situation.dataset is not None
    assert all(decision.reason for decision in decisions)


def test_the_policy_of_the_project_is_valid_and_quick_is_micro() -> None:
    policy = load_policy(PROJECT_ROOT / "policy" / "retrain.yaml", RetrainPolicy)
    assert {"quick", "story", "full"} <= set(policy.profiles)
    assert policy.profiles["quick"].scratch.preset.value == "micro"
    for profile in policy.profiles.values():
        assert profile.scratch.preset is profile.warm_start.preset  # else a warm start would never happen


def test_a_policy_with_an_unknown_key_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    text = (PROJECT_ROOT / "policy" / "retrain.yaml").read_text()
    (tmp_path / "retrain.yaml").write_text(text + "\ncooldown_hour: 1\n")
    with pytest.raises(PolicyError, match="cooldown_hour"):
        load_policy(tmp_path / "retrain.yaml", RetrainPolicy)
