"""A device decodes with what the publisher signed, or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from voice_pipeline.device.errors import GoldenMismatchError
from voice_pipeline.device.recogniser import load_bundle
from voice_pipeline.packaging.signing import sign_folder, signing_public_key
from voice_pipeline.schema.bundle import BundleFile, BundleManifest
from voice_pipeline.schema.canonical import canonical_json
from voice_pipeline.settings import Settings, load_settings
from voice_pipeline.speech.audio import decode
from voice_pipeline.speech.decoder import ARPA, DECODER
from voice_pipeline.speech.recogniser import OnnxRecogniser
from voice_pipeline.speech.tokenizer import CharTokenizer
from voice_pipeline.trust import DamagedBundleError
from voice_pipeline_tests.packaging.small_models import searching_decoder, sign_small_bundle

VERSION = "m-20261102-0000beaa"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    home = load_settings(tmp_path / "home")
    sign_small_bundle(home, VERSION, seed=1, decoder=searching_decoder())
    return home


def bundle(settings: Settings) -> Path:
    return settings.bundles / VERSION


def key(settings: Settings) -> bytes:
    return signing_public_key(settings.keys)


def sign_again(settings: Settings) -> None:
    """The publisher signs what now lies in the folder, golden answers as they were."""
    folder = bundle(settings)
    content = json.loads((folder / "manifest.json").read_bytes())
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    content["files"] = [
        BundleFile(
            path=path.relative_to(folder).as_posix(),
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            length=path.stat().st_size,
        ).model_dump()
        for path in paths
    ]
    (folder / "manifest.json").write_bytes(canonical_json(BundleManifest.model_validate(content)))
    sign_folder(folder, settings.keys)


def test_a_device_answers_with_the_search_of_its_bundle(settings: Settings) -> None:
    device, folder = load_bundle(bundle(settings), key(settings)), bundle(settings)
    assert {ARPA, DECODER} <= {file.path for file in device.manifest.files}
    greedy = OnnxRecogniser(folder / "model.onnx", CharTokenizer())
    for vector in device.manifest.golden:
        sound = decode((folder / vector.path).read_bytes())
        assert device.transcribe(sound).text == vector.text
        assert greedy.transcribe(sound).text != vector.text


@pytest.mark.parametrize("name", [ARPA, DECODER])
def test_a_decoder_changed_after_signing_is_refused(settings: Settings, name: str) -> None:
    path = bundle(settings) / name
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(Exception, match=r"must not be used|was changed"):
        load_bundle(bundle(settings), key(settings))


def test_a_signed_language_model_that_is_not_the_one_named_is_refused(settings: Settings) -> None:
    path = bundle(settings) / ARPA
    path.write_bytes(path.read_bytes().replace(b"\tq\t", b"\tqq\t"))
    sign_again(settings)
    with pytest.raises(DamagedBundleError, match=r"lm.arpa has sha256"):
        load_bundle(bundle(settings), key(settings))


def test_a_signed_bundle_without_its_language_model_is_refused(settings: Settings) -> None:
    (bundle(settings) / ARPA).unlink()
    sign_again(settings)
    with pytest.raises(DamagedBundleError, match=ARPA):
        load_bundle(bundle(settings), key(settings))


def test_golden_answers_of_another_decoder_are_no_answers(settings: Settings) -> None:
    (bundle(settings) / DECODER).write_text('{"kind": "greedy"}')
    sign_again(settings)
    with pytest.raises(GoldenMismatchError):
        load_bundle(bundle(settings), key(settings))
