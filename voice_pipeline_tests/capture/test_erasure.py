"""What was revoked is gone: audio, labels, features, and it stays gone."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy import func, insert, select, update

from voice_pipeline.capture.erasure import (
    erase_subject,
    finish_erasures,
    revoke_consent,
    scrub_due,
    unfinished_erasures,
)
from voice_pipeline.capture.errors import UnknownConsentError
from voice_pipeline.capture.ingest import ingest_day
from voice_pipeline.capture.intake import accept, accept_many
from voice_pipeline.schema.clip import QuarantineReason
from voice_pipeline.store import tables
from voice_pipeline.store.errors import ErasedSubjectError
from voice_pipeline.store.shards import ShardMember, read_shard, write_shard
from voice_pipeline.store.store import Store
from voice_pipeline_tests.capture.clips import DAY, capture, receipt, tone

ALICE, BOB = "token-alice", "token-bob"


def _learn(store: Store, dataset_version: str, model_version: str, clip_id: str, parent: str | None = None) -> None:
    """A label, a feature row, a dataset row and a model that all come from one clip."""
    now = store.now().isoformat()
    common = {"clip_id": clip_id}
    with store.database.write() as connection:
        connection.execute(
            insert(tables.labels).prefix_with("OR IGNORE").values(
                **common, text="call home", raw_text="Call home.", normaliser_version="1", method="single",
                reviewers=["r1"], approved_at=now, batch_id="batch-20261101-001",
            )
        )  # fmt: skip
        connection.execute(
            insert(tables.clip_features).prefix_with("OR IGNORE").values(
                **common, capture_date=DAY, values={"snr_db": 12.0}, known_at=now
            )
        )  # fmt: skip
        connection.execute(
            insert(tables.dataset_clips).values(
                **common, dataset_version=dataset_version, subject_token=ALICE, consent_id="consent-alice-1",
                split="train", batch_id="batch-20261101-001",
            )
        )  # fmt: skip
        connection.execute(
            insert(tables.models).values(
                model_version=model_version, spec_digest=model_version, spec={}, dataset_version=dataset_version,
                parent_model_version=parent, state="trained", cause={}, planned_at=now,
            )
        )  # fmt: skip


@pytest.fixture
def two_people(store: Store) -> Store:
    """One clip of Alice, one of Bob, both catalogued, and one of Alice that still waits in the inbox."""
    accept_many(store, [(capture(1), tone(1)), (capture(2, receipt("bob")), tone(2))])
    ingest_day(store, DAY)
    accept(store, capture(3), tone(3))
    return store


def _clip(store: Store, token: str) -> str:
    return str(store.database.scalar(select(tables.clips.c.clip_id).where(tables.clips.c.subject_token == token)))


def test_erased_audio_can_be_decrypted_nowhere(two_people: Store) -> None:
    store = two_people
    rows = {r["subject_token"]: r for r in store.database.rows(select(tables.clips))}
    blobs = {token: store.blobs.get(row["blob_key"]) for token, row in rows.items()}
    shard = store.settings.root / "batch.tar"
    write_shard(shard, [ShardMember(rows[token]["clip_id"], blob) for token, blob in blobs.items()])
    backup = store.blobs.get(
        store.database.scalar(select(tables.inbox.c.blob_key).where(tables.inbox.c.state == "new"))
    )

    erase_subject(store, ALICE, actor="alice")

    for ciphertext, clip_id in ((blobs[ALICE], rows[ALICE]["clip_id"]), (backup, capture(3).clip_id)):
        with pytest.raises(ErasedSubjectError):
            store.vault.decrypt(ALICE, ciphertext, clip_id)
    with pytest.raises(ErasedSubjectError):
        Store.open(store.settings, store.clock).vault.decrypt(ALICE, blobs[ALICE], rows[ALICE]["clip_id"])
    subjects = {row["clip_id"]: token for token, row in rows.items()}
    assert [clip_id for clip_id, _ in read_shard(shard, subjects, store.vault)] == [rows[BOB]["clip_id"]]
    left = {path.name for path in (store.settings.root / "blobs").rglob("*") if path.is_file()}
    assert left == {rows[BOB]["clip_id"]}


def test_the_wrapped_key_is_in_no_file_of_the_vault_any_more(two_people: Store) -> None:
    files = [two_people.settings.root / f"vault.db{suffix}" for suffix in ("", "-wal")]
    connection = sqlite3.connect(files[0])
    (wrapped,) = connection.execute("SELECT wrapped_key FROM subject_keys WHERE subject_token = ?", (ALICE,)).fetchone()
    connection.close()
    assert any(wrapped in file.read_bytes() for file in files if file.exists())
    erase_subject(two_people, ALICE, actor="alice")
    assert not any(wrapped in file.read_bytes() for file in files if file.exists())


def _impatient(store: Store) -> None:
    """The catalogue waits 50 ms for others instead of 30 s."""
    connection = store.database.engine.raw_connection()
    connection.cursor().execute("PRAGMA busy_timeout=50")
    connection.close()


def _catalogue_holds(store: Store, text: bytes) -> bool:
    files = [store.settings.root / f"catalogue.db{suffix}" for suffix in ("", "-wal")]
    return any(text in file.read_bytes() for file in files if file.exists())


def test_what_was_said_is_in_no_file_of_the_catalogue_any_more(two_people: Store) -> None:
    store = two_people
    with store.database.write() as connection:
        connection.execute(
            update(tables.clips).where(tables.clips.c.subject_token == ALICE).values(hypothesis="my pin")
        )
    assert _catalogue_holds(store, b"my pin")
    erase_subject(store, ALICE, actor="alice")
    assert not _catalogue_holds(store, b"my pin")
    assert scrub_due(store) is None


def test_a_reader_that_holds_the_log_only_puts_the_scrub_off(two_people: Store) -> None:
    store = two_people
    _impatient(store)
    with store.database.write() as connection:
        connection.execute(
            update(tables.clips).where(tables.clips.c.subject_token == ALICE).values(hypothesis="my pin")
        )
    reader = sqlite3.connect(store.settings.root / "catalogue.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM clips").fetchone()
    erase_subject(store, ALICE, actor="alice")
    first = scrub_due(store)
    assert first is not None
    assert _catalogue_holds(store, b"my pin")
    finish_erasures(store)
    assert scrub_due(store) not in {None, first}, "each failed attempt has a mark of its own, so the sensor fires again"
    reader.close()
    assert finish_erasures(store) == 0
    assert not _catalogue_holds(store, b"my pin")
    assert scrub_due(store) is None


def test_labels_features_and_what_was_told_are_gone_and_others_untouched(two_people: Store) -> None:
    store = two_people
    _learn(store, "ds-1", "m-1", _clip(store, ALICE))
    erase_subject(store, ALICE, actor="alice")
    for table in (tables.labels, tables.clip_features):
        assert store.database.scalar(select(func.count()).select_from(table)) == 0
    row = store.database.row(select(tables.clips).where(tables.clips.c.subject_token == ALICE))
    assert row is not None
    assert row["erased_at"] == store.now().isoformat()
    assert (row["hypothesis"], row["accent"], row["gender"]) == (None, "", "")
    bob = store.database.row(select(tables.clips).where(tables.clips.c.subject_token == BOB))
    assert bob is not None
    assert (bob["erased_at"], bob["hypothesis"]) == (None, "call home")
    events = store.database.rows(select(tables.inbox.c.event).where(tables.inbox.c.state == "erased"))
    assert [dict(event["event"]) for event in events] == [{"consent": {"subject_token": ALICE}}] * 2


def test_datasets_and_models_that_had_learnt_are_named_heirs_too(two_people: Store) -> None:
    store = two_people
    clip_id = _clip(store, ALICE)
    _learn(store, "ds-1", "m-1", clip_id)
    with store.database.write() as connection:
        for version, dataset, parent in (("m-2", "ds-2", "m-1"), ("m-3", "ds-3", "m-2"), ("m-9", "ds-9", None)):
            connection.execute(
                insert(tables.models).values(
                    model_version=version, spec_digest=version, spec={}, dataset_version=dataset,
                    parent_model_version=parent, state="trained", cause={}, planned_at="",
                )
            )  # fmt: skip
    erasure = erase_subject(store, ALICE, actor="alice")
    assert erasure.clip_ids == (clip_id,)
    assert erasure.dataset_versions == ("ds-1",)
    assert erasure.model_versions == ("m-1", "m-2", "m-3")


def test_a_model_that_was_only_tested_on_somebody_has_not_learnt_from_them(two_people: Store) -> None:
    store = two_people
    _learn(store, "ds-1", "m-1", _clip(store, ALICE))
    with store.database.write() as connection:
        connection.execute(update(tables.dataset_clips).values(split="test"))
    erasure = erase_subject(store, ALICE, actor="alice")
    assert (erasure.dataset_versions, erasure.model_versions) == ((), ())


def test_one_ledger_line_per_erasure_however_often_it_is_asked(two_people: Store) -> None:
    first = erase_subject(two_people, ALICE, actor="alice")
    assert erase_subject(two_people, ALICE, actor="alice") == first
    (line,) = two_people.ledger.lines(kind="erasure")
    assert (line.subject, line.actor, line.payload["clips"]) == (ALICE, "alice", 1)


def test_nothing_of_an_erased_subject_comes_in_again(two_people: Store) -> None:
    erase_subject(two_people, ALICE, actor="alice")
    assert ingest_day(two_people, DAY).catalogued == 0
    answer = accept(two_people, capture(4, receipt(number=2)), tone(4))
    assert answer.refused is QuarantineReason.NO_CONSENT


def test_withdrawing_a_consent_erases_its_subject(two_people: Store) -> None:
    assert revoke_consent(two_people, "consent-alice-1", actor="device").subject_token == ALICE
    assert two_people.vault.erased() == {ALICE}
    with pytest.raises(UnknownConsentError, match="consent-nobody"):
        revoke_consent(two_people, "consent-nobody", actor="device")


def test_an_erasure_that_crashed_after_the_key_is_finished(two_people: Store) -> None:
    two_people.vault.destroy(ALICE)  # … and here the process died
    assert unfinished_erasures(two_people) == [ALICE]
    assert finish_erasures(two_people) == 1
    assert unfinished_erasures(two_people) == []
    row = two_people.database.row(select(tables.clips).where(tables.clips.c.subject_token == ALICE))
    assert row is not None
    assert row["erased_at"] is not None


def test_ingest_racing_an_erasure_catalogues_nothing(store: Store) -> None:
    accept(store, capture(1), tone(1))
    store.vault.destroy(ALICE)  # the erasure has destroyed the key, its tombstones are not written yet
    summary = ingest_day(store, DAY)
    assert (summary.catalogued, summary.erased) == (0, 1)
    assert store.database.scalar(select(func.count()).select_from(tables.clips)) == 0
