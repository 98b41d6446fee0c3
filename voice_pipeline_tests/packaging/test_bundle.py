"""A bundle is whole, signed, told apart from every other, and made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sqlalchemy import delete, select

from voice_pipeline.evaluation.artifacts import FLOAT, INT8, report_for
from voice_pipeline.evaluation.report import find_report
from voice_pipeline.evaluation.suites import current_suite
from voice_pipeline.packaging.bundle import build_bundle, catalogued, publish
from voice_pipeline.packaging.errors import BundleConflictError, MissingInputError
from voice_pipeline.packaging.export import export
from voice_pipeline.packaging.publication import PUBLISHED
from voice_pipeline.packaging.quantise import quantise
from voice_pipeline.packaging.repository import UpdateRepository
from voice_pipeline.packaging.signing import signing_public_key
from voice_pipeline.schema.canonical import sha256_bytes
from voice_pipeline.schema.evaluation_policy import load_evaluation_policy
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import bundles
from voice_pipeline.trust import DamagedBundleError, SignatureRefusedError, WrongBundleError, verify_bundle
from voice_pipeline_tests.packaging.conftest import DATASET, MODEL, PackagedHome
from voice_pipeline_tests.packaging.small_models import add_trained_model


@pytest.fixture
def copy(packaged: PackagedHome, tmp_path: Path) -> Path:
    """A copy of the bundle and its signature, to be damaged."""
    source = packaged.store.settings.bundles / MODEL
    shutil.copytree(source, tmp_path / MODEL)
    shutil.copy(source.with_name(f"{MODEL}.sig"), tmp_path / f"{MODEL}.sig")
    return tmp_path / MODEL


def key_of(packaged: PackagedHome) -> bytes:
    return signing_public_key(packaged.store.settings.keys)


def test_bundle_holds_what_a_device_and_a_person_need(packaged: PackagedHome) -> None:
    named = {file.path for file in packaged.manifest.files}
    assert {"model.onnx", "model.ort", "tokenizer.json", "confidence.json", "model_card.md"} <= named
    assert {vector.path for vector in packaged.manifest.golden} <= named
    assert packaged.manifest.golden
    assert packaged.manifest.dataset_version == DATASET
    assert packaged.manifest.suite_digest == current_suite(packaged.store).digest
    assert packaged.manifest.environment["onnxruntime"]


def test_wer_in_the_manifest_is_that_of_the_stored_reports(packaged: PackagedHome) -> None:
    suite = current_suite(packaged.store)
    for variant, told in ((FLOAT, packaged.manifest.wer_float), (INT8, packaged.manifest.wer_int8)):
        report = find_report(packaged.store, MODEL, variant, suite.digest)
        assert report is not None
        assert report.overall.wer.value == told
        assert (
            report_for(packaged.store, MODEL, variant, suite) == report
        )  # the bundle's bytes are those that were heard


def test_the_report_of_what_devices_run_has_every_wake_word(packaged: PackagedHome) -> None:
    report = find_report(packaged.store, MODEL, INT8, current_suite(packaged.store).digest)
    assert report is not None
    phrases = load_evaluation_policy(packaged.store.settings.policy_dir).wake_words.phrases
    assert [result.phrase for result in report.wake_words] == list(phrases)
    assert phrases


def test_whole_bundle_verifies_and_gives_its_manifest(packaged: PackagedHome, copy: Path) -> None:
    assert verify_bundle(copy, key_of(packaged), packaged.manifest.digest) == packaged.manifest


def test_every_single_changed_missing_or_added_file_is_refused(packaged: PackagedHome, copy: Path) -> None:
    for path in [path for path in sorted(copy.rglob("*")) if path.is_file()]:
        intact = path.read_bytes()
        for damaged in (intact[:-1], intact[:-1] + bytes([intact[-1] ^ 1]), None):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            with pytest.raises((SignatureRefusedError, DamagedBundleError)):
                verify_bundle(copy, key_of(packaged))
            path.write_bytes(intact)
    (copy / "extra.bin").write_bytes(b"x")
    with pytest.raises(SignatureRefusedError):
        verify_bundle(copy, key_of(packaged))


def test_bundle_signed_by_another_key_is_refused(packaged: PackagedHome, copy: Path, tmp_path: Path) -> None:
    from voice_pipeline.packaging.signing import sign_folder

    sign_folder(copy, tmp_path / "other-keys")
    with pytest.raises(SignatureRefusedError, match="key mismatch"):
        verify_bundle(copy, key_of(packaged))


def test_forged_and_missing_signatures_are_refused(packaged: PackagedHome, copy: Path) -> None:
    signature = copy.with_name(f"{MODEL}.sig")
    intact = signature.read_bytes()
    for forged in (b"", b"{}", b"not json", intact[: len(intact) // 2], intact.replace(b"payload", b"paylo4d")):
        signature.write_bytes(forged)
        with pytest.raises(SignatureRefusedError):
            verify_bundle(copy, key_of(packaged))
    signature.unlink()
    with pytest.raises(SignatureRefusedError, match="no signature"):
        verify_bundle(copy, key_of(packaged))


def test_signature_of_another_bundle_is_refused(packaged: PackagedHome, copy: Path) -> None:
    from voice_pipeline.packaging.signing import sign_folder

    signature = copy.with_name(f"{MODEL}.sig")
    other = copy.with_name("other")
    other.mkdir()
    (other / "file").write_bytes(b"x")
    signature.write_bytes(sign_folder(other, packaged.store.settings.keys).read_bytes())
    with pytest.raises(SignatureRefusedError):
        verify_bundle(copy, key_of(packaged))


def test_sound_bundle_that_was_not_asked_for_is_refused(packaged: PackagedHome, copy: Path) -> None:
    with pytest.raises(WrongBundleError):
        verify_bundle(copy, key_of(packaged), "0" * 64)


def test_sound_bundle_in_the_place_of_another_model_is_refused(packaged: PackagedHome, copy: Path) -> None:
    """The signature holds wherever the folder lies; the name says what was asked for."""
    other = copy.with_name("m-20261109-99999999")
    copy.with_name(f"{MODEL}.sig").rename(other.with_name(f"{other.name}.sig"))
    copy.rename(other)
    for digest in (None, packaged.manifest.digest):
        with pytest.raises(WrongBundleError, match=f"{other.name} is of model {MODEL}"):
            verify_bundle(other, key_of(packaged), digest)


def test_link_in_the_folder_is_refused(packaged: PackagedHome, copy: Path) -> None:
    target = copy / "confidence.json"
    moved = copy.parent / "confidence.json"
    target.rename(moved)
    target.symlink_to(moved)
    with pytest.raises((DamagedBundleError, SignatureRefusedError)):
        verify_bundle(copy, key_of(packaged))


def test_bundle_is_made_once_and_published_once(packaged: PackagedHome) -> None:
    store = packaged.store
    published_at = store.database.scalar(select(bundles.c.published_at))
    assert build_bundle(store, MODEL) == packaged.manifest
    assert publish(store, MODEL).in_force
    assert store.database.scalar(select(bundles.c.published_at)) == published_at
    (line,) = store.ledger.lines(kind=PUBLISHED, subject=packaged.manifest.digest)
    (archive,) = (store.settings.tuf / "repository" / "targets").glob(f"*.{MODEL}.tar.xz")
    assert (line.payload["archive_sha256"], line.payload["archive_bytes"]) == (
        sha256_bytes(archive.read_bytes()),
        archive.stat().st_size,
    )


def test_bundle_changed_on_disk_is_neither_kept_nor_rebuilt_nor_published(packaged: PackagedHome) -> None:
    path = packaged.store.settings.bundles / MODEL / "tokenizer.json"
    intact = path.read_bytes()
    path.write_bytes(intact.replace(b"abc", b"bac"))
    try:
        with pytest.raises(BundleConflictError, match=MODEL):
            build_bundle(packaged.store, MODEL)
        with pytest.raises(BundleConflictError, match=MODEL):
            publish(packaged.store, MODEL)
    finally:
        path.write_bytes(intact)


def test_build_killed_before_it_was_catalogued_is_done_again(packaged: PackagedHome) -> None:
    model = "m-20261102-0000000b"
    store = packaged.store
    add_trained_model(store, model, DATASET, seed=5)
    export(store, model)
    quantise(store, model)
    first = build_bundle(store, model)
    with store.database.write() as connection:  # as if killed between signing and the catalogue
        connection.execute(delete(bundles).where(bundles.c.model_version == model))
    (store.settings.bundles / model / "model.onnx").write_bytes(b"half")
    assert catalogued(store, model) is None
    assert build_bundle(store, model).digest == first.digest


def test_incomplete_model_is_refused_with_the_step_to_take(packaged: PackagedHome) -> None:
    model, store = "m-20261102-0000000c", packaged.store
    add_trained_model(store, model, DATASET, seed=6)
    with pytest.raises(MissingInputError, match="quantized_model"):
        build_bundle(store, model)
    export(store, model)
    quantise(store, model)
    (store.settings.models / model / "model_card.md").unlink()
    with pytest.raises(MissingInputError, match="model_card"):
        build_bundle(store, model)
    assert not (store.settings.bundles / model).exists()
    with pytest.raises(MissingInputError, match="signed_bundle"):
        publish(store, model)


def test_repository_holds_one_archive_for_the_bundle(packaged: PackagedHome) -> None:
    repository = UpdateRepository(packaged.store.settings, packaged.store.now())
    assert repository.published()[MODEL]["bundle_digest"] == packaged.manifest.digest
    assert len(list(repository.targets.glob(f"*.{MODEL}.tar.xz"))) == 1


def test_private_keys_are_for_the_owner_alone(packaged: PackagedHome) -> None:
    keys = list(packaged.store.settings.keys.rglob("*.key"))
    assert len(keys) >= 5
    assert {path.stat().st_mode & 0o077 for path in keys} == {0}


def test_store_of_another_home_cannot_publish_what_it_did_not_build(store: Store) -> None:
    with pytest.raises(MissingInputError):
        publish(store, MODEL)
