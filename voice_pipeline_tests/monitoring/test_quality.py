"""Quality: limits are broken only when it is certain, mended when measured, and silence of devices is seen."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from voice_pipeline.monitoring.quality import QualityReport, report_quality
from voice_pipeline.monitoring.windows import build_windows
from voice_pipeline.schema.monitoring import Action
from voice_pipeline.schema.monitoring_policy import MonitoringPolicy, load_monitoring_policy
from voice_pipeline.settings import PROJECT_ROOT
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.incidents import incidents, open_incidents
from voice_pipeline.store.store import Store
from voice_pipeline_tests.monitoring.world import MODEL, go_live, report, speech, train_on


@pytest.fixture
def policy() -> MonitoringPolicy:
    return load_monitoring_policy(PROJECT_ROOT / "policy")


@pytest.fixture
def trained(store: Store) -> Store:
    train_on(store, speech(np.random.default_rng(0), 20))
    go_live(store)
    return store


def judge(store: Store, policy: MonitoringPolicy, day: str) -> QualityReport:
    build_windows(store, day)
    return report_quality(store, policy, day)


def test_figures_of_the_day_are_those_of_the_events(trained: Store, policy: MonitoringPolicy) -> None:
    day = report(trained, speech(np.random.default_rng(1), 300), corrected=lambda _row: 0.2)
    (model,) = judge(trained, policy, day).models
    assert (model.events, model.devices, model.latency_p95_ms) == (300, 60, 50.0)
    assert model.correction_rate.value == pytest.approx(0.2, abs=0.025)
    assert model.correction_rate.low < model.correction_rate.value < model.correction_rate.high


def test_a_healthy_live_model_opens_nothing(trained: Store, policy: MonitoringPolicy) -> None:
    found = judge(trained, policy, report(trained, speech(np.random.default_rng(1), 300)))
    assert not found.breaches
    assert not incidents(trained)


@pytest.mark.parametrize(
    ("changes", "metric"),
    [
        ({"crashed": True}, "crash_rate"),
        ({"latency_ms": 2000.0}, "latency_p95_ms"),
        ({"abandoned": True}, "abandoned_rate"),
        ({"fallback": True}, "fallback_rate"),
    ],
)
def test_each_broken_limit_opens_its_incident_for_people_to_look_at(
    trained: Store, policy: MonitoringPolicy, changes: dict[str, object], metric: str
) -> None:
    found = judge(trained, policy, report(trained, speech(np.random.default_rng(1), 300), **changes))
    (incident,) = incidents(trained)
    assert [breach.metric for breach in found.breaches] == [metric]
    assert (incident.action, incident.detail["metric"]) == (Action.OBSERVE, metric)


def test_a_candidates_crashes_are_left_to_the_release_controller(trained: Store, policy: MonitoringPolicy) -> None:
    rows = speech(np.random.default_rng(1), 300)
    day = report(trained, rows)
    report(trained, rows, model_version="m-20261102-cccccccc", crashed=True)
    found = judge(trained, policy, day)
    assert len(found.models) == 2
    assert not found.breaches


def test_a_few_crashes_of_few_events_prove_nothing(trained: Store, policy: MonitoringPolicy) -> None:
    found = judge(trained, policy, report(trained, speech(np.random.default_rng(1), 50), crashed=True))
    assert not found.breaches


def test_an_incident_closes_when_the_metric_is_measured_within_its_limit(
    trained: Store, policy: MonitoringPolicy, clock: ManualClock
) -> None:
    rng = np.random.default_rng(1)
    judge(trained, policy, report(trained, speech(rng, 300), latency_ms=2000.0))
    clock.advance(timedelta(days=1))
    judge(trained, policy, report(trained, speech(rng, 10)))
    assert open_incidents(trained), "ten events mend nothing"
    judge(trained, policy, report(trained, speech(rng, 300), seed=1))
    assert not open_incidents(trained)


def test_a_fleet_that_falls_silent_is_noticed_once_the_day_is_over(
    trained: Store, policy: MonitoringPolicy, clock: ManualClock
) -> None:
    rng = np.random.default_rng(1)
    report(trained, speech(rng, 300), devices=60)
    clock.advance(timedelta(days=1))
    day = report(trained, speech(rng, 300), devices=20)
    assert judge(trained, policy, day).reporting_share is None
    clock.advance(timedelta(days=1))
    found = judge(trained, policy, day)
    assert found.reporting_share == pytest.approx(1 / 3)
    assert [breach.metric for breach in found.breaches] == ["reporting_share"]
    assert incidents(trained)[0].model_version == MODEL
