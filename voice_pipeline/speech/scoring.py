"""Word and character errors between a reference and a hypothesis, by minimum edit distance (jiwer's alignment)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """Counts of one utterance. `words` and `chars` are those of the reference; spaces count as characters."""

    words: int
    substitutions: int
    deletions: int
    insertions: int
    chars: int
    char_errors: int

    @property
    def errors(self) -> int:
        """Word errors: substitutions + deletions + insertions."""
        return self.substitutions + self.deletions + self.insertions


def score(reference: str, hypothesis: str) -> Score:
    """Errors of `hypothesis`; an empty reference makes every word of the hypothesis an insertion."""
    from rapidfuzz.distance import Levenshtein

    said, heard = " ".join(reference.split()), " ".join(hypothesis.split())
    char_errors = Levenshtein.distance(said, heard)
    if not said or not heard:
        missing, added = len(said.split()), len(heard.split())
        return Score(missing, 0, missing, added, len(said), char_errors)
    import jiwer

    aligned = jiwer.process_words(said, heard)
    return Score(
        words=len(said.split()),
        substitutions=aligned.substitutions,
        deletions=aligned.deletions,
        insertions=aligned.insertions,
        chars=len(said),
        char_errors=char_errors,
    )


def corpus_wer(scores: Iterable[Score]) -> float:
    """All word errors over all reference words, as a fraction; 0 where there are neither, 1 where only errors."""
    counted = list(scores)
    errors, words = sum(s.errors for s in counted), sum(s.words for s in counted)
    return errors / words if words else float(errors > 0)
