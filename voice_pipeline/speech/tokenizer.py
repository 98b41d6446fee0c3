"""Characters to CTC classes and back. Class 0 is the CTC blank (Graves et al., 2006), class i the i-th character."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from voice_pipeline.speech.errors import TokenizerError

BLANK = 0
ALPHABET = " abcdefghijklmnopqrstuvwxyz'"


@dataclass(frozen=True)
class CharTokenizer:
    """Args:
        alphabet: the characters, in class order; it must hold the space, which separates words, and no character twice.

    Raises:
        TokenizerError: the alphabet is not such.
    """

    alphabet: str = ALPHABET

    def __post_init__(self) -> None:
        if " " not in self.alphabet or len(set(self.alphabet)) != len(self.alphabet):
            raise TokenizerError(f"alphabet {self.alphabet!r} must hold a space and no character twice")

    @cached_property
    def _classes(self) -> dict[str, int]:
        return {character: index for index, character in enumerate(self.alphabet, start=1)}

    @property
    def size(self) -> int:
        """Number of classes V, blank included."""
        return len(self.alphabet) + 1

    @property
    def space(self) -> int:
        """Class of the space."""
        return self._classes[" "]

    def encode(self, text: str) -> list[int]:
        """Classes in [1, V) of a normalised text.

        Raises:
            TokenizerError: a character is not in the alphabet; normalise the text first.
        """
        unknown = sorted(set(text) - set(self.alphabet))
        if unknown:
            raise TokenizerError(f"text {text!r} holds {unknown}, not in the alphabet; normalise it first")
        return [self._classes[character] for character in text]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of classes; blanks are left out, repeats are kept (collapsing is the decoder's work)."""
        return "".join(self.alphabet[index - 1] for index in ids if index != BLANK)

    def to_json(self) -> str:
        """A JSON document that `from_json` reads back."""
        return json.dumps(
            {"type": "char", "blank": BLANK, "alphabet": self.alphabet}, ensure_ascii=False, sort_keys=True
        )

    @classmethod
    def from_json(cls, document: str) -> CharTokenizer:
        """Raises:
        TokenizerError: the document does not describe a character tokenizer.
        """
        try:
            content = json.loads(document)
            if content["type"] != "char" or content["blank"] != BLANK:
                raise TokenizerError(f"tokenizer type {content['type']!r}, blank {content['blank']} is not known")
            return cls(str(content["alphabet"]))
        except (ValueError, KeyError, TypeError) as error:
            raise TokenizerError(f"document is no tokenizer: {error!r}; take tokenizer.json from the bundle") from error

    @property
    def digest(self) -> str:
        """sha256 of `to_json()`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()
