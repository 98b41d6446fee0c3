"""CTC prefix beam search with a word n-gram model and its lexicon (Hannun et al., 2014; Graves, 2012).

A text W of n words is scored as

    P_ctc(W) · P_lm(W)^lm_weight · e^(word_bonus · n) · e^(-unknown_penalty · unknown words of W)

P_ctc sums over all paths that say W; spaces at the ends and beside other spaces say nothing. A text without words is
scored by P_ctc alone, so that silence need not compete with sentences. Prefixes are grown frame by frame, the likeliest
`beam_width` are kept. Words of the model lie in a trie: inside a word the best unigram below stands for the model's
answer (look-ahead), and letters that leave the trie make the word an unknown one, which stays possible at its price.

Probabilities, not logarithms, scaled in every frame: a multiplication costs Python a tenth of a log-sum. Frames that
are surely blank only merge the two ends of each prefix and are taken all at once. Only numpy: it runs on the device.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from heapq import nlargest
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from voice_pipeline.speech.alignment import best_path
from voice_pipeline.speech.decoding import Hypothesis, along, greedy
from voice_pipeline.speech.ngram import END, UNKNOWN, NGram, Words
from voice_pipeline.speech.tokenizer import BLANK, CharTokenizer

SURE_BLANK = 0.999
"""A frame whose blank is likelier than this only parts what comes before from what comes after."""
FALLEN = 1e-9
"""Prefixes this much less likely than the best one are dropped, however few there are."""
MOST_LETTERS = 8
"""Only so many letters, the likeliest, are tried in a frame: in noise all of them are worth a try, at nearly twice the
time, for nothing (AN4's development speakers, three seeds: the same WER with 3, 4, 6 and 8). Fewer leave too few other
texts for the confidence to weigh an answer against: with 4 its calibration error on AN4 test was 0.058, not 0.042."""
LN10 = math.log(10)
LARGEST_EXPONENT = 600.0


@dataclass(frozen=True)
class BeamSettings:
    """How the search weighs and how wide it looks.

    Args:
        lm_weight: exponent of the language model, ≥ 0.
        word_bonus: nats added for each word; against the language model's taste for few words.
        unknown_penalty: nats taken for each word that the model does not know, beside the price of its `<unk>`.
        beam_width: prefixes kept after each frame, ≥ 1.
        token_floor: characters below this posterior do not start new prefixes, in [0, 1).
        sure_blank: posterior of the blank beyond which a frame is skipped; 1 skips none.
    """

    lm_weight: float = 0.0
    word_bonus: float = 0.0
    unknown_penalty: float = 0.0
    beam_width: int = 16
    token_floor: float = 1e-3
    sure_blank: float = SURE_BLANK


@dataclass(slots=True)
class _Branch:
    """A node of the trie: letters by class, the best unigram log10 below, whether a word ends here."""

    letters: dict[int, _Branch] = field(default_factory=dict)
    best: float = -math.inf
    ends: bool = False


class Lexicon:
    """The words of a language model, those that the tokenizer can write, as a trie."""

    def __init__(self, model: NGram, tokenizer: CharTokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.root = _Branch()
        alphabet = frozenset(tokenizer.alphabet)
        for word in model.vocabulary:
            if alphabet.issuperset(word):
                self._add(tokenizer.encode(word), model.log10((), word))

    def _add(self, letters: Sequence[int], log10: float) -> None:
        branch = self.root
        for letter in letters:
            branch = branch.letters.setdefault(letter, _Branch())
            branch.best = max(branch.best, log10)
        branch.ends = True


@contextmanager
def _uncollected() -> Iterator[None]:
    """No collection of cycles meanwhile: the search makes tens of thousands of objects and no cycle, and a collection
    in the middle of it looks at everything else that the process holds (20 ms here, more than the search takes).
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class _Prefix:
    """A text so far, whole words before `word`, which is still being spelt; `last` is 0 where none is.

    `blank` and `label` are the scaled scores of its paths that end in a blank and in its last letter, `total` their
    sum; `next_*` gather those of the coming frame. `price` is what the open word has cost so far, in nats.
    """

    __slots__ = (
        "blank", "branch", "children", "context", "frame", "label", "last", "next_blank", "next_label", "price",
        "total", "unknown_log10", "word", "words",
    )  # fmt: skip

    def __init__(self, words: Words, context: Words, word: str, last: int, branch: _Branch | None) -> None:
        self.words = words
        self.context = context
        self.word = word
        self.last = last
        self.branch = branch
        self.price = 0.0
        self.unknown_log10: float | None = None
        self.children: dict[int, tuple[_Prefix, float]] = {}
        self.blank = self.label = self.total = self.next_blank = self.next_label = 0.0
        self.frame = -1


class BeamSearch:
    """The search over one lexicon with one set of weights."""

    def __init__(self, lexicon: Lexicon, settings: BeamSettings) -> None:
        self.lexicon = lexicon
        self.settings = settings
        self._space = lexicon.tokenizer.space
        self._scale = settings.lm_weight * LN10

    def decode(self, log_probs: NDArray[np.float32], frame_shift_s: float) -> Hypothesis:
        """The best text of log-probabilities (T, V), T ≥ 1, with the times of its likeliest path and its share of the
        scores of all texts that the search was left with.
        """
        tokenizer = self.lexicon.tokenizer
        with _uncollected():
            ranked = self.ranked(log_probs)
        text = " ".join(ranked[0][0])
        scores = np.array([score for _, score in ranked])
        heard = greedy(log_probs, tokenizer, frame_shift_s)
        if heard.text != text:  # greedy's path is the likeliest of all, so also of its text
            heard = along(best_path(log_probs, text, tokenizer), log_probs, tokenizer, frame_shift_s)
        share = min(0.0, float(scores[0] - np.logaddexp.reduce(scores)))
        return replace(heard, posteriors=replace(heard.posteriors, log_posterior=share))

    def text(self, log_probs: NDArray[np.float32]) -> str:
        """The best text only."""
        return " ".join(self.ranked(log_probs)[0][0])

    def ranked(self, log_probs: NDArray[np.float32]) -> list[tuple[Words, float]]:
        """The texts that survived, best first, with the natural logarithm of their scores."""
        beam, scale = self._search(log_probs)
        scores: dict[Words, float] = {}
        for prefix in beam:
            ended = self._child(prefix, self._space)[0] if prefix.last else prefix
            owed = self._word_price(prefix) - prefix.price if prefix.last else 0.0
            score = math.log(prefix.total) + scale + owed + self._end_price(ended)
            scores[ended.words] = float(np.logaddexp(scores.get(ended.words, -math.inf), score))
        return sorted(scores.items(), key=lambda item: (-item[1], item[0]))

    def _search(self, log_probs: NDArray[np.float32]) -> tuple[list[_Prefix], float]:
        """The last beam, and the logarithm of the scale that its scores were divided by."""
        root = _Prefix((), self.lexicon.model.start, "", 0, self.lexicon.root)
        root.blank = root.total = 1.0
        beam, scale = [root], 0.0
        for number, (row, letters) in enumerate(self._frames(log_probs)):
            if row is None:
                for prefix in beam:
                    prefix.blank, prefix.label = prefix.total, 0.0
                continue
            beam = self._step(beam, row, letters, number) or beam  # a frame that nothing survives is passed over
            best = max(prefix.total for prefix in beam)
            scale += math.log(best)
            for prefix in beam:
                prefix.blank /= best
                prefix.label /= best
                prefix.total /= best
        return beam, scale

    def _frames(self, log_probs: NDArray[np.float32]) -> Iterator[tuple[list[float] | None, list[int]]]:
        """Posteriors of each frame and the letters worth a try; None once for a run of surely blank frames."""
        probabilities = np.exp(log_probs.astype(np.float64))
        worth = np.zeros(probabilities.shape, dtype=bool)
        likeliest = np.argsort(-probabilities[:, BLANK + 1 :], axis=1, kind="stable")[:, :MOST_LETTERS] + BLANK + 1
        np.put_along_axis(worth, likeliest, True, axis=1)
        worth &= probabilities > self.settings.token_floor
        worth[np.arange(len(worth)), probabilities.argmax(axis=1)] = True
        worth[:, BLANK] = False
        sure = (probabilities[:, BLANK] > self.settings.sure_blank).tolist()
        for frame, row in enumerate(probabilities.tolist()):
            if not sure[frame]:
                yield row, np.flatnonzero(worth[frame]).tolist()
            elif frame == 0 or not sure[frame - 1]:
                yield None, []

    def _step(self, beam: list[_Prefix], row: list[float], letters: list[int], number: int) -> list[_Prefix]:
        """One frame: every prefix stays or grows; the likeliest are kept."""
        blank, space = row[BLANK], self._space
        reached: list[_Prefix] = []
        for prefix in beam:
            total, last = prefix.total, prefix.last
            if prefix.frame != number:
                prefix.frame, prefix.next_blank, prefix.next_label = number, 0.0, 0.0
                reached.append(prefix)
            if last:
                prefix.next_blank += total * blank
                prefix.next_label += prefix.label * row[last]
            else:
                prefix.next_blank += total * (blank + row[space])
            for letter in letters:
                if letter == last:
                    mass = prefix.blank * row[letter]
                elif letter == space and not last:
                    continue
                else:
                    mass = total * row[letter]
                child, factor = prefix.children.get(letter) or self._child(prefix, letter)
                if child.frame != number:
                    child.frame, child.next_blank, child.next_label = number, 0.0, 0.0
                    reached.append(child)
                if child.last:
                    child.next_label += mass * factor
                else:
                    child.next_blank += mass * factor
        return self._kept(reached)

    def _kept(self, reached: list[_Prefix]) -> list[_Prefix]:
        best = 0.0
        for prefix in reached:
            best = max(best, prefix.next_blank + prefix.next_label)
        least = best * FALLEN
        kept = [prefix for prefix in reached if prefix.next_blank + prefix.next_label > least]
        for prefix in kept:
            prefix.blank, prefix.label = prefix.next_blank, prefix.next_label
            prefix.total = prefix.blank + prefix.label
        if len(kept) <= self.settings.beam_width:
            return kept
        return nlargest(self.settings.beam_width, kept, key=attrgetter("total"))

    def _child(self, prefix: _Prefix, letter: int) -> tuple[_Prefix, float]:
        """The prefix longer by one letter or by the end of its word, and the factor that this costs; made once."""
        if letter in prefix.children:
            return prefix.children[letter]
        if letter == self._space:
            context = self.lexicon.model.follow(prefix.context, prefix.word)
            child = _Prefix((*prefix.words, prefix.word), context, "", 0, self.lexicon.root)
            price = self._word_price(prefix)
        else:
            branch = prefix.branch.letters.get(letter) if prefix.branch else None
            word = prefix.word + self.lexicon.tokenizer.alphabet[letter - 1]
            child = _Prefix(prefix.words, prefix.context, word, letter, branch)
            child.unknown_log10 = prefix.unknown_log10
            price = self._unknown_price(child) if branch is None else self._scale * branch.best
            price += self.settings.word_bonus
            child.price = price
        made = child, math.exp(min(price - prefix.price, LARGEST_EXPONENT))
        prefix.children[letter] = made
        return made

    def _word_price(self, prefix: _Prefix) -> float:
        """What the finished word of `prefix` costs, nats."""
        if prefix.branch is None or not prefix.branch.ends:
            return self._unknown_price(prefix) + self.settings.word_bonus
        return self._scale * self.lexicon.model.log10(prefix.context, prefix.word) + self.settings.word_bonus

    def _unknown_price(self, prefix: _Prefix) -> float:
        if prefix.unknown_log10 is None:
            prefix.unknown_log10 = self.lexicon.model.log10(prefix.context, UNKNOWN)
        return self._scale * prefix.unknown_log10 - self.settings.unknown_penalty

    def _end_price(self, prefix: _Prefix) -> float:
        """What it costs to end the text after the last whole word, nats."""
        return self._scale * self.lexicon.model.log10(prefix.context, END) if prefix.words else 0.0
