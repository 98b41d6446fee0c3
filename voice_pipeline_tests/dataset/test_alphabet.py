"""A dataset version holds labels of one alphabet; which one, training reads from the catalogue."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select, update

from voice_pipeline.dataset.errors import EmptyDatasetError, ValidationFailedError
from voice_pipeline.dataset.expectations import Validation, validate, written_in
from voice_pipeline.dataset.snapshot import snapshot
from voice_pipeline.schema.alphabet import CASED_PUNCTUATED, LOWERCASE
from voice_pipeline.settings import Settings
from voice_pipeline.speech.normalise import label_form
from voice_pipeline.store.manifest import manifest_rows, read_audio
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import dataset_versions, labels
from voice_pipeline_tests.dataset.test_expectations import row
from voice_pipeline_tests.store.labelled_home import add_batch

PEOPLE = [f"person-{number}" for number in range(9)]


def asking_for(store: Store, tmp_path: Path, alphabet: str) -> Store:
    """The same home under a labelling policy with that alphabet."""
    folder = tmp_path / alphabet
    folder.mkdir(exist_ok=True)
    (folder / "labeling.yaml").write_text(f"alphabet: {alphabet}\n")
    return Store.open(Settings(home=store.settings.root, policy_dir=folder), store.clock)


def add_cased(store: Store, batch: str) -> None:
    add_batch(store, batch, PEOPLE, text="Call me, Ann.")
    with store.database.write() as connection:
        form = update(labels).where(labels.c.batch_id == batch)
        connection.execute(form.values(normaliser_version=label_form(CASED_PUNCTUATED)))


def test_labels_of_another_alphabet_stay_out_and_are_counted(store: Store, tmp_path: Path) -> None:
    add_batch(store, "batch-20260301-001", PEOPLE)
    add_cased(store, "batch-20260301-002")
    plain = snapshot(store)
    assert {r.text for r in manifest_rows(store, plain.dataset_version)} == {"call me"}
    assert plain.skipped == {"written_in_another_alphabet": 18}
    cased_store = asking_for(store, tmp_path, "cased_punctuated")
    cased = snapshot(cased_store)
    assert {r.text for r in manifest_rows(store, cased.dataset_version)} == {"Call me, Ann."}
    assert cased.skipped == {"written_in_another_alphabet": 18}
    kept = {
        row["dataset_version"]: Validation.model_validate(row["validation"]).alphabet
        for row in store.database.rows(select(dataset_versions))
    }
    assert kept == {plain.dataset_version: LOWERCASE, cased.dataset_version: CASED_PUNCTUATED}


def test_the_older_versions_audio_stays_readable_after_a_change_of_alphabet(store: Store, tmp_path: Path) -> None:
    add_batch(store, "batch-20260301-001", PEOPLE)
    plain = snapshot(store)
    add_cased(store, "batch-20260301-002")
    snapshot(asking_for(store, tmp_path, "cased_punctuated"))
    assert len(list(read_audio(store, manifest_rows(store, plain.dataset_version)))) == 18
    assert snapshot(store).dataset_version == plain.dataset_version


def test_nothing_but_labels_of_another_alphabet_is_an_empty_dataset_that_says_why(store: Store, tmp_path: Path) -> None:
    add_batch(store, "batch-20260301-001", PEOPLE)
    with pytest.raises(EmptyDatasetError, match="written_in_another_alphabet"):
        snapshot(asking_for(store, tmp_path, "cased_punctuated"))


def test_a_text_that_leaves_its_alphabet_blocks(store: Store) -> None:
    add_batch(store, "batch-20260301-001", PEOPLE, text="Call me")
    with pytest.raises(ValidationFailedError, match="transcripts are normalised"):
        snapshot(store)


@pytest.mark.parametrize("text", ["Call me, Ann.", "twenty-one", "it's nine. Isn't it?"])
def test_normal_texts_of_the_cased_alphabet_pass(text: str) -> None:
    rows = [row(number, text=text) for number in range(10)]
    assert validate(rows, CASED_PUNCTUATED).passed
    assert not validate(rows).passed


@pytest.mark.parametrize("text", ["Call me , Ann", ", yes", "call 911", "café", "yes. ", ""])
def test_texts_that_no_alphabet_writes_so_block(text: str) -> None:
    assert not validate([row(number, text=text) for number in range(10)], CASED_PUNCTUATED).passed


def test_the_lowercase_rule_is_what_it_was() -> None:
    import re

    assert re.match(written_in(LOWERCASE), "it's a secret thing")
    for wrong in ("Call", "a-b", "yes.", " yes", "yes ", ""):
        assert not re.match(written_in(LOWERCASE), wrong)
