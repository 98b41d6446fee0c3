"""One versioned way from what a person typed to what a model is trained and scored on.

Rules, in order: Unicode NFKC, lower case; typographic apostrophes become `'`; letters lose their accents (NFKD); `&`,
`%`, `@`, `+` become words; whole numbers below 100 are read as cardinals, longer ones digit by digit; all that is not
in the alphabet becomes a space; apostrophes that join no letters vanish; runs of spaces become one. Normalising twice
changes nothing.
"""

from __future__ import annotations

import re
import unicodedata

NORMALISER_VERSION = "en-1"
"""Stored with every label; change it whenever a rule changes."""

_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ`´＇", "'"))
_SYMBOLS = {"&": " and ", "%": " percent ", "@": " at ", "+": " plus "}
_UNITS = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def normalise(text: str, alphabet: str) -> str:
    """`text` in the characters of `alphabet` (which holds the space), single spaces between words; may be empty."""
    folded = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).casefold().translate(_APOSTROPHES)
    folded = "".join(c for c in unicodedata.normalize("NFKD", folded) if not unicodedata.combining(c))
    for symbol, word in _SYMBOLS.items():
        folded = folded.replace(symbol, word)
    folded = re.sub(r"[0-9]+", lambda match: f" {_number(match.group())} ", folded)
    kept = "".join(c if c in alphabet else " " for c in folded)
    kept = re.sub(r"(?<![^\s'])'+|'+(?![^\s'])", " ", kept)
    return " ".join(kept.split())


def _number(digits: str) -> str:
    if len(digits) > 2 or (len(digits) == 2 and digits[0] == "0"):
        return " ".join(_UNITS[int(digit)] for digit in digits)
    value = int(digits)
    if value < 20:
        return _UNITS[value]
    tens, unit = divmod(value, 10)
    return _TENS[tens - 2] + (f" {_UNITS[unit]}" if unit else "")
