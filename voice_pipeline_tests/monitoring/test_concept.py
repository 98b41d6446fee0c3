"""Concept drift: worse answers at the same inputs, and only those."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import insert, update

from voice_pipeline.monitoring.concept import (
    ConceptReport,
    ConceptStatus,
    calibration_error,
    report_concept_drift,
)
from voice_pipeline.monitoring.windows import build_windows
from voice_pipeline.schema.monitoring import Action, IncidentKind
from voice_pipeline.schema.monitoring_policy import MonitoringPolicy, load_monitoring_policy
from voice_pipeline.settings import PROJECT_ROOT
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.incidents import incidents
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clips, evaluations, triage
from voice_pipeline_tests.monitoring.world import MODEL, Features, go_live, report, speech, train_on


@pytest.fixture
def policy() -> MonitoringPolicy:
    return load_monitoring_policy(PROJECT_ROOT / "policy")


@pytest.fixture
def trained(store: Store, clock: ManualClock) -> Store:
    """A live model with its first 600 events, corrected in one word of ten and more often in noise."""
    train_on(store, speech(np.random.default_rng(0), 300))
    go_live(store)
    report(store, speech(np.random.default_rng(1), 600), corrected=usual)
    clock.advance(timedelta(days=1))
    return store


def usual(row: Features) -> float:
    return 0.1 if row["snr_db"] > 33 else 0.4


def worse(row: Features) -> float:
    return usual(row) + 0.25


def judge(store: Store, policy: MonitoringPolicy, day: str) -> ConceptReport:
    build_windows(store, day)
    return report_concept_drift(store, policy, day)


def test_the_same_answers_on_the_same_inputs_are_stable(trained: Store, policy: MonitoringPolicy) -> None:
    found = judge(trained, policy, report(trained, speech(np.random.default_rng(2), 600), corrected=usual))
    assert found.status is ConceptStatus.STABLE
    assert found.rise is not None
    assert found.rise.low < 0 < found.rise.high
    assert not incidents(trained)


def test_worse_answers_on_the_same_inputs_ask_for_labels(trained: Store, policy: MonitoringPolicy) -> None:
    found = judge(trained, policy, report(trained, speech(np.random.default_rng(2), 600), corrected=worse))
    (incident,) = incidents(trained)
    assert found.status is ConceptStatus.DRIFTED
    assert found.rise is not None
    assert found.rise.value == pytest.approx(0.25, abs=0.05)
    assert (incident.kind, incident.action) == (IncidentKind.CONCEPT_DRIFT, Action.LABEL)


def test_more_corrections_only_because_there_is_more_noise_are_no_concept_drift(
    trained: Store, policy: MonitoringPolicy
) -> None:
    """The raw corrected share rises by far more than the margin; at equal inputs nothing has changed."""
    rng = np.random.default_rng(2)
    rows = [row for row in speech(rng, 3000) if row["snr_db"] < 33 or rng.random() < 0.3][:1000]
    assert np.mean([usual(row) for row in rows]) > np.mean([usual(row) for row in speech(rng, 1000)]) + 0.06
    found = judge(trained, policy, report(trained, rows, corrected=usual))
    assert found.rise is not None
    assert abs(found.rise.value) < 0.03
    assert found.status is ConceptStatus.STABLE


def test_worse_answers_on_drifted_inputs_are_left_to_the_input_drift_incident(
    trained: Store, policy: MonitoringPolicy
) -> None:
    found = judge(trained, policy, report(trained, speech(np.random.default_rng(2), 1500, 1.3), corrected=worse))
    assert found.status is ConceptStatus.INPUT_DRIFT
    assert not incidents(trained)


def test_inputs_that_share_no_strata_with_the_first_events_are_not_compared(
    trained: Store, policy: MonitoringPolicy
) -> None:
    found = judge(trained, policy, report(trained, speech(np.random.default_rng(2), 600, 8.0), corrected=worse))
    assert found.status is ConceptStatus.TOO_LITTLE
    assert "strata" in found.note


def test_the_first_events_are_not_held_against_themselves(store: Store, policy: MonitoringPolicy) -> None:
    train_on(store, speech(np.random.default_rng(0), 300))
    go_live(store)
    found = judge(store, policy, report(store, speech(np.random.default_rng(1), 700)))
    assert (found.baseline_events, found.period_events) == (600, 100)
    assert found.status is ConceptStatus.TOO_LITTLE


def test_audited_labels_that_confirm_it_turn_the_request_into_training(
    trained: Store, policy: MonitoringPolicy
) -> None:
    audit_everything(trained, hypothesis="b")
    found = judge(trained, policy, report(trained, speech(np.random.default_rng(2), 600), corrected=worse))
    assert found.audited is not None
    assert found.audited.wer.value == 1.0
    assert incidents(trained)[0].action is Action.RETRAIN


def audit_everything(store: Store, hypothesis: str) -> None:
    at = store.now().isoformat()
    with store.database.write() as connection:
        connection.execute(update(clips).values(model_version=MODEL, hypothesis=hypothesis))
        for clip_id in connection.execute(clips.select()).scalars().all():
            connection.execute(
                insert(triage).values(
                    clip_id=clip_id,
                    capture_date="2026-11-01",
                    route="accept",
                    priority=0.0,
                    inclusion_probability=0.02,
                    audit=True,
                    reasons=[],
                    at=at,
                )
            )
        connection.execute(
            insert(evaluations).values(
                model_version=MODEL,
                variant="int8",
                suite_digest="s",
                suite_id="s",
                artifact_sha256="a",
                report={"overall": {"wer": {"value": 0.2, "low": 0.1, "high": 0.3}}},
                created_at=at,
            )
        )


def test_a_worse_day_seen_twice_is_one_incident(trained: Store, policy: MonitoringPolicy) -> None:
    day = report(trained, speech(np.random.default_rng(2), 600), corrected=worse)
    judge(trained, policy, day)
    judge(trained, policy, day)
    assert len(incidents(trained)) == 1


def test_calibration_error_is_the_gap_between_promise_and_truth() -> None:
    assert calibration_error(np.full(10, 0.9), np.array([1.0] * 9 + [0.0])) == pytest.approx(0)
    assert calibration_error(np.full(10, 0.9), np.zeros(10)) == pytest.approx(0.9)
    assert calibration_error(np.array([]), np.array([])) == 0
