"""Which app a bundle demands: the oldest one whose client reads all that the bundle's files ask for.

The tables tell what clients of an app version read. Whoever teaches the client to read something new adds it here with
the app version that ships it (and raises that of the simulated fleet): bundles that ask for it are then neither
offered to older apps nor taken by them. 1.4.0 was the first app whose client reads `decoder.json` and goes by the names
of the inputs in `confidence.json`; clients before it take only those that they were built with, in their order. 1.5.0
is the first that reads a manifest of format 2 and unpacks what travels compressed: all that is packaged today.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from voice_pipeline.schema.bundle import FORMAT
from voice_pipeline.schema.decoding import DecoderKind
from voice_pipeline.trust import version_numbers

FIRST_APP = "1.0.0"
APP_OF_FORMAT: dict[int, str] = {1: FIRST_APP, 2: "1.5.0"}
"""The first app version that reads a manifest of this format."""
APP_OF_DECODER: dict[DecoderKind, str] = {DecoderKind.GREEDY: FIRST_APP, DecoderKind.BEAM: "1.4.0"}
"""The first app version that decodes so."""

FIRST_INPUTS: tuple[str, ...] = (
    *("mean_best", "min_best", "mean_word", "min_word", "mean_margin", "mean_entropy"),
    *("blank_share", "log_words", "characters_per_s", "snr_db", "loudness_dbfs"),
)
"""The inputs of the confidence that `FIRST_APP` was built with."""
APP_OF_INPUT: dict[str, str] = dict.fromkeys(
    (
        *FIRST_INPUTS,
        *("log_odds", "decoder_log_odds", "unknown_words", "character_entropy"),
        *("clipping", "spectral_tilt", "band_low", "band_high"),
    ),
    "1.4.0",
)
"""The first app version that reads an input of the confidence by this name."""


def first_app(folder: Path) -> str:
    """The oldest app version that reads a manifest of today, decodes as a bundle folder's `decoder.json` says and reads
    its `confidence.json`.

    Raises:
        DecoderError, ModelFileError: one of them is damaged.
        OSError: there is no `confidence.json`.
    """
    from voice_pipeline.speech.confidence import ConfidenceModel
    from voice_pipeline.speech.decoder import read_decoder

    decoder = APP_OF_DECODER[DecoderKind(read_decoder(folder).kind)]
    confidence = ConfidenceModel.from_json((folder / "confidence.json").read_text())
    return max(APP_OF_FORMAT[FORMAT], decoder, app_of_inputs(confidence.names), key=version_numbers)


def app_of_inputs(names: Sequence[str]) -> str:
    """The oldest app version that reads a confidence model over these inputs, all of them in `APP_OF_INPUT`."""
    if tuple(names) == FIRST_INPUTS:
        return FIRST_APP
    return max((APP_OF_INPUT[name] for name in names), key=version_numbers)
