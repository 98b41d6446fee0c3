"""Estimation of word n-gram models: interpolated modified Kneser-Ney (Chen and Goodman, 1999, "An empirical study of
smoothing techniques for language modeling", §2.7 and §3), in the form of Heafield et al. (2013, KenLM's `lmplz`).

Lower orders count in how many contexts an n-gram was seen, not how often. Each order has three discounts, from its
counts of counts; where those are degenerate, as in little text, that order is smoothed after Witten and Bell (1991).
Unigrams are interpolated with the uniform distribution over all words, `</s>` and `<unk>`. For every context the
probabilities of these add up to 1. N-grams that shall not be told are counted and then left out, as `lmplz --prune`
does: what they had goes to the next shorter context.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from voice_pipeline.speech.errors import ArpaError
from voice_pipeline.speech.ngram import BEGIN, DIGITS, END, NEVER, UNKNOWN, Gram, NGram, Words

LARGEST_ORDER = 5


def estimate(texts: Iterable[str], order: int, told: Callable[[Words], bool] = lambda gram: True) -> NGram:
    """A model of `order` words, 1 to `LARGEST_ORDER`, from sentences of words parted by spaces.

    `<unk>` may stand in the text for words that the model shall not know. Empty texts are passed over. The model
    holds no n-gram of two words or more that may not be `told`; what tells one must tell what it begins and ends with.

    Raises:
        ArpaError: no text has a word, a text holds `<s>` or `</s>`, or the order is out of range.
    """
    if not 1 <= order <= LARGEST_ORDER:
        raise ArpaError(f"n-gram order {order} is not in 1 to {LARGEST_ORDER}")
    counts = _adjusted(_counts(texts, order), order)
    vocabulary = {gram[0] for gram in counts[0]} | {END, UNKNOWN}
    probabilities: dict[Words, float] = {}
    weights: dict[Words, float] = {}
    for length in range(1, order + 1):
        weights |= _interpolate(counts[length - 1], probabilities, len(vocabulary), told)
    for word in vocabulary:
        probabilities.setdefault((word,), weights[()] / len(vocabulary))
    grams = {gram: Gram(_log10(p), _log10(weights.get(gram, 1.0))) for gram, p in probabilities.items()}
    grams[(BEGIN,)] = Gram(NEVER, _log10(weights.get((BEGIN,), 1.0)))
    return NGram(order, grams)


def _counts(texts: Iterable[str], order: int) -> list[Counter[Words]]:
    """How often each n-gram occurs, one counter a length."""
    counts: list[Counter[Words]] = [Counter() for _ in range(order)]
    for text in texts:
        for gram in ngrams(text, order):
            counts[len(gram) - 1][gram] += 1
    if not counts[0]:
        raise ArpaError("no text has a word; there is nothing to make a language model from")
    return counts


def ngrams(text: str, order: int) -> Iterator[Words]:
    """All n-grams of 1 to `order` words of a text between `<s>` and `</s>`; none of a text without a word.

    Raises:
        ArpaError: the text holds these marks.
    """
    words = text.split()
    if not words:
        return
    if BEGIN in words or END in words:
        raise ArpaError(f"text {text[:60]!r} holds {BEGIN} or {END}; these are the model's own marks")
    sentence = (BEGIN, *words, END)
    for length in range(1, order + 1):
        yield from (sentence[i : i + length] for i in range(len(sentence) - length + 1))


def _adjusted(counts: Sequence[Counter[Words]], order: int) -> list[dict[Words, int]]:
    """The longest n-grams, and those that begin a sentence, as they are; others by how many words precede them."""
    adjusted: list[dict[Words, int]] = []
    for length, counter in enumerate(counts, start=1):
        preceded = Counter(gram[1:] for gram in counts[length]) if length < order else counter
        adjusted.append(
            {gram: counter[gram] if gram[0] == BEGIN else preceded[gram] for gram in counter if gram != (BEGIN,)}
        )
    return adjusted


def _interpolate(
    counts: Mapping[Words, int], probabilities: dict[Words, float], vocabulary: int, told: Callable[[Words], bool]
) -> dict[Words, float]:
    """Add the probabilities of one length to those of the shorter ones; returns the weight left by each context."""
    discounts = _discounts(counts.values())
    extra = 0 if discounts else 1  # Witten-Bell: as much mass for the unseen as if each follower were one more event
    discounts = discounts or (0.0, 0.0, 0.0)
    kept = {gram: count for gram, count in counts.items() if len(gram) == 1 or told(gram)}
    sizes: Counter[Words] = Counter()
    left: defaultdict[Words, float] = defaultdict(float)
    for gram, count in counts.items():
        sizes[gram[:-1]] += count + extra
        left[gram[:-1]] += extra + (discounts[min(count, 3) - 1] if gram in kept else count)
    weights = {context: mass / sizes[context] for context, mass in left.items()}
    for gram, count in kept.items():
        context = gram[:-1]
        shorter = probabilities[gram[1:]] if context else 1 / vocabulary
        own = (count - discounts[min(count, 3) - 1]) / sizes[context]
        probabilities[gram] = own + weights[context] * shorter
    return weights


def _discounts(counts: Iterable[int]) -> tuple[float, float, float] | None:
    """What is taken from counts of 1, 2, and 3 or more (Chen and Goodman, 1999, eq. 26); None where degenerate."""
    seen = Counter(counts)
    t1, t2, t3, t4 = (seen[n] for n in range(1, 5))
    if not (t1 and t2 and t3):
        return None
    y = t1 / (t1 + 2 * t2)
    found = (1 - 2 * y * t2 / t1, 2 - 3 * y * t3 / t2, 3 - 4 * y * t4 / t3)
    return found if all(0 < d <= n for n, d in enumerate(found, start=1)) else None


def _log10(value: float) -> float:
    """log10 as the file will hold it, so that a model and its file answer alike."""
    return float(f"{math.log10(value):.{DIGITS}f}")
