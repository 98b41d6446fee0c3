"""Which words go wrong: counted from word alignments, utterance by utterance, ranked by how many errors they cause.

A word that few people said could give away what one of them dictated, and a report outlives an erasure. So only words
that `min_speakers` people said (or had put into their clips) are told.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from voice_pipeline.schema.training import WordErrors

if TYPE_CHECKING:
    from voice_pipeline.speech.scoring import WordPair

MIN_SPEAKERS = 3
"""The fewest people behind a word in a report that is kept."""


class WordTally:
    """What became of every word. Memory grows with the vocabulary, not with the audio."""

    def __init__(self) -> None:
        self._said: Counter[str] = Counter()
        self._deleted: Counter[str] = Counter()
        self._inserted: Counter[str] = Counter()
        self._heard_as: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._speakers: defaultdict[str, set[str]] = defaultdict(set)

    def add(self, speaker: str, pairs: Iterable[WordPair]) -> None:
        """Count one utterance of `speaker`; `pairs` are its (said, heard) words, as `align_words` gives."""
        for said, heard in pairs:
            word = said if said is not None else heard
            if word is None:
                continue
            self._speakers[word].add(speaker)
            if said is None:
                self._inserted[word] += 1
                continue
            self._said[word] += 1
            if heard is None:
                self._deleted[word] += 1
            elif heard != said:
                self._heard_as[word][heard] += 1

    def worst(self, most: int, min_speakers: int) -> tuple[WordErrors, ...]:
        """At most `most` words with errors, most errors first, then the rarer word, then by the alphabet."""
        told = [self._errors(word, len(who)) for word, who in self._speakers.items() if len(who) >= min_speakers]
        wrong = [word for word in told if word.errors]
        return tuple(sorted(wrong, key=lambda w: (-w.errors, w.said, w.word))[:most])

    def _errors(self, word: str, speakers: int) -> WordErrors:
        substitutes = self._heard_as.get(word, Counter())
        heard_as, times = min(substitutes.items(), key=lambda item: (-item[1], item[0]), default=(None, 0))
        return WordErrors(
            word=word,
            said=self._said[word],
            substituted=substitutes.total(),
            deleted=self._deleted[word],
            inserted=self._inserted[word],
            speakers=speakers,
            heard_as=heard_as,
            heard_as_times=times,
        )
