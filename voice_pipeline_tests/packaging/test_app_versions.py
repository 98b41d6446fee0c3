"""The app that a bundle demands reads all that its files ask for, and the simulated fleet has such an app."""

from __future__ import annotations

from pathlib import Path

import pytest

from voice_pipeline.fleet.scenario import APP_VERSION
from voice_pipeline.packaging.app_versions import (
    APP_OF_DECODER,
    APP_OF_FORMAT,
    APP_OF_INPUT,
    FIRST_INPUTS,
    app_of_inputs,
    first_app,
)
from voice_pipeline.schema.bundle import FORMAT
from voice_pipeline.schema.decoding import DecoderKind
from voice_pipeline.speech.confidence import INPUT_NAMES, LOG_ODDS, NETWORK_LOG_ODDS, ConfidenceModel
from voice_pipeline.speech.decoder import ARPA, DECODER
from voice_pipeline.speech.errors import ModelFileError
from voice_pipeline.trust import is_older
from voice_pipeline_tests.packaging.small_models import searching_decoder

GREEDY_FILES = {DECODER: b'{"kind": "greedy"}', ARPA: b"left over"}


def folder_of(folder: Path, names: tuple[str, ...], decoder: dict[str, bytes]) -> Path:
    confidence = ConfidenceModel(names, *[tuple([value] * len(names)) for value in (0.0, 1.0, 0.1)], bias=0.0)
    (folder / "confidence.json").write_text(confidence.to_json())
    for name, data in decoder.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("names", "decoder", "app"),
    [
        (FIRST_INPUTS, {}, "1.0.0"),
        (FIRST_INPUTS, GREEDY_FILES, "1.0.0"),
        (FIRST_INPUTS, searching_decoder(), "1.4.0"),
        ((*FIRST_INPUTS, LOG_ODDS), {}, "1.4.0"),
        (INPUT_NAMES, GREEDY_FILES, "1.4.0"),
        (INPUT_NAMES, searching_decoder(), "1.4.0"),
    ],
)
def test_a_bundle_demands_the_app_that_reads_decoder_and_confidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], decoder: dict[str, bytes], app: str
) -> None:
    monkeypatch.setitem(APP_OF_FORMAT, FORMAT, "1.0.0")  # else today's format asks for more than any of them
    assert first_app(folder_of(tmp_path, names, decoder)) == app


def test_a_bundle_of_todays_format_demands_the_app_that_reads_it(tmp_path: Path) -> None:
    assert first_app(folder_of(tmp_path, FIRST_INPUTS, {})) == APP_OF_FORMAT[FORMAT] == "1.5.0"


@pytest.mark.parametrize("names", [FIRST_INPUTS[:-1], FIRST_INPUTS[::-1]])
def test_inputs_that_are_not_just_those_of_the_first_app_need_one_that_goes_by_names(names: tuple[str, ...]) -> None:
    assert app_of_inputs(names) == "1.4.0"


@pytest.mark.parametrize("new", ["decoder", "input"])
def test_the_later_of_two_versions_counts_by_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: str
) -> None:
    if new == "decoder":
        monkeypatch.setitem(APP_OF_DECODER, DecoderKind.BEAM, "1.10.0")
    else:
        monkeypatch.setitem(APP_OF_INPUT, LOG_ODDS, "1.10.0")
    assert first_app(folder_of(tmp_path, INPUT_NAMES, searching_decoder())) == "1.10.0"


def test_every_decoder_and_every_input_that_this_code_reads_has_its_first_app() -> None:
    assert set(APP_OF_DECODER) == set(DecoderKind)
    assert set(APP_OF_INPUT) == {*INPUT_NAMES, NETWORK_LOG_ODDS}


def test_simulated_devices_have_the_client_of_this_code() -> None:
    for app in (*APP_OF_FORMAT.values(), *APP_OF_DECODER.values(), *APP_OF_INPUT.values()):
        assert not is_older(APP_VERSION, app)


def test_a_confidence_that_this_code_does_not_know_demands_no_app(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="stress"):
        first_app(folder_of(tmp_path, ("stress",), {}))
