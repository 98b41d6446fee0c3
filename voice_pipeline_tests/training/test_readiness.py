"""No model is trained without a pre-flight that passed: of this spec, on this machine, by this code, not long ago."""

from __future__ import annotations

import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from sqlalchemy import select

from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import consents, models
from voice_pipeline.training import readiness
from voice_pipeline.training.errors import PreflightError
from voice_pipeline.training.planning import act, read_policy
from voice_pipeline.training.preflight import Finding
from voice_pipeline.training.readiness import PREFLIGHT, Verdict, demand, ensure, judge, newest
from voice_pipeline.training.worker import run_worker, train_planned


@pytest.fixture
def model(labelled: Store) -> str:
    (planned,) = act(labelled, read_policy(labelled))
    return planned.model_version


def store_verdict(store: Store, model_version: str, passed: bool = True, **changes: str) -> None:
    """A line as `judge` writes it, without the seconds that looking takes."""
    spec = readiness.planned_spec(store, model_version)
    findings = [{"name": "one batch", "passed": passed, "detail": "by hand"}]
    payload = {**readiness.binding_of(spec), **changes, "passed": passed, "seconds": 1.0, "findings": findings}
    store.ledger.append(PREFLIGHT, model_version, payload, actor="test")


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whenever somebody looks anew, the model's name lands here; what is found fails."""
    names: list[str] = []

    def fail(store: Store, model_version: str, limits: object) -> list[Finding]:
        names.append(model_version)
        return [Finding("one batch", False, "loss 9.00 → 8.99")]

    monkeypatch.setattr(readiness, "_look_elsewhere", fail)
    return names


def test_everything_is_looked_at_in_a_process_of_its_own_and_kept(labelled: Store, model: str) -> None:
    threads, before = threading.active_count(), torch.get_num_threads()
    verdict = judge(labelled, model)
    assert verdict.passed, verdict.findings
    assert {"manifest", "consents", "disk", "memory", "one batch", "inference"} <= {f.name for f in verdict.findings}
    assert newest(labelled, model) == Verdict(
        model, verdict.binding, verdict.findings, round(verdict.seconds, 2), verdict.at
    )
    assert (threading.active_count(), torch.get_num_threads()) == (threads, before)
    assert torch.tensor(1e-40) != 0  # denormals are not flushed here


def test_what_a_library_prints_there_is_no_finding(
    labelled: Store, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talks = tmp_path / "python"
    finding = '{"name": "disk", "passed": true, "detail": "much"}'
    talks.write_text(f"#!/bin/sh\necho warming up\necho '{finding}'\nprintf '{finding[:20]}'\n")
    talks.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(talks))
    assert judge(labelled, model).findings == (Finding("disk", True, "much"),)


def test_a_fresh_verdict_is_not_asked_for_twice(labelled: Store, model: str, looked: list[str]) -> None:
    store_verdict(labelled, model)
    assert ensure(labelled, model).passed
    assert looked == []


@pytest.mark.parametrize("name", ["spec_digest", "machine", "code_commit", "lock_digest"])
def test_a_verdict_about_anything_else_counts_for_nothing(
    labelled: Store, model: str, looked: list[str], name: str
) -> None:
    store_verdict(labelled, model, **{name: "another"})
    with pytest.raises(PreflightError, match=r"one batch: loss 9.00 → 8.99"):
        ensure(labelled, model)
    assert looked == [model]


def test_a_stale_or_failed_verdict_is_looked_into_again(
    labelled: Store, model: str, looked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store_verdict(labelled, model)
    clock = labelled.clock
    assert isinstance(clock, ManualClock)
    clock.advance(timedelta(hours=6, seconds=1))
    with pytest.raises(PreflightError):
        ensure(labelled, model)
    with pytest.raises(PreflightError):
        ensure(labelled, model)  # the failure that is stored now is no reason not to look
    assert looked == [model, model]


def test_a_verdict_of_the_future_counts_for_nothing(labelled: Store, model: str, looked: list[str]) -> None:
    tomorrow = Store.open(labelled.settings, ManualClock(labelled.now() + timedelta(days=1)))
    store_verdict(tomorrow, model)
    with pytest.raises(PreflightError):
        ensure(labelled, model)
    assert looked == [model]


def test_a_failed_preflight_starts_no_training(labelled: Store, model: str, looked: list[str]) -> None:
    with pytest.raises(PreflightError, match=f"{model} is not trained: one batch"):
        run_worker(labelled, model)
    assert not (labelled.settings.models / model).exists()


def test_a_worker_started_past_the_gate_looks_itself_and_refuses(
    labelled: Store, model: str, looked: list[str]
) -> None:
    with pytest.raises(PreflightError, match=r"one batch: loss 9\.00"):
        train_planned(labelled, model)
    store_verdict(labelled, model, passed=False)
    with pytest.raises(PreflightError, match=r"one batch: loss 9\.00"):
        train_planned(labelled, model)
    assert looked == [model, model]
    assert not (labelled.settings.models / model / "checkpoint").exists()


def test_what_is_cheap_is_looked_at_again_when_training_starts(labelled: Store, model: str) -> None:
    store_verdict(labelled, model)
    demand(labelled, model)
    with labelled.database.write() as connection:
        connection.execute(consents.update().values(scopes=["evaluate"]))
    with pytest.raises(PreflightError, match="consents: 24 of 24 clips lack"):
        demand(labelled, model)


def test_a_look_that_takes_too_long_or_dies_fails_with_a_reason(
    labelled: Store, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = labelled.settings.policy_dir / "retrain.yaml"
    text = path.read_text()
    path.write_text(text.replace("seconds: 600", "seconds: 0.2"))
    verdict = judge(labelled, model)
    assert not verdict.passed
    assert verdict.findings[-1].detail.startswith("not done after 0 s")
    path.write_text(text)
    monkeypatch.setattr(readiness.sys, "executable", "/bin/false")
    assert not judge(labelled, model).passed


def test_a_plan_that_cannot_learn_is_stopped_with_both_losses(labelled: Store, model: str) -> None:
    with labelled.database.write() as connection:
        row = connection.execute(select(models.c.spec)).scalar_one()
        row["hyperparameters"]["learning_rate"] = 1e-9
        connection.execute(models.update().values(spec=row))
    with pytest.raises(PreflightError, match=r"one batch: .* loss \d+\.\d\d → \d+\.\d\d in 100 steps"):
        ensure(labelled, model)


def test_a_policy_that_cannot_be_read_trains_nothing(labelled: Store, model: str) -> None:
    (labelled.settings.policy_dir / "retrain.yaml").write_text("profiles: 3")
    for gate in (ensure, demand):
        with pytest.raises(PreflightError, match=r"retrain\.yaml is not valid"):
            gate(labelled, model)
