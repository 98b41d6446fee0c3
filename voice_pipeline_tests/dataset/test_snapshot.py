"""A dataset version is reproducible, survives any crash, and forgets whoever is erased, in the past too."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select, update

from voice_pipeline.dataset import snapshot as snapshots
from voice_pipeline.dataset.audit import broken_expectations, rows_without_audio, speakers_in_two_splits
from voice_pipeline.dataset.errors import EmptyDatasetError, ValidationFailedError
from voice_pipeline.dataset.snapshot import materialise, pending_batches, snapshot
from voice_pipeline.schema.dataset import Split
from voice_pipeline.settings import load_settings
from voice_pipeline.store.errors import DamagedManifestError, DamagedShardError, UnknownDatasetError
from voice_pipeline.store.manifest import MANIFEST, manifest_rows, read_audio, read_manifest
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clips, consents, dataset_clips, dataset_versions, labels, speaker_splits
from voice_pipeline_tests.store.labelled_home import TEST_SCOPES, add_batch

PEOPLE = [f"person-{number}" for number in range(9)]
TESTERS = ["tester-0", "tester-1"]


def fill(store: Store) -> None:
    add_batch(store, "batch-20260301-001", PEOPLE)
    add_batch(store, "batch-20260301-002", TESTERS, scopes=TEST_SCOPES)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_labels_become_a_version_whose_audio_and_lineage_can_be_read(store: Store) -> None:
    made = add_batch(store, "batch-20260301-001", PEOPLE)
    made += add_batch(store, "batch-20260301-002", TESTERS, scopes=TEST_SCOPES)
    result = snapshot(store)
    assert result.dataset_version == f"ds-{result.dvc_md5[:12]}"
    assert result.clips == len(made) == 22
    assert result.splits["test"] == 4
    assert files(result.folder) == {MANIFEST, "shards/batch-20260301-001.tar", "shards/batch-20260301-002.tar"}
    heard = {
        row.clip_id: (row.text, audio) for row, audio in read_audio(store, manifest_rows(store, result.dataset_version))
    }
    assert heard == {clip.clip_id: (clip.text, clip.flac) for clip in made}
    lineage = store.database.rows(select(dataset_clips))
    assert {row["clip_id"] for row in lineage} == heard.keys()
    assert all(row["consent_id"] for row in lineage)
    assert broken_expectations(store, "critical") == rows_without_audio(store) == speakers_in_two_splits(store) == ()


def test_the_same_labels_are_the_same_version(store: Store) -> None:
    fill(store)
    first, second = snapshot(store), snapshot(store)
    assert (first.created, second.created) == (True, False)
    assert first.dataset_version == second.dataset_version
    assert len(store.database.rows(select(dataset_versions))) == 1


def test_two_snapshots_at_once_make_one_version(store: Store) -> None:
    fill(store)
    made: list[str] = []
    threads = [
        threading.Thread(target=lambda: made.append(snapshot(Store.open(store.settings, store.clock)).dataset_version))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 3
    assert len(set(made)) == 1


def test_a_new_batch_makes_a_child_and_the_parent_stays_readable(store: Store) -> None:
    fill(store)
    first = snapshot(store)
    shard = first.folder / "shards/batch-20260301-001.tar"
    before = shard.read_bytes()
    assert pending_batches(store) == ()
    new = add_batch(store, "batch-20260302-001", ["newcomer"])
    assert pending_batches(store) == ("batch-20260302-001",)
    second = snapshot(store)
    assert (second.parent, second.sequence) == (first.dataset_version, 2)
    assert shard.read_bytes() == before
    old = materialise(store, first.dataset_version)
    assert files(old) == {MANIFEST, "shards/batch-20260301-001.tar", "shards/batch-20260301-002.tar"}
    rows = manifest_rows(store, first.dataset_version)
    assert not {clip.clip_id for clip in new} & {row.clip_id for row in rows}
    assert len(list(read_audio(store, rows, old))) == 22
    assert materialise(store, second.dataset_version) == store.settings.dataset_repo / "data"


def test_what_the_gate_refuses_is_written_nowhere(store: Store) -> None:
    fill(store)
    first = snapshot(store)
    before = {path: path.read_bytes() for path in store.settings.dataset_repo.rglob("*.tar")}
    bad = add_batch(store, "batch-20260302-001", ["newcomer"], text="NOT Normalised!")
    with pytest.raises(ValidationFailedError, match="transcripts are normalised") as error:
        snapshot(store)
    assert bad[0].clip_id in str(error.value)
    assert "NOT" not in str(error.value)
    assert {path: path.read_bytes() for path in store.settings.dataset_repo.rglob("*.tar")} == before
    assert [row["dataset_version"] for row in store.database.rows(select(dataset_versions))] == [first.dataset_version]
    assert store.database.row(select(speaker_splits).where(speaker_splits.c.subject_token == "newcomer")) is None
    assert "blocked" in (store.settings.reports / "dataset" / "gate.html").read_text()


def test_without_a_closed_batch_there_is_one_clear_line(store: Store) -> None:
    with pytest.raises(EmptyDatasetError, match="label clips and close a batch first"):
        snapshot(store)
    assert not (store.settings.dataset_repo / "data").exists()


def test_an_erased_person_vanishes_from_every_version_and_every_hash_stays_valid(store: Store) -> None:
    fill(store)
    first = snapshot(store)
    add_batch(store, "batch-20260302-001", ["newcomer"])
    second = snapshot(store)
    store.vault.destroy("person-3")
    for version in (first, second):
        rows = manifest_rows(store, version.dataset_version)
        assert "person-3" not in {row.speaker for row in rows}
        assert len(rows) == version.clips - 2
        assert "person-3" not in {row.speaker for row, _ in read_audio(store, rows)}
    third = snapshot(store)
    assert third.clips == second.clips - 2
    assert third.skipped == {"erased": 2}
    assert (
        store.database.scalar(
            select(dataset_versions.c.dvc_md5).where(dataset_versions.c.dataset_version == first.dataset_version)
        )
        == first.dvc_md5
    )


def test_no_transcript_lies_readable_in_the_dataset_folder_or_the_remote(store: Store) -> None:
    add_batch(store, "batch-20260301-001", PEOPLE, text="xylophone quintessence")
    snapshot(store)
    folders = (store.settings.dataset_repo, store.settings.root / "dvc-remote")
    everything = [path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert everything
    assert not any(b"xylophone" in data for data in everything)


def test_a_revoked_consent_leaves_this_version_and_the_older_ones(store: Store) -> None:
    fill(store)
    first = snapshot(store)
    with store.database.write() as connection:
        connection.execute(
            update(consents)
            .where(consents.c.subject_token == "person-1")
            .values(revoked_at="2026-03-02T00:00:00+00:00")
        )
    assert "person-1" not in {row.speaker for row in manifest_rows(store, first.dataset_version)}
    assert snapshot(store).skipped == {"consent_revoked": 2}


def test_a_clip_is_left_out_where_its_consent_does_not_allow_its_split(store: Store) -> None:
    fill(store)
    add_batch(store, "batch-20260302-001", ["tester-0"], scopes=("transcribe_review",))
    add_batch(store, "batch-20260302-002", ["silent"], scopes=())
    result = snapshot(store)
    assert result.skipped == {"consent_does_not_allow_test": 2, "no_consent": 2}
    assert result.clips == 22


def test_a_transcript_corrected_from_empty_finds_its_audio_in_the_old_shard(store: Store) -> None:
    made = add_batch(store, "batch-20260301-001", PEOPLE)
    clip = made[0].clip_id
    with store.database.write() as connection:
        connection.execute(update(labels).where(labels.c.clip_id == clip).values(text=" "))
    assert snapshot(store).skipped == {"empty_transcript": 1}
    with store.database.write() as connection:
        connection.execute(update(labels).where(labels.c.clip_id == clip).values(text="yes"))
    second = snapshot(store)
    heard = {row.clip_id: row.text for row, _ in read_audio(store, manifest_rows(store, second.dataset_version))}
    assert heard[clip] == "yes"


def test_a_recording_captured_again_by_another_person_never_reaches_a_second_split(store: Store) -> None:
    tested = add_batch(store, "batch-20260301-001", ["tester-0"], scopes=TEST_SCOPES)
    again = add_batch(store, "batch-20260302-001", PEOPLE)
    same = select(clips.c.content_sha256).where(clips.c.clip_id == tested[0].clip_id)
    content = store.database.scalar(same)
    with store.database.write() as connection:
        connection.execute(update(clips).where(clips.c.clip_id == again[0].clip_id).values(content_sha256=content))
    result = snapshot(store)
    assert result.skipped == {"same_recording": 1}
    kept = {row.clip_id for row in manifest_rows(store, result.dataset_version)}
    assert tested[0].clip_id in kept
    assert again[0].clip_id not in kept


def test_a_test_speaker_who_later_allows_training_stays_a_test_speaker(store: Store) -> None:
    fill(store)
    snapshot(store)
    add_batch(store, "batch-20260302-001", ["tester-0"])
    rows = manifest_rows(store, snapshot(store).dataset_version)
    assert {row.split for row in rows if row.speaker == "tester-0"} == {Split.TEST}
    assert speakers_in_two_splits(store) == ()


STEPS = ("write_shard", "write_atomically", "add_version", "insert_new")


def die_at(step: str, call: int) -> Callable[[], None]:
    """Make the `call`-th call of `step` the last thing this process does, as `kill -9` would."""

    def arm() -> None:
        module = __import__("voice_pipeline.store.dvc_repo", fromlist=["x"]) if step == "add_version" else snapshots
        real = getattr(module, step)
        left = [call]

        def deadly(*args: object, **kwargs: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)
            return real(*args, **kwargs)

        setattr(module, step, deadly)

    return arm


@pytest.mark.parametrize(
    ("step", "call"), [(step, 1) for step in STEPS] + [("write_shard", 2), ("write_atomically", 2)]
)
def test_killed_at_any_step_it_ends_at_the_version_it_would_have_made(
    store: Store, tmp_path: Path, step: str, call: int
) -> None:
    fill(store)
    store.database.engine.dispose()
    twin_home = tmp_path / "twin"
    shutil.copytree(store.settings.root, twin_home)
    undisturbed = snapshot(Store.open(load_settings(twin_home), store.clock)).dataset_version
    arm = die_at(step, call)
    child = os.fork()
    if child == 0:
        arm()
        snapshot(Store.open(store.settings, store.clock))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    (store.settings.dataset_repo / "data").mkdir(parents=True, exist_ok=True)
    (store.settings.dataset_repo / "data" / f".{MANIFEST}.0a1b2c.tmp").write_bytes(b"torn write")
    survivor = Store.open(store.settings, store.clock)
    assert survivor.database.rows(select(dataset_versions)) == []
    result = snapshot(survivor)
    assert result.dataset_version == undisturbed
    assert rows_without_audio(survivor) == ()


def test_an_old_version_comes_back_from_the_remote_alone(store: Store) -> None:
    fill(store)
    first = snapshot(store)
    add_batch(store, "batch-20260302-001", ["newcomer"])
    snapshot(store)
    shutil.rmtree(store.settings.dataset_repo / "data")
    shutil.rmtree(store.settings.dataset_repo / ".dvc" / "cache")
    assert len(read_manifest(store, materialise(store, first.dataset_version))) == first.clips


def test_a_remote_that_lost_objects_is_reported(store: Store) -> None:
    fill(store)
    first = snapshot(store)
    for folder in (store.settings.dataset_repo / "data", store.settings.dataset_repo / ".dvc" / "cache"):
        shutil.rmtree(folder)
    shutil.rmtree(store.settings.root / "dvc-remote")
    with pytest.raises(DamagedManifestError, match=first.dataset_version):
        materialise(store, first.dataset_version)


def test_an_unknown_version_and_a_lost_shard_are_named(store: Store) -> None:
    with pytest.raises(UnknownDatasetError, match="ds-000000000000"):
        manifest_rows(store, "ds-000000000000")
    fill(store)
    result = snapshot(store)
    (result.folder / "shards/batch-20260301-001.tar").unlink()
    with pytest.raises(DamagedShardError, match="batch-20260301-001"):
        list(read_audio(store, manifest_rows(store, result.dataset_version)))
    assert len(rows_without_audio(store)) == 18


def test_a_manifest_that_is_no_parquet_file_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(b"not parquet")
    with pytest.raises(DamagedManifestError, match=MANIFEST):
        read_manifest(store, tmp_path)
    with pytest.raises(DamagedManifestError):
        read_manifest(store, tmp_path / "nowhere")


def test_a_clip_marked_erased_in_the_catalogue_stays_out_even_with_its_key_alive(store: Store) -> None:
    made = add_batch(store, "batch-20260301-001", PEOPLE)
    with store.database.write() as connection:
        connection.execute(update(clips).where(clips.c.clip_id == made[0].clip_id).values(erased_at="2026-03-02"))
    assert made[0].clip_id not in {row.clip_id for row in manifest_rows(store, snapshot(store).dataset_version)}
