"""A folder says how it decodes; what it says and the model it names cannot be changed or damaged unseen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.speech.beam import BeamSettings
from voice_pipeline.speech.decoder import ARPA, DECODER, Decoder, open_decoder, read_decoder
from voice_pipeline.speech.errors import DecoderError
from voice_pipeline.speech.kneser_ney import estimate
from voice_pipeline.speech.tokenizer import CharTokenizer
from voice_pipeline_tests.speech.test_beam import doubtful

TOKENIZER = CharTokenizer()
MODEL = estimate(["call mary now", "call marc", "mary may call"], 2)
SEARCH = Decoder.over(MODEL, BeamSettings(lm_weight=0.5, unknown_penalty=4.0))
UNSURE = doubtful("call nary now", 5, "m")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a search over `MODEL`."""
    (tmp_path / ARPA).write_text(MODEL.to_arpa())
    (tmp_path / DECODER).write_text(SEARCH.to_json())
    return tmp_path


@settings(deadline=None)
@given(
    st.builds(
        BeamSettings,
        lm_weight=st.floats(0, 5),
        word_bonus=st.floats(-20, 20),
        unknown_penalty=st.floats(0, 100),
        beam_width=st.integers(1, 1000),
    )
)
def test_a_decoder_comes_back_from_json_exactly(chosen: BeamSettings) -> None:
    decoder = Decoder.over(MODEL, chosen)
    assert Decoder.from_json(decoder.to_json()) == decoder


def test_a_folder_decodes_with_the_search_that_it_names(folder: Path) -> None:
    assert open_decoder(folder, TOKENIZER)(UNSURE, 0.02).text == "call mary now"


def test_a_folder_that_names_none_or_greedy_decodes_greedily(tmp_path: Path) -> None:
    assert read_decoder(tmp_path) == Decoder()
    assert open_decoder(tmp_path, TOKENIZER)(UNSURE, 0.02).text == "call nary now"
    (tmp_path / DECODER).write_text(Decoder().to_json())
    assert open_decoder(tmp_path, TOKENIZER)(UNSURE, 0.02).text == "call nary now"


def test_a_changed_language_model_is_refused(folder: Path) -> None:
    (folder / ARPA).write_text(MODEL.to_arpa().replace("mary", "mark"))
    with pytest.raises(DecoderError, match=r"lm.arpa has sha256 .* names"):
        open_decoder(folder, TOKENIZER)


def test_a_missing_language_model_is_refused(folder: Path) -> None:
    (folder / ARPA).unlink()
    with pytest.raises(DecoderError, match="fit language_model again"):
        open_decoder(folder, TOKENIZER)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"no model"])
def test_a_file_that_is_no_language_model_is_refused_even_if_it_is_the_one_named(folder: Path, data: bytes) -> None:
    import hashlib

    (folder / ARPA).write_bytes(data)
    (folder / DECODER).write_text(replace(SEARCH, arpa_sha256=hashlib.sha256(data).hexdigest()).to_json())
    with pytest.raises(DecoderError, match="cannot be read"):
        open_decoder(folder, TOKENIZER)


def test_a_model_of_another_order_than_named_is_refused(folder: Path) -> None:
    (folder / DECODER).write_text(replace(SEARCH, order=3).to_json())
    with pytest.raises(DecoderError, match="order 2"):
        open_decoder(folder, TOKENIZER)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "guess"},
        {"kind": "greedy"},
        {"lm_weight": -0.1},
        {"lm_weight": float("nan")},
        {"lm_weight": "high"},
        {"beam_width": 0},
        {"beam_width": True},
        {"beam_width": 10**9},
        {"token_floor": 1.0},
        {"sure_blank": 0.1},
        {"more": 1},
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(folder: Path, change: dict[str, object]) -> None:
    (folder / DECODER).write_text(json.dumps({**json.loads(SEARCH.to_json()), **change}))
    with pytest.raises(DecoderError):
        open_decoder(folder, TOKENIZER)


@pytest.mark.parametrize(
    "document", ["", "{}", "[]", '"beam"', "{", '{"kind": "beam"}', '{"kind": "greedy", "order": 2}']
)
def test_a_document_that_is_no_decoder_is_refused(tmp_path: Path, document: str) -> None:
    (tmp_path / DECODER).write_text(document)
    with pytest.raises(DecoderError):
        read_decoder(tmp_path)
