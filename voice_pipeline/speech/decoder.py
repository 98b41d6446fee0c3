"""Which decoder a model answers with, as its folder says: one place for checkpoints, bundles and devices.

```
decoder.json   what to decode with; a folder without it decodes greedily
lm.arpa        the language model of a beam search; decoder.json names its sha256
```
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from voice_pipeline.speech.beam import BeamSearch, BeamSettings, Lexicon
from voice_pipeline.speech.decoding import Hypothesis, greedy
from voice_pipeline.speech.errors import ArpaError, DecoderError
from voice_pipeline.speech.ngram import NGram
from voice_pipeline.speech.tokenizer import CharTokenizer

DECODER, ARPA = "decoder.json", "lm.arpa"
GREEDY, BEAM = "greedy", "beam"
LIMITS: dict[str, tuple[float, float]] = {
    "lm_weight": (0, 5),
    "word_bonus": (-20, 20),
    "unknown_penalty": (0, 100),
    "beam_width": (1, 1000),
    "token_floor": (0, 0.99),
    "sure_blank": (0.5, 1),
}
"""Least and most of each setting."""

Decode = Callable[[NDArray[np.float32], float], Hypothesis]
"""From log-probabilities (T, V) and the seconds a frame stands for to what was heard."""


@dataclass(frozen=True)
class Decoder:
    """What `decoder.json` says. `beam` None: greedy. Else `order` and `arpa_sha256` are those of `lm.arpa`."""

    beam: BeamSettings | None = None
    order: int = 0
    arpa_sha256: str = ""

    @classmethod
    def over(cls, model: NGram, beam: BeamSettings) -> Decoder:
        """The decoder that searches with `model`."""
        return cls(beam, model.order, hashlib.sha256(model.to_arpa().encode()).hexdigest())

    @property
    def kind(self) -> str:
        return BEAM if self.beam else GREEDY

    def to_json(self) -> str:
        """A JSON document that `from_json` reads back."""
        searched = {"order": self.order, "arpa_sha256": self.arpa_sha256, **asdict(self.beam)} if self.beam else {}
        return json.dumps({"kind": self.kind, **searched}, sort_keys=True, indent=1)

    @classmethod
    def from_json(cls, document: str) -> Decoder:
        """Raises:
        DecoderError: the document is no decoder: unknown kind or key, or a value out of its `LIMITS`.
        """
        try:
            content = json.loads(document)
            kind = content.pop("kind")
            if kind == GREEDY and not content:
                return cls()
            if kind != BEAM:
                raise DecoderError(f"decoder {kind!r} with {sorted(content)} is not known; fit language_model again")
            order, arpa_sha256 = int(content.pop("order")), str(content.pop("arpa_sha256"))
            return cls(_settings(content), order, arpa_sha256)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DecoderError(f"document is no decoder: {error!r}; fit language_model again") from error


def _settings(content: dict[str, float]) -> BeamSettings:
    names = {field.name for field in fields(BeamSettings)}
    if content.keys() != names:
        raise DecoderError(f"decoder names {sorted(content.keys() ^ names)} wrongly; fit language_model again")
    for name, (least, most) in LIMITS.items():
        value = content[name]
        if isinstance(value, bool) or not (math.isfinite(value) and least <= value <= most):
            raise DecoderError(f"decoder's {name} {value!r} is not in {least} to {most}; fit language_model again")
    return BeamSettings(**{**content, "beam_width": int(content["beam_width"])})  # type: ignore[arg-type]


def read_decoder(folder: Path) -> Decoder:
    """What the folder's `decoder.json` says; greedy where there is none.

    Raises:
        DecoderError: it is damaged.
    """
    path = folder / DECODER
    return Decoder.from_json(path.read_text()) if path.is_file() else Decoder()


def open_decoder(folder: Path, tokenizer: CharTokenizer) -> Decode:
    """The decoder of a checkpoint or bundle folder, ready to use.

    Raises:
        DecoderError: `decoder.json` is damaged, or `lm.arpa` is missing, damaged or not the one it names.
    """
    decoder = read_decoder(folder)
    if decoder.beam is None:
        return greedily(tokenizer)
    return BeamSearch(Lexicon(_model(folder / ARPA, decoder), tokenizer), decoder.beam).decode


def greedily(tokenizer: CharTokenizer) -> Decode:
    """The greedy decoder of an alphabet."""
    return lambda log_probs, frame_shift_s: greedy(log_probs, tokenizer, frame_shift_s)


def _model(path: Path, decoder: Decoder) -> NGram:
    try:
        data = path.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != decoder.arpa_sha256:
            raise DecoderError(
                f"language model {path.name} has sha256 {found[:12]}, decoder.json names {decoder.arpa_sha256[:12]}; "
                "fetch the bundle again or fit language_model again"
            )
        model = NGram.from_arpa(data.decode())
    except (OSError, UnicodeDecodeError, ArpaError) as error:
        raise DecoderError(f"language model {path.name} cannot be read: {error}; fit language_model again") from error
    if model.order != decoder.order:
        raise DecoderError(f"language model {path.name} has order {model.order}, decoder.json says {decoder.order}")
    return model
