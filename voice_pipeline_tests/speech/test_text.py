"""Tokenizer, normaliser and scores: texts survive the way to classes and back, and are counted right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_pipeline.speech.errors import TokenizerError
from voice_pipeline.speech.normalise import normalise
from voice_pipeline.speech.scoring import Score, corpus_wer, score
from voice_pipeline.speech.tokenizer import ALPHABET, CharTokenizer

words = st.lists(st.sampled_from(["a", "b", "yes", "nine", "o'clock"]), max_size=6).map(" ".join)


@given(st.text(ALPHABET))
def test_a_text_of_the_alphabet_comes_back_from_its_classes(text: str) -> None:
    tokenizer = CharTokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 < index < tokenizer.size for index in ids)


def test_characters_outside_the_alphabet_are_refused_by_name() -> None:
    with pytest.raises(TokenizerError, match="'é'"):
        CharTokenizer().encode("café")


def test_a_tokenizer_comes_back_from_its_json_with_its_digest() -> None:
    tokenizer = CharTokenizer(" xyz")
    again = CharTokenizer.from_json(tokenizer.to_json())
    assert again == tokenizer
    assert again.digest == tokenizer.digest != CharTokenizer().digest


@pytest.mark.parametrize(
    "document", ["", "{}", "[1]", '{"type": "bpe", "blank": 0, "alphabet": " a"}', '{"type": "char"']
)
def test_a_document_that_is_no_tokenizer_is_refused(document: str) -> None:
    with pytest.raises(TokenizerError):
        CharTokenizer.from_json(document)


@pytest.mark.parametrize("alphabet", ["abc", " aa", ""])
def test_an_alphabet_needs_a_space_and_no_repeats(alphabet: str) -> None:
    with pytest.raises(TokenizerError):
        CharTokenizer(alphabet)


@given(st.text())
def test_normalising_twice_changes_nothing_and_stays_in_the_alphabet(text: str) -> None:
    once = normalise(text, ALPHABET)
    assert normalise(once, ALPHABET) == once
    assert set(once) <= set(ALPHABET)
    assert once == " ".join(once.split())


@pytest.mark.parametrize(
    ("typed", "normal"),
    [
        ("Hello, World!", "hello world"),
        ("Don’t  stop", "don't stop"),
        ("'quoted' rock 'n' roll", "quoted rock n roll"),
        ("Zoë's café", "zoe's cafe"),
        ("21 & 5%", "twenty one and five percent"),
        ("1024", "one zero two four"),
        ("b4", "b four"),
        ("—", ""),
    ],
)
def test_rules_of_the_normaliser(typed: str, normal: str) -> None:
    assert normalise(typed, ALPHABET) == normal


@given(words, words)
def test_errors_are_bounded_by_the_two_texts(said: str, heard: str) -> None:
    found = score(said, heard)
    reference, hypothesis = said.split(), heard.split()
    assert found.words == len(reference)
    assert found.substitutions + found.deletions <= len(reference)
    assert len(reference) - found.deletions + found.insertions == len(hypothesis)
    assert (found.errors == 0) == (reference == hypothesis)
    assert found.errors == score(heard, said).errors


def test_a_hand_counted_score() -> None:
    assert score("call mary now", "call harry right now") == Score(3, 1, 0, 1, 13, 8)
    assert score("", "a b") == Score(0, 0, 0, 2, 0, 3)
    assert score("a b", "") == Score(2, 0, 2, 0, 3, 3)


def test_corpus_figures_pool_the_counts() -> None:
    scores = [score("a b c", "a b c"), score("d", "e")]
    assert corpus_wer(scores) == 1 / 4
    assert corpus_wer([]) == 0
    assert corpus_wer([score("", "a")]) == 1
