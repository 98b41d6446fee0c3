"""The characters that labels are written in, chosen in `policy/labeling.yaml`.

An alphabet is a property of labels, hence of the dataset version made of them, hence of the training spec and of every
bundle (`tokenizer.json`). Two names stand for the usual ones; any other is written out, class order included.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

LOWERCASE = " abcdefghijklmnopqrstuvwxyz'"
"""Words only: 28 characters, the default."""

MARKS = ".,?!;:-"
"""Punctuation that an alphabet may hold."""

CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CASED_PUNCTUATED = LOWERCASE + CAPITALS + MARKS
"""Text as people read it: 61 characters."""

NAMED = {"lowercase": LOWERCASE, "cased_punctuated": CASED_PUNCTUATED}


def characters(value: object) -> object:
    """The characters that `value` names, or `value` itself where it is an alphabet written out.

    Raises:
        ValueError: it lacks the space or a letter of a-z, holds a character twice, or one that no label can hold.
    """
    if not isinstance(value, str):
        return value
    alphabet = NAMED.get(value, value)
    missing = [c for c in LOWERCASE if c != "'" and c not in alphabet]
    unknown = sorted(set(alphabet) - set(CASED_PUNCTUATED))
    if missing or unknown or len(set(alphabet)) != len(alphabet):
        raise ValueError(
            f"alphabet {value!r} is neither of {sorted(NAMED)} nor the space, a-z and some of A-Z, ' and {MARKS}, "
            "each once (numbers are read out as words, so digits never occur)"
        )
    return alphabet


Alphabet = Annotated[str, BeforeValidator(characters)]
