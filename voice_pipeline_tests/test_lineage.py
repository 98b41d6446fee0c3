"""Both ways of asking: what led to a model and where it went; who learnt from a person."""

from __future__ import annotations

import pytest
from sqlalchemy import Table, insert

from voice_pipeline.lineage import UnknownModelError, device_counts, lineage, lineage_lines, subject_lineage
from voice_pipeline.store import tables as t
from voice_pipeline.store.store import Store

AT = "2026-11-01T12:00:00+00:00"
SPEC = {"code_commit": "abc123", "lock_digest": "f" * 64, "feature_schema_version": "fs-1"}
MEMBERS = (  # dataset, clip, subject, split
    ("ds-1", "c-alice", "alice", "train"),
    ("ds-1", "c-bob", "bob", "dev"),
    ("ds-1", "c-carol", "carol", "test"),
    ("ds-2", "c-bob", "bob", "dev"),
)
MODELS = (("m-1", "ds-1", None), ("m-2", "ds-2", "m-1"), ("m-3", "ds-3", "m-2"), ("m-9", "ds-3", None))


def _add(store: Store, table: Table, **row: object) -> None:
    with store.database.write() as connection:
        connection.execute(insert(table), row)


@pytest.fixture
def home(store: Store) -> Store:
    """Three people, three dataset versions, four models: m-1 to m-3 are one line of warm starts, m-2 went out."""
    for number, version in enumerate(("ds-1", "ds-2", "ds-3")):
        _add(
            store, t.dataset_versions, dataset_version=version, dvc_md5=f"md5-{version}", batches=["b-1"], clips=3,
            manifest_sha256="", validation={}, created_at=AT, sequence=number,
        )  # fmt: skip
    for clip_id, subject in (("c-alice", "alice"), ("c-bob", "bob"), ("c-carol", "carol")):
        scopes = ["evaluate", "transcribe_review"] + ["train"] * (subject != "carol")
        _add(
            store, t.consents, consent_id=f"by-{subject}", subject_token=subject, scopes=scopes, granted_at=AT,
            notice_version="1",
        )  # fmt: skip
        _add(
            store, t.clips, clip_id=clip_id, content_sha256=clip_id, subject_token=subject, consent_id=f"by-{subject}",
            capture_date="2026-11-01", captured_at=AT, received_at=AT, duration_s=1.0, device_class="phone_low",
            os="android-14", app_version="1.0.0", microphone="built_in", locale="en-US", accent="", gender="", age="",
            source="", failure_mode="none", blob_key="", erased_at=AT if subject == "bob" else None,
        )  # fmt: skip
    for version, clip_id, subject, split in MEMBERS:
        _add(
            store, t.dataset_clips, dataset_version=version, clip_id=clip_id, subject_token=subject,
            consent_id=f"by-{subject}", split=split, batch_id="b-1",
        )  # fmt: skip
    for version, dataset, parent in MODELS:
        _add(
            store, t.models, model_version=version, spec_digest=version, spec=SPEC, dataset_version=dataset,
            parent_model_version=parent, state="trained", cause={"kind": "manual"}, planned_at=AT,
        )  # fmt: skip
    payload = {"model_version": "m-2", "bundle_digest": "d-2", "from": None, "to": "candidate", "reason": "registered"}
    store.ledger.append("transition", "m-2-r1", payload | {"policy_digest": "p", "evidence": {}}, actor="test")
    for number, version in enumerate(("m-1", "m-1", "m-2")):
        _add(
            store, t.devices, device_id=f"device-{number}", context={}, model_version=version, first_seen=AT,
            last_seen=AT,
        )  # fmt: skip
    return store


def test_who_trained_on_a_person_has_learnt_from_them_and_so_have_warm_started_heirs(home: Store) -> None:
    found = subject_lineage(home, "alice")
    assert found.clip_ids == ("c-alice",)
    assert found.dataset_versions == ("ds-1",)
    assert found.model_versions == ("m-1", "m-2", "m-3")
    assert found.release_ids == ("m-2-r1",), "an heir's release carries what its parent learnt"


def test_who_was_tuned_on_a_person_has_learnt_from_them(home: Store) -> None:
    found = subject_lineage(home, "bob")
    assert (found.dataset_versions, found.model_versions) == (("ds-1", "ds-2"), ("m-1", "m-2", "m-3"))


@pytest.mark.parametrize("subject", ["carol", "nobody"])
def test_nobody_learns_from_a_test_speaker_or_a_stranger(home: Store, subject: str) -> None:
    found = subject_lineage(home, subject)
    assert (found.dataset_versions, found.model_versions, found.release_ids) == ((), (), ())


def test_a_model_leads_back_to_its_clips_and_consents_and_on_to_its_devices(home: Store) -> None:
    found = lineage(home, "m-1")
    assert (found.dataset_version, found.dvc_md5, found.batches) == ("ds-1", "md5-ds-1", ("b-1",))
    assert found.clips == {"train": 1, "dev": 1, "test": 1}
    assert found.clip_ids == ("c-alice", "c-bob", "c-carol")
    assert found.consents == {"evaluate": 3, "transcribe_review": 3, "train": 2}
    assert found.erased_clips == 1
    assert found.devices == ("device-0", "device-1")
    assert (found.releases, found.bundle_digest, found.verdicts) == ((), None, ())
    assert lineage(home, "m-2").releases[0].release_id == "m-2-r1"
    assert lineage(home, "m-2").parent_model_version == "m-1"
    assert device_counts(home) == {"m-1": 2, "m-2": 1}


def test_a_model_leads_on_to_the_apps_that_its_bundle_was_exported_for(home: Store) -> None:
    _add(
        home, t.bundles, bundle_digest="d-2", model_version="m-2", uri="", manifest={}, size=1, created_at=AT
    )  # fmt: skip
    for digest, platform in (("d-2", "ios"), ("d-1", "desktop"), ("d-2", "android"), ("d-2", "ios")):
        home.ledger.append("bundle_exported", digest, {"platform": platform}, actor="packaging")
    assert lineage(home, "m-2").apps == ("android", "ios")
    assert "apps       android, ios" in lineage_lines(lineage(home, "m-2"))
    assert lineage(home, "m-1").apps == ()


def test_an_unknown_model_is_named(home: Store) -> None:
    with pytest.raises(UnknownModelError, match="m-404"):
        lineage(home, "m-404")


def test_the_lines_tell_each_fact_once_and_what_is_missing(home: Store) -> None:
    lines = lineage_lines(lineage(home, "m-1"))
    assert lines[0] == "model      m-1 (trained), parent none"
    assert "clips      1 dev, 1 test, 1 train; 1 erased since" in lines
    assert "consents   3 receipts: 3 evaluate, 2 train, 3 transcribe_review" in lines
    assert {"evaluation none", "bundle     none", "verdicts   none", "releases   none", "apps       none"} <= set(lines)
    assert lines[-1] == "devices    2 run it"
    assert "releases   m-2-r1 candidate" in lineage_lines(lineage(home, "m-2"))
