"""What synthetic speakers say: dictation as to a census (after the AN4 task), and strings of digits."""

from __future__ import annotations

import random
from collections.abc import Callable

Phrase = Callable[[random.Random], str]
"""Draws one text: lowercase words of a-z."""

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
COMMANDS = ("yes", "no", "go", "start", "stop", "help", "repeat", "next", "back", "erase", "enter", "rubout", "send")
MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
DAYS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
    "twelfth", "thirteenth", "fourteenth", "twentieth", "thirtieth",
)  # fmt: skip
NAMES = (
    "adams", "baker", "carter", "dawson", "ellis", "foster", "garcia", "hughes", "irving", "jenkins", "keller", "lopez",
    "morgan", "nelson", "owens", "palmer", "quinn", "rivera", "stone", "turner", "vargas", "walker", "young", "zimmer",
    "anna", "brian", "clara", "david", "emma", "felix", "grace", "henry", "irene", "jack", "karen", "lucas", "maria",
    "oak street", "pine road", "mill lane", "boston", "denver", "dallas", "austin", "chicago", "phoenix", "seattle",
)  # fmt: skip
NOTES = (
    "call me back at {number}", "meet {name} at {hour}", "send the form to {name}", "add {number} to the list",
    "remind me on {date}", "the house has {hour} rooms", "please ring {name} on {date}", "move it to {hour}",
)  # fmt: skip
CAPITALISED = frozenset(word for text in (*NAMES, *MONTHS) for word in text.split())
LETTER_NAMES = {"a": "ay"}
"""A lone `a` would be spoken as the article."""


def dictation(rng: random.Random) -> str:
    """One census-style utterance."""
    kinds: tuple[tuple[Phrase, int], ...] = (
        (_spelled, 30), (_number, 20), (_command, 15), (_command_with_code, 15), (_date, 10), (_note, 10),
    )  # fmt: skip
    (kind,) = rng.choices([phrase for phrase, _ in kinds], [weight for _, weight in kinds])
    return kind(rng)


def digits(rng: random.Random) -> str:
    """One to four digits."""
    return " ".join(rng.choice(DIGITS) for _ in range(rng.choice((1, 1, 2, 3, 4))))


def pronounceable(text: str) -> str:
    """`text` as it is given to the synthesiser, letters by their names."""
    return " ".join(LETTER_NAMES.get(word, word) for word in text.split())


def written(text: str) -> str:
    """`text` as a careful writer puts it: spelled letters and names with capitals, a point at the end."""
    words = [word.capitalize() if word in CAPITALISED or len(word) == 1 else word for word in text.split()]
    return " ".join([words[0].capitalize(), *words[1:]]) + "." if words else ""


def _spelled(rng: random.Random) -> str:
    return " ".join(rng.choice(NAMES).replace(" ", ""))


def _number(rng: random.Random) -> str:
    if rng.random() < 0.6:
        return " ".join(rng.choice(DIGITS) for _ in range(rng.randint(2, 7)))
    return rng.choice((rng.choice(TEENS), f"{rng.choice(TENS)} {rng.choice(DIGITS[1:])}"))


def _command(rng: random.Random) -> str:
    return rng.choice(COMMANDS)


def _command_with_code(rng: random.Random) -> str:
    letters = " ".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 4)))
    return f"{rng.choice(('enter', 'erase', 'rubout'))} {letters} {_number(rng)}"


def _date(rng: random.Random) -> str:
    return f"{rng.choice(MONTHS)} {rng.choice(DAYS)} nineteen {rng.choice(TENS)} {rng.choice(DIGITS[1:])}"


def _note(rng: random.Random) -> str:
    return rng.choice(NOTES).format(
        number=_number(rng), name=rng.choice(NAMES), hour=rng.choice(DIGITS[1:]), date=f"{rng.choice(MONTHS)} the third"
    )
