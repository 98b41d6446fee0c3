"""How well punctuation and case are recognised, apart from the words.

A mark belongs to the word that it follows (slots after words: Tilk and Alumäe, Interspeech 2016, "Bidirectional
recurrent neural network with attention mechanism for punctuation restoration"). Words are aligned without case and
marks, by minimum edit distance (jiwer), so errors in words do not shift the slots: a mark is right if it follows the
word aligned with the one it follows in the reference, be that word itself right or substituted. Marks behind a deleted
word are missed, behind an inserted word false. Case is judged on aligned words that are the same word.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from voice_pipeline.speech.normalise import MARKS, plain
from voice_pipeline.speech.scoring import align_words

_PIECES = re.compile(rf"[^\s{re.escape(MARKS)}]+|[{re.escape(MARKS)}]")


@dataclass(frozen=True)
class MarkCount:
    """One mark in one utterance: how often it stands in the reference, in the hypothesis, and in both at one word."""

    mark: str
    reference: int
    hypothesis: int
    right: int


@dataclass(frozen=True)
class Formatting:
    """Counts of one utterance.

    Attributes:
        marks: of the marks that occur, in the order of `MARKS`.
        same_words: aligned pairs of the same word; `same_case` of them are written alike too.
        words: of the reference, split at spaces, punctuation attached; `word_errors` edits turn them into those of the
            hypothesis (formatted WER = word_errors / words).
        reference_cased: the reference has both capitals and lowercase letters.
    """

    marks: tuple[MarkCount, ...]
    same_words: int
    same_case: int
    words: int
    word_errors: int
    reference_cased: bool


def formatting(reference: str, hypothesis: str) -> Formatting:
    """Compare two texts that are normalised in an alphabet with capitals or marks; plain words have none to compare."""
    from rapidfuzz.distance import Levenshtein

    said, heard = _slots(reference), _slots(hypothesis)
    pairs = _aligned(said, heard)
    same = [(a[0], b[0]) for a, b in pairs if a and b and plain(a[0]) == plain(b[0])]
    return Formatting(
        marks=_counts(said, heard, pairs),
        same_words=len(same),
        same_case=sum(a == b for a, b in same),
        words=len(reference.split()),
        word_errors=Levenshtein.distance(reference.split(), hypothesis.split()),
        reference_cased=any(c.isupper() for c in reference) and any(c.islower() for c in reference),
    )


Slot = tuple[str, str]
"""A word and the mark behind it, or an empty string."""


def _slots(text: str) -> list[Slot]:
    """Words of `text` with their marks: of a run of marks the first counts, a mark before any word does not."""
    slots: list[Slot] = []
    for piece in _PIECES.findall(text):
        if piece not in MARKS:
            slots.append((piece, ""))
        elif slots and not slots[-1][1]:
            slots[-1] = (slots[-1][0], piece)
    return slots


def _aligned(said: list[Slot], heard: list[Slot]) -> list[tuple[Slot | None, Slot | None]]:
    left, right = iter(said), iter(heard)
    words = align_words(" ".join(plain(word) for word, _ in said), " ".join(plain(word) for word, _ in heard))
    return [(None if a is None else next(left), None if b is None else next(right)) for a, b in words]


def _counts(said: list[Slot], heard: list[Slot], pairs: list[tuple[Slot | None, Slot | None]]) -> tuple[MarkCount, ...]:
    reference, hypothesis = Counter(mark for _, mark in said), Counter(mark for _, mark in heard)
    right = Counter(a[1] for a, b in pairs if a and b and a[1] == b[1])
    return tuple(
        MarkCount(mark, reference[mark], hypothesis[mark], right[mark])
        for mark in MARKS
        if reference[mark] or hypothesis[mark]
    )
