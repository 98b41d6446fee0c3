"""Word and character errors between a reference and a hypothesis, by minimum edit distance (jiwer's alignment).

Errors are counted on words without case and punctuation (`normalise.plain`), whatever alphabet a model writes: so WER
and CER of all models compare. What a model makes of case and punctuation is told apart (`speech.punctuation`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest

from voice_pipeline.speech.normalise import plain

WordPair = tuple[str | None, str | None]
"""(said, heard); None on one side only."""


@dataclass(frozen=True)
class Score:
    """Counts of one utterance. `words` and `chars` are those of the plain reference; spaces count as characters."""

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

    said, heard = plain(reference), plain(hypothesis)
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


def align_words(reference: str, hypothesis: str) -> list[WordPair]:
    """Each plain word said beside the one heard in its place, in order; `(said, None)` deleted, `(None, heard)` added.

    The alignment is the one that `score` counts (jiwer's, minimum edit distance).
    """
    said, heard = plain(reference).split(), plain(hypothesis).split()
    if said == heard:
        return list(zip(said, heard, strict=True))
    if not said or not heard:
        return [*((word, None) for word in said), *((None, word) for word in heard)]
    import jiwer

    pairs: list[WordPair] = []
    for chunk in jiwer.process_words(" ".join(said), " ".join(heard)).alignments[0]:
        mine = said[chunk.ref_start_idx : chunk.ref_end_idx]
        theirs = heard[chunk.hyp_start_idx : chunk.hyp_end_idx]
        pairs.extend(zip_longest(mine, theirs))
    return pairs


def corpus_wer(scores: Iterable[Score]) -> float:
    """All word errors over all reference words, as a fraction; 0 where there are neither, 1 where only errors."""
    counted = list(scores)
    errors, words = sum(s.errors for s in counted), sum(s.words for s in counted)
    return errors / words if words else float(errors > 0)
