"""Minutes are not spent on data that may not be used, nor on a machine that cannot."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import select, update

from voice_pipeline.schema.dataset import ManifestRow, Split
from voice_pipeline.schema.retrain_policy import Preflight
from voice_pipeline.store.manifest import manifest_bytes, manifest_rows
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import consents, dataset_versions, eval_suites, noises, training_frames
from voice_pipeline.training import preflight
from voice_pipeline.training.planning import Plan, act, read_policy
from voice_pipeline.training.preflight import Finding, check_data, check_machine, check_network


@pytest.fixture
def plan(labelled: Store) -> Plan:
    (planned,) = act(labelled, read_policy(labelled))
    return planned


def failed(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.detail for finding in findings if not finding.passed}


def test_a_sound_home_passes_and_one_batch_learns(labelled: Store, plan: Plan) -> None:
    assert failed(check_data(labelled, plan.spec)) == {}
    assert failed(check_machine(labelled, plan.spec, Preflight(disk_mb=1, memory_mb=1))) == {}
    batch, inference = check_network(labelled, plan.spec, Preflight())
    assert (batch.passed, inference.passed) == (True, True)
    assert re.match(r"\d clips learnt by heart: loss \d+\.\d\d → \d+\.\d\d in \d+ steps", batch.detail)
    assert "wrong characters" in inference.detail
    assert not (labelled.settings.models / plan.model_version).exists()  # it leaves nothing


def test_a_network_that_cannot_learn_a_batch_by_heart_stops_the_run_with_both_losses(
    labelled: Store, plan: Plan
) -> None:
    slow = plan.spec.hyperparameters.model_copy(update={"learning_rate": 1e-9})
    findings = check_network(labelled, plan.spec.model_copy(update={"hyperparameters": slow}), Preflight())
    (finding,) = findings
    assert not finding.passed
    assert re.search(r"loss (\d+\.\d\d) → \1 in 100 steps, \d\.\d\d wanted; is learning_rate 1e-09", finding.detail)


def change_consent(store: Store, **values: object) -> None:
    with store.database.write() as connection:
        connection.execute(update(consents).where(consents.c.subject_token == "speaker-0").values(**values))


def test_a_clip_without_consent_to_train_stops_the_run(labelled: Store, plan: Plan) -> None:
    change_consent(labelled, scopes=["transcribe_review", "evaluate"])
    assert failed(check_data(labelled, plan.spec)) == {"consents": "1 of 24 clips lack a standing consent to train"}


def test_a_clip_whose_consent_was_revoked_is_not_there_to_learn_from(labelled: Store, plan: Plan) -> None:
    change_consent(labelled, revoked_at="2026-11-02")
    details = {finding.name: finding.detail for finding in check_data(labelled, plan.spec)}
    assert details["consents"] == "0 of 23 clips lack a standing consent to train"


def test_a_clip_of_a_frozen_suite_is_never_learnt_from(labelled: Store, plan: Plan) -> None:
    row = labelled.database.row(eval_suites.select())
    assert row is not None
    learnt = first(manifest_rows(labelled, plan.spec.dataset_version), Split.TRAIN).clip_id
    with labelled.database.write() as connection:
        connection.execute(update(eval_suites).values(suite={**row["suite"], "clip_ids": [learnt]}))
    assert set(failed(check_data(labelled, plan.spec))) == {"suites untouched"}


def test_missing_features_and_a_missing_manifest_are_named(labelled: Store, plan: Plan) -> None:
    with labelled.database.write() as connection:
        connection.execute(training_frames.delete())
    assert "materialise training_frame" in failed(check_data(labelled, plan.spec))["training frame"]
    elsewhere = plan.spec.model_copy(update={"dataset_version": "ds-nowhere"})
    assert "ds-nowhere" in failed(check_data(labelled, elsewhere))["manifest"]


def test_a_machine_that_is_too_small_or_lacks_the_parent_says_so_with_the_numbers(
    labelled: Store, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = plan.spec.model_copy(update={"parent_model_version": "m-20260101-00000000"})
    monkeypatch.setattr(preflight, "available_memory_mb", lambda: 123)
    findings = failed(check_machine(labelled, orphan, Preflight(disk_mb=10**12, memory_mb=0)))
    assert set(findings) == {"disk", "memory", "parent"}
    assert "m-20260101-00000000 has no checkpoint" in findings["parent"]
    assert re.match(r"\d+ MB free, 1000000000000 MB needed; estimated \d+ MB \(", findings["disk"])
    told = re.match(r"123 MB free, (\d+) MB needed; estimated (\d+) MB \(process", findings["memory"])
    assert told is not None
    assert told.group(1) == told.group(2)  # no floor: the plan's own estimate is what is needed


def test_the_floors_of_the_policy_hold_beside_the_estimates(
    labelled: Store, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage("/")._replace(free=2_000_000)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: free)
    monkeypatch.setattr(preflight, "available_memory_mb", lambda: 10**5)
    findings = failed(check_machine(labelled, plan.spec, Preflight(disk_mb=1, memory_mb=10**6)))
    assert set(findings) == {"disk", "memory"}
    assert findings["disk"].startswith("2 MB free, ")  # more than the floor, less than the estimate
    assert findings["memory"].startswith("100000 MB free, 1000000 MB needed")  # and the other way round


def memory_of(store: Store, plan: Plan) -> dict[str, int]:
    """The parts of the memory estimate, in MB."""
    told = {finding.name: finding.detail for finding in check_machine(store, plan.spec, Preflight())}["memory"]
    return {name: int(size) for name, size in re.findall(r"[(,] ?([a-z ]+) (\d+)", told)}


def test_every_training_process_and_every_noise_counts(labelled: Store, plan: Plan) -> None:
    before = memory_of(labelled, plan)
    row = {"category": "street", "licence": "CC0", "blob_key": "k", "sha256": "s"}
    with labelled.database.write() as connection:
        for kind, seconds in (("noise", 3000.0), ("rir", 600.0)):
            connection.execute(noises.insert().values(noise_id=kind, kind=kind, duration_s=seconds, **row))
    assert (before["noises and rooms"], memory_of(labelled, plan)["noises and rooms"]) == (0, 231)  # 64 kB a second
    several = labelled.settings.model_copy(update={"training_processes": 3})
    after = memory_of(Store.open(several, labelled.clock), plan)
    assert after["noises and rooms"] == 692
    assert after["process"] == 4 * before["process"]


def test_where_gpus_compute_their_memory_is_looked_at(
    labelled: Store, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "one batch" in memory_of(labelled, plan)
    monkeypatch.setattr(preflight, "available_gpu_memory_mb", lambda gpus: 10 * gpus)
    findings = failed(check_machine(labelled, plan.spec, Preflight(disk_mb=1)))
    assert set(findings) == {"GPU memory"}
    assert re.match(
        r"10 MB free, (\d+) MB needed; estimated \1 MB \(weights and optimiser \d+, one", findings["GPU memory"]
    )
    assert "one batch" not in memory_of(labelled, plan)


def frame_of(store: Store) -> Path:
    return store.settings.root / str(store.database.scalar(select(training_frames.c.uri)))


def test_a_frame_with_other_columns_than_the_feature_service_is_refused(labelled: Store, plan: Plan) -> None:
    table = pq.read_table(frame_of(labelled))
    changed = table.rename_columns(["snr" if name == "snr_db" else name for name in table.column_names])
    changed = changed.set_column(changed.column_names.index("clipping"), "clipping", changed["clip_id"])
    pq.write_table(changed, frame_of(labelled))
    detail = failed(check_data(labelled, plan.spec))["training frame"]
    assert "column snr_db is missing" in detail
    assert "column snr is not in the feature service" in detail
    assert "column clipping is no number" in detail
    frame_of(labelled).unlink()
    assert "missing or no parquet" in failed(check_data(labelled, plan.spec))["training frame"]


def test_a_release_policy_that_cannot_be_read_stops_the_run(labelled: Store, plan: Plan) -> None:
    path = labelled.settings.policy_dir / "release.yaml"
    path.write_text(path.read_text() + "\njump_to: 100\n")
    assert "jump_to" in failed(check_data(labelled, plan.spec))["policy"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda table: table.drop_columns(["device_class"]), "column device_class is missing"),
        (lambda table: table.append_column("age", table["clip_id"]), "column age is not known"),
        (
            lambda table: table.set_column(
                table.column_names.index("duration_s"), "duration_s", pa.array(["long"] * table.num_rows)
            ),
            "column duration_s is string, not double",
        ),
    ],
)
def test_a_manifest_with_other_columns_is_refused(
    labelled: Store, plan: Plan, change: Callable[[pa.Table], pa.Table], told: str
) -> None:
    rewrite(labelled, change)
    assert told in failed(check_data(labelled, plan.spec))["manifest"]


def test_a_row_that_is_no_row_is_refused_without_quoting_it(labelled: Store, plan: Plan) -> None:
    rewrite(
        labelled,
        lambda table: table.set_column(
            table.column_names.index("duration_s"), "duration_s", pa.array([99.0] * table.num_rows)
        ),
    )
    detail = failed(check_data(labelled, plan.spec))["manifest"]
    assert "duration_s is no valid value" in detail
    assert "call mary" not in detail


def rewrite(store: Store, change: Callable[[pa.Table], pa.Table]) -> None:
    """Another manifest under the same version, as a tool that means well would leave it."""
    changed = io.BytesIO()
    pq.write_table(change(pq.read_table(manifest_of(store))), changed)
    replace_manifest(store, changed.getvalue())


def manifest_of(store: Store) -> Path:
    return store.settings.dataset_repo / "data" / "manifest.parquet"


def replace_manifest(store: Store, content: bytes) -> None:
    manifest_of(store).unlink()  # DVC may share the file
    manifest_of(store).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    with store.database.write() as connection:
        connection.execute(update(dataset_versions).values(manifest_sha256=digest))


Rows = list[ManifestRow]


def first(rows: Rows, split: Split) -> ManifestRow:
    return next(row for row in rows if row.split is split)


def with_a_dev_speaker_in_train(rows: Rows) -> Rows:
    moved, speaker = first(rows, Split.TRAIN), first(rows, Split.DEV).speaker
    return [row.model_copy(update={"speaker": speaker}) if row is moved else row for row in rows]


def without_dev(rows: Rows) -> Rows:
    return [row.model_copy(update={"split": Split.TRAIN}) if row.split is Split.DEV else row for row in rows]


def with_a_digit(rows: Rows) -> Rows:
    said = first(rows, Split.TRAIN)
    return [row.model_copy(update={"text": "call 9"}) if row is said else row for row in rows]


@pytest.mark.parametrize(
    ("change", "name", "told"),
    [
        (with_a_dev_speaker_in_train, "speakers disjoint", "1 of "),
        (without_dev, "splits", "dev 0"),
        (with_a_digit, "texts", "1 texts are empty or leave the alphabet, first "),
    ],
)
def test_rows_that_may_not_be_learnt_from_as_they_are_stop_the_run(
    labelled: Store, plan: Plan, change: Callable[[Rows], Rows], name: str, told: str
) -> None:
    rows = change(manifest_rows(labelled, plan.spec.dataset_version))
    replace_manifest(labelled, manifest_bytes(labelled, rows))
    (finding,) = failed(check_data(labelled, plan.spec)).items()
    assert finding[0] == name
    assert told in finding[1]
