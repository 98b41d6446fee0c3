"""One versioned way from what a person typed to what a model is trained and scored on.

Rules, in order: Unicode NFKC; typographic apostrophes become `'`; letters lose their accents (NFKD); `&`, `%`, `@`, `+`
become words; points and commas inside a number vanish; whole numbers below 100 are read as cardinals, longer ones digit
by digit; a letter whose case is not in the alphabet takes the other one, all else that is not in the alphabet becomes
a space; apostrophes and hyphens that join no letters vanish; of a run of punctuation marks the first stays, right
behind the word before it, and a space follows; runs of spaces become one. So an alphabet of lowercase letters gives
words only, one with capitals keeps case, one with marks keeps them. Normalising twice changes nothing, and
`plain(normalise(t, any alphabet)) == normalise(t, lowercase)`.
"""

from __future__ import annotations

import re
import unicodedata

from voice_pipeline.speech.tokenizer import ALPHABET

NORMALISER_VERSION = "en-1"
"""Change it whenever a rule changes what an alphabet gives; labels carry it as `label_form`."""

MARKS = ".,?!;:-"
"""Punctuation, if the alphabet holds it. The hyphen joins words, the others follow one."""

_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ`´＇", "'"))
_SYMBOLS = {"&": " and ", "%": " percent ", "@": " at ", "+": " plus "}
_IN_NUMBER = re.compile(r"(?<=[0-9])[.,:-](?=[0-9])")
_DIGITS = re.compile(r"[0-9]+")
_LETTER = r"[^\W\d_]"
_LONE_APOSTROPHE = re.compile(rf"(?<!{_LETTER})'+|'+(?!{_LETTER})")
_LONE_HYPHEN = re.compile(rf"(?<!{_LETTER})-|-(?!{_LETTER})")
_MARK_RUN = re.compile(r"\s*([.,?!;:])[\s.,?!;:]*")
_NO_WORD = str.maketrans(dict.fromkeys(MARKS, " "))
_UNITS = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def normalise(text: str, alphabet: str) -> str:
    """`text` in the characters of `alphabet` (which holds the space), single spaces between words; may be empty."""
    folded = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).translate(_APOSTROPHES)
    folded = "".join(c for c in unicodedata.normalize("NFKD", folded) if not unicodedata.combining(c))
    for symbol, word in _SYMBOLS.items():
        folded = folded.replace(symbol, word)
    folded = _DIGITS.sub(lambda match: f" {_number(match.group())} ", _IN_NUMBER.sub(" ", folded))
    kept = "".join(c if c in alphabet else _other_case(c, alphabet) for c in folded)
    kept = _LONE_HYPHEN.sub(" ", _LONE_APOSTROPHE.sub(" ", kept))
    kept = _MARK_RUN.sub(r"\1 ", kept.lstrip(" " + MARKS))
    return " ".join(kept.split())


def words_of(text: str) -> str:
    """`text` as words only, whatever alphabet labels are written in: for figures that count words."""
    return normalise(text, ALPHABET)


def plain(text: str) -> str:
    """The words of a text that is normalised already, in whatever alphabet: lowercase, no punctuation."""
    return " ".join(text.casefold().translate(_NO_WORD).split())


def label_form(alphabet: str) -> str:
    """Which rules and alphabet made a label, stored with it; the lowercase alphabet goes without saying."""
    characters = "".join(sorted(set(alphabet)))
    return NORMALISER_VERSION if set(alphabet) == set(ALPHABET) else f"{NORMALISER_VERSION}/{characters.strip()}"


def _other_case(character: str, alphabet: str) -> str:
    """`character` in lower case if the alphabet holds that, else a space for each of its letters."""
    return "".join(c if c in alphabet else " " for c in character.casefold())


def _number(digits: str) -> str:
    if len(digits) > 2 or (len(digits) == 2 and digits[0] == "0"):
        return " ".join(_UNITS[int(digit)] for digit in digits)
    value = int(digits)
    if value < 20:
        return _UNITS[value]
    tens, unit = divmod(value, 10)
    return _TENS[tens - 2] + (f" {_UNITS[unit]}" if unit else "")
