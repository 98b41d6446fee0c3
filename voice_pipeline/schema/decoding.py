"""How a model's posteriors become text: what `policy/retrain.yaml` asks for and a training spec keeps."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from voice_pipeline.schema.base import Record


class DecoderKind(StrEnum):
    """`greedy` takes the best class of each frame; `beam` searches with a word n-gram model."""

    GREEDY = "greedy"
    BEAM = "beam"


class Decoding(Record):
    """Greedy, or a beam search that is kept where it beats greedy on the dev speakers.

    `order` is the longest n-gram tried (2 to it), `beam_width` the prefixes kept a frame. Words and sequences of words
    that fewer than `min_speakers` train speakers said do not enter the language model, which every device carries in
    plain text.
    """

    kind: DecoderKind = DecoderKind.GREEDY
    order: int = Field(default=3, ge=2, le=5)
    beam_width: int = Field(default=16, ge=2, le=256)
    min_speakers: int = Field(default=2, ge=1)
