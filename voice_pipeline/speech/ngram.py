"""Word n-gram models with back-off, read from and written as ARPA text, the format of KenLM and SRILM.

    log10 p(w | h) = the value listed for `h w`, else backoff(h) + log10 p(w | h without its first word)

(Katz, 1987; the file: http://www.speech.sri.com/projects/srilm/manpages/ngram-format.5.html). Values are log10, as in
the file. Only the standard library: a device reads the model that the pipeline wrote. `kneser_ney` makes such models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from voice_pipeline.speech.errors import ArpaError

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
MARKS = frozenset({BEGIN, END, UNKNOWN})
NEVER = -99.0
"""log10 that ARPA files write for what cannot be predicted: `<s>`."""
UNLISTED = -100.0
"""log10 of an unknown word in a model without `<unk>` (KenLM's default)."""
DIGITS = 7

Words = tuple[str, ...]


@dataclass(frozen=True)
class Gram:
    """What the model holds of one n-gram: log10 probability of its last word, log10 back-off weight as a context."""

    log10: float
    backoff: float = 0.0


@dataclass(frozen=True)
class NGram:
    """A back-off model of `order` words. `grams` maps every listed n-gram, 1 to `order` words long, to its values."""

    order: int
    grams: Mapping[Words, Gram]

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """All words that the model knows, sorted, without `<s>`, `</s>` and `<unk>`."""
        return tuple(sorted(gram[0] for gram in self.grams if len(gram) == 1 and gram[0] not in MARKS))

    @property
    def start(self) -> Words:
        """Context at the start of a sentence."""
        return self.follow((), BEGIN)

    def known(self, word: str) -> str:
        """`word`, or `<unk>` where the model does not know it."""
        return word if (word,) in self.grams else UNKNOWN

    def follow(self, context: Words, word: str) -> Words:
        """The context after `word`: at most the last `order` - 1 words, unknown ones as `<unk>`."""
        kept = (*context, self.known(word))
        return kept[max(0, len(kept) - self.order + 1) :]

    def log10(self, context: Words, word: str) -> float:
        """log10 p(`word` | `context`); a context as `follow` and `start` give it."""
        word, discount = self.known(word), 0.0
        while (found := self.grams.get((*context, word))) is None:
            if not context:
                return discount + UNLISTED
            shorter = self.grams.get(context)
            discount += shorter.backoff if shorter else 0.0
            context = context[1:]
        return discount + found.log10

    def sentence_log10(self, words: Iterable[str]) -> float:
        """log10 probability of a whole sentence, its end included."""
        context, total = self.start, 0.0
        for word in (*words, END):
            total += self.log10(context, word)
            context = self.follow(context, word)
        return total

    def perplexity(self, texts: Iterable[str]) -> float:
        """Perplexity a word of `texts`, sentence ends counted, unknown words as `<unk>`; NaN without texts."""
        total, count = 0.0, 0
        for text in texts:
            words = text.split()
            total += self.sentence_log10(words)
            count += len(words) + 1
        return float(10 ** (-total / count)) if count else math.nan

    def to_arpa(self) -> str:
        """The model as ARPA text; equal models give equal bytes. Values have `DIGITS` decimals."""
        by_length: list[list[Words]] = [[] for _ in range(self.order)]
        for gram in self.grams:
            by_length[len(gram) - 1].append(gram)
        lines = ["\\data\\", *(f"ngram {n}={len(grams)}" for n, grams in enumerate(by_length, start=1))]
        for length, grams in enumerate(by_length, start=1):
            lines += ["", f"\\{length}-grams:"]
            for gram in sorted(grams):
                entry = self.grams[gram]
                backoff = f"\t{entry.backoff:.{DIGITS}f}" if length < self.order else ""
                lines.append(f"{entry.log10:.{DIGITS}f}\t{' '.join(gram)}{backoff}")
        return "\n".join([*lines, "", "\\end\\", ""])

    @classmethod
    def from_arpa(cls, document: str) -> NGram:
        """Raises:
        ArpaError: the text is no ARPA model, with the line that is wrong.
        """
        lines = _Lines(document)
        counts = _header(lines)
        grams: dict[Words, Gram] = {}
        for length, count in enumerate(counts, start=1):
            lines.expect(f"\\{length}-grams:")
            for _ in range(count):
                gram, entry = _entry(lines, length, length == len(counts))
                if gram in grams:
                    raise lines.wrong(f"n-gram {' '.join(gram)!r} is listed twice")
                grams[gram] = entry
        lines.expect("\\end\\")
        for mark in (BEGIN, END):
            if (mark,) not in grams:
                raise ArpaError(f"ARPA model lists no {mark}; make it from sentences with their ends")
        return cls(len(counts), grams)


class _Lines:
    """The lines of a document that hold something, with their numbers for messages."""

    def __init__(self, document: str) -> None:
        self._lines = [(n, text) for n, line in enumerate(document.split("\n"), start=1) if (text := line.strip())]
        self._read = 0

    def next(self) -> str:
        if self._read == len(self._lines):
            raise ArpaError("ARPA model is cut short; fetch it again")
        self._read += 1
        return self._lines[self._read - 1][1]

    def back(self) -> None:
        """Read the last line again."""
        self._read -= 1

    def expect(self, mark: str) -> None:
        if (found := self.next()) != mark:
            raise self.wrong(f"{found[:40]!r} where {mark!r} should be")

    def wrong(self, what: str) -> ArpaError:
        return ArpaError(f"ARPA model, line {self._lines[self._read - 1][0]}: {what}; make the model again")


def _header(lines: _Lines) -> list[int]:
    """Number of n-grams of each length, from the `\\data\\` section; what stands before it is comment."""
    while lines.next() != "\\data\\":
        pass
    counts: list[int] = []
    for line in iter(lines.next, "\\1-grams:"):
        name, _, count = line.partition("=")
        if name.split() != ["ngram", str(len(counts) + 1)] or not (count.strip().isascii() and count.strip().isdigit()):
            raise lines.wrong(f"{line[:40]!r} is no count of {len(counts) + 1}-grams")
        counts.append(int(count))
    if not counts:
        raise lines.wrong("no counts of n-grams")
    lines.back()
    return counts


def _entry(lines: _Lines, length: int, longest: bool) -> tuple[Words, Gram]:
    """One `log10 words [backoff]` line; the longest n-grams have no back-off weight."""
    line = lines.next()
    fields = line.split()
    if len(fields) not in ((length + 1,) if longest else (length + 1, length + 2)):
        raise lines.wrong(f"{line[:60]!r} is no {length}-gram with its values")
    try:
        values = [float(fields[0]), *map(float, fields[length + 1 :])]
    except ValueError:
        raise lines.wrong(f"{line[:60]!r} holds something else than numbers around its words") from None
    if not all(map(math.isfinite, values)) or values[0] > 0:
        raise lines.wrong(f"{line[:60]!r} has a value that is no log10 probability")
    return tuple(fields[1 : length + 1]), Gram(*values)
