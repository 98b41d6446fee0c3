"""Minutes are not spent on data that may not be used, nor on a machine that cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import update

from voice_pipeline.schema.retrain_policy import Preflight
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import consents, eval_suites, training_frames
from voice_pipeline.training.planning import Plan, act, read_policy
from voice_pipeline.training.preflight import Finding, available_memory_mb, check_data, check_machine


@pytest.fixture
def plan(labelled: Store) -> Plan:
    (planned,) = act(labelled, read_policy(labelled))
    return planned


def failed(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.detail for finding in findings if not finding.passed}


def test_a_sound_home_passes_and_one_batch_learns(labelled: Store, plan: Plan) -> None:
    assert failed(check_data(labelled, plan)) == {}
    findings = check_machine(labelled, plan, Preflight(disk_mb=1, memory_mb=1))
    assert failed(findings) == {}
    assert "loss" in findings[-1].detail
    assert not (labelled.settings.models / plan.model_version).exists()  # the smoke run leaves nothing


def change_consent(store: Store, **values: object) -> None:
    with store.database.write() as connection:
        connection.execute(update(consents).where(consents.c.subject_token == "speaker-0").values(**values))


def test_a_clip_without_consent_to_train_stops_the_run(labelled: Store, plan: Plan) -> None:
    change_consent(labelled, scopes=["transcribe_review", "evaluate"])
    assert failed(check_data(labelled, plan)) == {"consents": "1 of 24 clips lack a standing consent to train"}


def test_a_clip_whose_consent_was_revoked_is_not_there_to_learn_from(labelled: Store, plan: Plan) -> None:
    change_consent(labelled, revoked_at="2026-11-02")
    details = {finding.name: finding.detail for finding in check_data(labelled, plan)}
    assert details["consents"] == "0 of 23 clips lack a standing consent to train"


def test_a_clip_of_a_frozen_suite_is_never_learnt_from(labelled: Store, plan: Plan) -> None:
    row = labelled.database.row(eval_suites.select())
    assert row is not None
    from voice_pipeline.store.manifest import manifest_rows

    learnt = next(r.clip_id for r in manifest_rows(labelled, plan.spec.dataset_version) if r.split == "train")
    with labelled.database.write() as connection:
        connection.execute(update(eval_suites).values(suite={**row["suite"], "clip_ids": [learnt]}))
    assert set(failed(check_data(labelled, plan))) == {"suites untouched"}


def test_missing_features_and_a_missing_manifest_are_named(labelled: Store, plan: Plan) -> None:
    with labelled.database.write() as connection:
        connection.execute(training_frames.delete())
    assert "materialise training_frame" in failed(check_data(labelled, plan))["training frame"]
    elsewhere = Plan(
        plan.model_version,
        plan.spec.model_copy(update={"dataset_version": "ds-nowhere"}),
        plan.cause,
        plan.decision_id,
        plan.state,
    )
    assert "ds-nowhere" in failed(check_data(labelled, elsewhere))["manifest"]


def test_a_machine_that_is_too_small_or_lacks_the_parent_says_so(labelled: Store, plan: Plan) -> None:
    orphan = Plan(
        plan.model_version,
        plan.spec.model_copy(update={"parent_model_version": "m-20260101-00000000"}),
        plan.cause,
        plan.decision_id,
        plan.state,
    )
    findings = failed(check_machine(labelled, orphan, Preflight(disk_mb=10**12, memory_mb=10**9)))
    assert {"disk", "memory", "parent"} <= set(findings)
    assert "m-20260101-00000000 has no checkpoint" in findings["parent"]


def test_memory_is_read_in_megabytes_and_unknown_is_no_obstacle(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 16000000 kB\nMemAvailable:    2000000 kB\n")
    assert available_memory_mb(meminfo) == 2048
    assert available_memory_mb(tmp_path / "nowhere") == 1_000_000
