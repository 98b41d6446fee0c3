"""N-gram models are probability distributions, say what the papers say, and survive their file; bad files are named."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.speech.errors import ArpaError
from voice_pipeline.speech.kneser_ney import estimate
from voice_pipeline.speech.ngram import BEGIN, END, UNKNOWN, NGram

KENLM = """\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-1.2041199\t<unk>\t0
0\t<s>\t-0.30103
-0.69897\t</s>\t0
-0.5228787\tcall\t-0.1760913
-0.60206\tmary\t-0.2218487

\\2-grams:
-0.09691\t<s> call
-0.1549019\tcall mary
-0.1249387\tmary </s>

\\end\\
"""

sentences = st.lists(st.lists(st.sampled_from(["a", "b", "ab", UNKNOWN]), max_size=5).map(" ".join), min_size=1)
with_words = sentences.filter(lambda texts: any(texts))


def zipfian(count: int, seed: int = 3) -> list[str]:
    """Sentences whose words are so distributed that the discounts of each order exist."""
    drawn = random.Random(seed)
    words = [f"w{n}" for n in range(60)]
    return [" ".join(drawn.choices(words, [1 / (n + 1) for n in range(60)], k=6)) for _ in range(count)]


@settings(deadline=None)
@given(with_words, st.integers(1, 3))
def test_the_probabilities_after_every_context_add_up_to_one(texts: list[str], order: int) -> None:
    model = estimate(texts, order)
    listed = {gram for gram in model.grams if len(gram) < order and END not in gram}
    for context in {(), model.start, *listed}:
        following = (10 ** model.log10(context, word) for word in (*model.vocabulary, END, UNKNOWN))
        assert math.fsum(following) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_probabilities_of_much_text_add_up_to_one_too(order: int) -> None:
    model = estimate(zipfian(300), order)
    for context in [(), model.start, ("w0",), ("w1", "w0"), ("w59", "w58")]:
        known = context[max(0, len(context) - order + 1) :]
        following = (10 ** model.log10(known, word) for word in (*model.vocabulary, END, UNKNOWN))
        assert math.fsum(following) == pytest.approx(1, abs=1e-5)


def test_a_bigram_is_discounted_and_interpolated_as_chen_and_goodman_say() -> None:
    texts = zipfian(300)
    bigrams: Counter[tuple[str, str]] = Counter()
    for text in texts:
        words = [BEGIN, *text.split(), END]
        bigrams.update(pairwise(words))
    t1, t2, t3, t4 = (sum(count == n for count in bigrams.values()) for n in (1, 2, 3, 4))
    y = t1 / (t1 + 2 * t2)
    discount = {1: 1 - 2 * y * t2 / t1, 2: 2 - 3 * y * t3 / t2, 3: 3 - 4 * y * t4 / t3}
    assert all(0 < discount[n] <= n for n in discount), "the text no longer shows what it should"
    after = {word: count for (first, word), count in bigrams.items() if first == "w0"}
    total = sum(after.values())
    left = sum(discount[min(count, 3)] for count in after.values()) / total
    model = estimate(texts, 2)
    for word in ("w0", "w7", END):
        own = (after[word] - discount[min(after[word], 3)]) / total
        assert 10 ** model.log10(("w0",), word) == pytest.approx(own + left * 10 ** model.log10((), word), rel=1e-5)


def test_lower_orders_count_contexts_not_occurrences() -> None:
    """`francisco` is frequent but only ever follows `san` (Kneser and Ney, 1995): alone it is unlikely."""
    texts = ["san francisco"] * 20 + ["the dog", "a dog", "my dog", "no dog"]
    model = estimate(texts, 2)
    assert model.log10((), "dog") > model.log10((), "francisco")
    assert model.log10(("san",), "francisco") > model.log10(("san",), "dog")


def test_middle_orders_count_contexts_too() -> None:
    """After `san` alone `jose` is likelier, which three words precede; `francisco` only ever follows `x san`."""
    model = estimate(["x san francisco"] * 20 + ["a san jose", "b san jose", "c san jose"], 3)
    assert model.log10(("san",), "jose") > model.log10(("san",), "francisco")
    assert model.log10(("x", "san"), "francisco") > model.log10(("x", "san"), "jose")


def test_little_text_is_smoothed_as_witten_and_bell_say() -> None:
    model = estimate(["a b"], 2)
    # Three kinds of words after nothing, each once; four words share what is left: a, b, </s>, <unk>.
    alone = 1 / 6 + 3 / 6 / 4
    assert 10 ** model.log10((), "a") == pytest.approx(alone, rel=1e-5)
    assert 10 ** model.log10((), UNKNOWN) == pytest.approx(3 / 6 / 4, rel=1e-5)
    assert 10 ** model.log10(model.start, "a") == pytest.approx(1 / 2 + 1 / 2 * alone, rel=1e-5)


@settings(deadline=None)
@given(with_words, st.integers(1, 3))
def test_a_model_and_its_file_are_the_same(texts: list[str], order: int) -> None:
    model = estimate(texts, order)
    document = model.to_arpa()
    assert NGram.from_arpa(document) == model
    assert estimate(list(texts), order).to_arpa() == document


def test_a_file_by_kenlm_is_read() -> None:
    model = NGram.from_arpa(KENLM)
    assert model.order == 2
    assert model.vocabulary == ("call", "mary")
    assert model.start == (BEGIN,)
    assert model.log10(model.start, "call") == -0.09691
    assert model.log10(("call",), "call") == pytest.approx(-0.1760913 - 0.5228787)
    assert model.log10(("call",), "bob") == pytest.approx(-0.1760913 - 1.2041199)
    assert model.follow(("call",), "bob") == (UNKNOWN,)
    assert model.sentence_log10(["call", "mary"]) == pytest.approx(-0.09691 - 0.1549019 - 0.1249387)


def test_perplexity_is_that_of_the_words_and_their_ends() -> None:
    model = NGram.from_arpa(KENLM)
    assert model.perplexity(["call mary"]) == pytest.approx(10 ** ((0.09691 + 0.1549019 + 0.1249387) / 3))
    assert math.isnan(model.perplexity([]))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("\\end\\", "", "cut short"),
        ("\\data\\", "data", "cut short"),
        ("ngram 2=3", "ngram 2=4", "2-gram"),
        ("ngram 2=3", "ngram 2=2", "where"),
        ("ngram 2=3", "ngram 3=3", "no count of 2-grams"),
        ("ngram 1=5", "ngram 1=x", "line 2"),
        ("-0.5228787\tcall", "often\tcall", "line 9.*numbers"),
        ("-0.5228787\tcall", "nan\tcall", "log10"),
        ("-0.5228787\tcall", "0.5\tcall", "log10"),
        ("-0.1549019\tcall mary", "-0.1549019\tcall", "no 2-gram"),
        ("-0.1549019\tcall mary", "-0.1549019\t<s> call", "twice"),
        ("0\t<s>\t-0.30103", "0\t<ss>\t-0.30103", "lists no <s>"),
    ],
)
def test_a_damaged_file_is_refused_with_what_is_wrong(old: str, new: str, said: str) -> None:
    assert old in KENLM
    with pytest.raises(ArpaError, match=said):
        NGram.from_arpa(KENLM.replace(old, new, 1))


@settings(deadline=None)
@given(st.integers(0, len(KENLM) - 8))
def test_a_file_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(ArpaError):
        NGram.from_arpa(KENLM[:length])


@pytest.mark.parametrize(("texts", "order"), [([], 2), (["", " "], 2), (["a <s> b"], 2), (["a"], 0), (["a"], 9)])
def test_what_is_no_text_makes_no_model(texts: list[str], order: int) -> None:
    with pytest.raises(ArpaError):
        estimate(texts, order)
