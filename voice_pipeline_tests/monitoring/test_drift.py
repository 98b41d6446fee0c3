"""Input drift: fires on a real shift, once a cause, and on nothing else."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete

from voice_pipeline.monitoring.drift import DriftReport, DriftStatus, report_drift
from voice_pipeline.monitoring.errors import MissingReferenceError
from voice_pipeline.monitoring.reference import half_and_half
from voice_pipeline.monitoring.reports import DRIFT, newest_report
from voice_pipeline.monitoring.windows import build_windows
from voice_pipeline.schema.monitoring import Action, IncidentKind
from voice_pipeline.schema.monitoring_policy import MonitoringPolicy, load_monitoring_policy
from voice_pipeline.settings import PROJECT_ROOT
from voice_pipeline.stats.sketches import Sketch
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.incidents import incidents, open_incidents
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clip_features
from voice_pipeline_tests.monitoring.world import (
    DATASET,
    MODEL,
    Features,
    enter,
    go_live,
    promote,
    report,
    speech,
    train_on,
)

SHIFTED = 2.0
SECOND = "m-20261103-bbbbbbbb"


@pytest.fixture
def policy() -> MonitoringPolicy:
    return load_monitoring_policy(PROJECT_ROOT / "policy")


@pytest.fixture
def trained(store: Store) -> Store:
    train_on(store, speech(np.random.default_rng(0), 300))
    go_live(store)
    return store


def judge(store: Store, policy: MonitoringPolicy, rows: list[Features], **how: object) -> DriftReport:
    day = report(store, rows, **how)  # type: ignore[arg-type]
    build_windows(store, day)
    return report_drift(store, policy, day)


def test_no_live_model_means_no_judgement(store: Store, policy: MonitoringPolicy) -> None:
    found = judge(store, policy, speech(np.random.default_rng(1), 600))
    assert found.status is DriftStatus.NO_LIVE_MODEL
    assert not incidents(store)


def test_traffic_like_the_training_data_is_clear(trained: Store, policy: MonitoringPolicy) -> None:
    found = judge(trained, policy, speech(np.random.default_rng(1), 600))
    assert found.status is DriftStatus.CLEAR
    assert found.dataset_version == DATASET
    assert not incidents(trained)


def test_a_shifted_population_opens_one_incident_that_asks_for_training(
    trained: Store, policy: MonitoringPolicy
) -> None:
    found = judge(trained, policy, speech(np.random.default_rng(1), 600, SHIFTED))
    (incident,) = incidents(trained)
    assert found.status is DriftStatus.DRIFTED
    assert found.incident_ids == (incident.incident_id,)
    assert (incident.kind, incident.action, incident.model_version) == (
        IncidentKind.INPUT_DRIFT,
        Action.RETRAIN,
        MODEL,
    )
    assert {"duration_s", "snr_db"} <= set(incident.detail["drifted_features"])  # type: ignore[call-overload]
    figures = incident.detail["features"]["snr_db"]  # type: ignore[index]
    assert figures["psi"] > 0.35
    assert figures["ks"] > 0.28
    assert incident.detail["flags"][0]["release_id"] == f"{MODEL}-r1"  # type: ignore[index]


def test_seeing_the_same_drift_again_and_the_next_day_opens_no_second_incident(
    trained: Store, policy: MonitoringPolicy, clock: ManualClock
) -> None:
    rng = np.random.default_rng(1)
    judge(trained, policy, speech(rng, 600, SHIFTED))
    judge(trained, policy, speech(rng, 600, SHIFTED), seed=1)
    clock.advance(timedelta(days=1))
    judge(trained, policy, speech(rng, 600, SHIFTED))
    assert len(incidents(trained)) == 1


def test_one_shifted_feature_is_not_enough(trained: Store, policy: MonitoringPolicy) -> None:
    rows = [{**row, "snr_db": row["snr_db"] - 20} for row in speech(np.random.default_rng(1), 600)]
    found = judge(trained, policy, rows)
    assert [f.feature for f in found.of("all") if f.drifted] == ["snr_db"]
    assert found.status is not DriftStatus.DRIFTED
    assert not incidents(trained)


def test_a_model_that_writes_less_text_is_no_input_drift(trained: Store, policy: MonitoringPolicy) -> None:
    rows = [
        {**row, "speaking_rate": 0.5, "snr_db": row["snr_db"] - 20} for row in speech(np.random.default_rng(1), 600)
    ]
    assert judge(trained, policy, rows).status is not DriftStatus.DRIFTED


@pytest.mark.parametrize(("events", "devices"), [(150, 60), (600, 3)])
def test_too_few_events_or_devices_judge_nothing(
    trained: Store, policy: MonitoringPolicy, events: int, devices: int
) -> None:
    found = judge(trained, policy, speech(np.random.default_rng(1), events, SHIFTED), devices=devices)
    assert found.status is DriftStatus.TOO_LITTLE
    assert not incidents(trained)


def test_another_live_model_closes_the_incident_and_starts_a_cooldown(
    trained: Store, policy: MonitoringPolicy, clock: ManualClock
) -> None:
    rng = np.random.default_rng(1)
    judge(trained, policy, speech(rng, 600, SHIFTED))
    clock.advance(timedelta(days=1))
    go_live(trained, SECOND)
    found = judge(trained, policy, speech(rng, 600, SHIFTED), model_version=SECOND)
    assert found.status is DriftStatus.DRIFTED
    assert "cooldown" in found.note
    assert not open_incidents(trained)
    clock.advance(timedelta(hours=policy.drift.cooldown_hours + 1))
    found = judge(trained, policy, speech(rng, 600, SHIFTED), model_version=SECOND)
    assert [incident.model_version for incident in open_incidents(trained)] == [SECOND]


def roll_out(store: Store, clock: ManualClock, accepted: list[Features]) -> None:
    """The second model, trained on the old clips, meets `accepted` in its rollout and goes live."""
    enter(store, SECOND)
    clock.advance(timedelta(hours=1))
    report(store, accepted, model_version=SECOND, release_id=f"{SECOND}-r1", seed=9)
    clock.advance(timedelta(hours=1))
    promote(store, SECOND)


@pytest.mark.parametrize("new", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_the_population_a_model_was_promoted_on_is_no_drift_however_mixed_with_the_old(
    trained: Store, policy: MonitoringPolicy, clock: ManualClock, new: float
) -> None:
    rng = np.random.default_rng(1)
    far = 6.0
    assert judge(trained, policy, speech(rng, 600, far)).status is DriftStatus.DRIFTED
    roll_out(trained, clock, speech(rng, 400, far))
    clock.advance(timedelta(days=1))
    rows = [*speech(rng, round(1200 * new), far), *speech(rng, 1200 - round(1200 * new))]
    rng.shuffle(rows)  # type: ignore[arg-type]
    assert judge(trained, policy, rows, model_version=SECOND).status in (DriftStatus.CLEAR, DriftStatus.WITHIN_FLOORS)


def test_a_third_population_drifts_from_both_that_were_accepted(
    trained: Store, policy: MonitoringPolicy, clock: ManualClock
) -> None:
    rng = np.random.default_rng(1)
    roll_out(trained, clock, speech(rng, 400, SHIFTED))
    for shift in (2 * SHIFTED, -SHIFTED):
        found = judge(trained, policy, speech(rng, 600, shift), model_version=SECOND, seed=int(shift) + 5)
        assert found.status is DriftStatus.DRIFTED
        clock.advance(timedelta(days=1))


def test_a_few_events_of_a_rollout_accept_no_population(
    trained: Store, policy: MonitoringPolicy, clock: ManualClock
) -> None:
    rng = np.random.default_rng(1)
    roll_out(trained, clock, speech(rng, policy.drift.min_window_events - 1, SHIFTED))
    clock.advance(timedelta(days=1))
    found = judge(trained, policy, speech(rng, 600, SHIFTED), model_version=SECOND)
    assert found.status is DriftStatus.DRIFTED


def test_a_cohort_too_small_in_the_rollout_is_accepted_with_everyone(
    trained: Store, policy: MonitoringPolicy, clock: ManualClock
) -> None:
    rng = np.random.default_rng(1)
    relaxed = policy.model_copy(update={"drift": policy.drift.model_copy(update={"min_reference_clips": 50})})
    roll_out(trained, clock, speech(rng, 400, SHIFTED))  # a hundred of each device class
    clock.advance(timedelta(days=1))
    found = judge(trained, relaxed, speech(rng, 1200, SHIFTED), model_version=SECOND)
    assert found.of("device_class=phone_low")
    assert found.status is DriftStatus.CLEAR


def test_what_a_model_met_while_it_was_live_is_not_accepted_when_a_rollback_brings_it_back(
    trained: Store, policy: MonitoringPolicy, clock: ManualClock
) -> None:
    rng = np.random.default_rng(1)
    rows = speech(rng, 600, SHIFTED)
    report(trained, rows, release_id=f"{MODEL}-r1")
    clock.advance(timedelta(hours=1))
    go_live(trained, SECOND)
    clock.advance(timedelta(hours=1))
    promote(trained, MODEL)
    clock.advance(timedelta(days=1))
    assert judge(trained, policy, rows, release_id=f"{MODEL}-r1").status is DriftStatus.DRIFTED


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_an_equal_mixture_gives_each_side_half_and_claims_no_more_values_than_it_saw(one: int, other: int) -> None:
    mixed = half_and_half(Sketch(np.zeros(one)), Sketch(np.ones(other)))
    assert mixed.n == 2 * min(one, other)
    assert mixed.cdf(np.array([0.5]))[0] == pytest.approx(0.5, abs=0.01)


def test_an_incident_closes_only_after_clean_reports_in_a_row(
    trained: Store, policy: MonitoringPolicy, clock: ManualClock
) -> None:
    rng = np.random.default_rng(1)
    judge(trained, policy, speech(rng, 600, SHIFTED))
    clock.advance(timedelta(days=1))
    judge(trained, policy, speech(rng, 600))
    assert len(open_incidents(trained)) == 1
    clock.advance(timedelta(days=1))
    judge(trained, policy, speech(rng, 600))
    assert not open_incidents(trained)


def test_traffic_just_below_the_floors_keeps_an_incident_open(
    trained: Store, policy: MonitoringPolicy, clock: ManualClock
) -> None:
    rng = np.random.default_rng(1)
    judge(trained, policy, speech(rng, 600, SHIFTED))
    for _ in range(policy.drift.clear_reports):
        clock.advance(timedelta(days=1))
        found = judge(trained, policy, speech(rng, 1500, 0.55))
        assert found.status is DriftStatus.WITHIN_FLOORS
    assert len(open_incidents(trained)) == 1


def test_a_drifted_cohort_alone_is_for_people_to_look_at(trained: Store, policy: MonitoringPolicy) -> None:
    rng = np.random.default_rng(1)
    relaxed = policy.model_copy(update={"drift": policy.drift.model_copy(update={"min_reference_clips": 50})})
    usual, shifted = speech(rng, 2400), iter(speech(rng, 2400, 3.0))
    rows = [next(shifted) if number % 4 == 0 and number % 3 else row for number, row in enumerate(usual)]
    found = judge(trained, relaxed, rows)
    (incident,) = incidents(trained)
    assert "all" not in found.drifted_cohorts
    assert incident.action is Action.OBSERVE
    assert incident.detail["cohort"] == "device_class=phone_low"


def test_a_model_without_measured_training_clips_is_an_error_not_a_pass(
    trained: Store, policy: MonitoringPolicy
) -> None:
    with trained.database.write() as connection:
        connection.execute(delete(clip_features))
    with pytest.raises(MissingReferenceError, match=DATASET):
        judge(trained, policy, speech(np.random.default_rng(1), 600))


def test_the_report_is_stored_as_it_was_given(trained: Store, policy: MonitoringPolicy) -> None:
    found = judge(trained, policy, speech(np.random.default_rng(1), 600, SHIFTED))
    assert newest_report(trained, DRIFT, DriftReport) == found
