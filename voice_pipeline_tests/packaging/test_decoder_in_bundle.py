"""What a bundle decodes with is what the model was judged with: chosen before, packed whole, part of every report."""

from __future__ import annotations

from pathlib import Path

import pytest

from voice_pipeline.evaluation.artifacts import FLOAT, INT8, artifact_of, bundle_artifact, open_recogniser, report_for
from voice_pipeline.evaluation.report import reported_artifact
from voice_pipeline.evaluation.suites import current_suite
from voice_pipeline.packaging.app_versions import first_app
from voice_pipeline.packaging.bundle import build_bundle, decoder_files
from voice_pipeline.packaging.errors import MissingInputError
from voice_pipeline.packaging.export import export
from voice_pipeline.packaging.quantise import quantise
from voice_pipeline.schema.decoding import DecoderKind, Decoding
from voice_pipeline.speech.audio import decode
from voice_pipeline.speech.decoder import ARPA, DECODER
from voice_pipeline.speech.recogniser import SHORTEST_INPUT
from voice_pipeline.store.store import Store
from voice_pipeline_tests.packaging.small_models import add_trained_model, searching_decoder

BEAM = Decoding(kind=DecoderKind.BEAM)


def checkpoint(store: Store, model_version: str) -> Path:
    return store.settings.models / model_version / "checkpoint"


def give(store: Store, model_version: str, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (checkpoint(store, model_version) / name).write_bytes(data)


def test_a_bundle_carries_the_decoder_and_is_judged_with_it(dataset_home: tuple[Store, str]) -> None:
    store, dataset_version = dataset_home
    model = "m-20261102-000000b1"
    add_trained_model(store, model, dataset_version, seed=5, decoding=BEAM)
    give(store, model, searching_decoder())
    export(store, model)
    quantise(store, model)
    manifest = build_bundle(store, model)
    folder = store.settings.bundles / model
    assert {DECODER, ARPA} <= {file.path for file in manifest.files}
    assert manifest.min_app_version == first_app(folder) == "1.5.0"
    assert (manifest.decoder, manifest.shortest_input) == (DecoderKind.BEAM, SHORTEST_INPUT)
    artifact = bundle_artifact(folder)
    assert reported_artifact(store, model, INT8, current_suite(store).digest) == artifact.sha256
    recogniser = open_recogniser(artifact)
    for vector in manifest.golden:
        assert recogniser.transcribe(decode((folder / vector.path).read_bytes())).text == vector.text


def test_a_report_of_another_decoder_is_not_taken_for_this_one(dataset_home: tuple[Store, str]) -> None:
    store, dataset_version = dataset_home
    model, suite = "m-20261102-000000b2", current_suite(store)
    add_trained_model(store, model, dataset_version, seed=60)
    report_for(store, model, FLOAT, suite)
    named = {artifact_of(store, model, FLOAT).sha256}
    for files in (searching_decoder(), searching_decoder(lm_weight=0.5)):
        give(store, model, files)
        report_for(store, model, FLOAT, suite)
        named.add(artifact_of(store, model, FLOAT).sha256)
        assert reported_artifact(store, model, FLOAT, suite.digest) == artifact_of(store, model, FLOAT).sha256
    assert len(named) == 3


def test_a_model_that_was_to_search_is_not_packed_before_its_decoder_is_chosen(dataset_home: tuple[Store, str]) -> None:
    store, dataset_version = dataset_home
    model = "m-20261102-000000b3"
    add_trained_model(store, model, dataset_version, seed=70, decoding=BEAM)
    with pytest.raises(MissingInputError, match="materialise language_model first"):
        decoder_files(store, model)
    give(store, model, {DECODER: searching_decoder()[DECODER]})
    with pytest.raises(MissingInputError, match="no sound decoder"):
        decoder_files(store, model)
    give(store, model, {DECODER: b'{"kind": "greedy"}', ARPA: b"left over"})
    assert decoder_files(store, model) == {DECODER: b'{"kind": "greedy"}'}


def test_a_model_from_before_there_was_a_choice_is_packed_greedy(dataset_home: tuple[Store, str]) -> None:
    store, dataset_version = dataset_home
    add_trained_model(store, "m-20261102-000000b4", dataset_version, seed=80)
    assert decoder_files(store, "m-20261102-000000b4") == {}
