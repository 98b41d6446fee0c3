"""Marks and case are judged at the aligned word, by hand-counted examples and by what must always hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_pipeline.schema.alphabet import CASED_PUNCTUATED
from voice_pipeline.speech.normalise import normalise
from voice_pipeline.speech.punctuation import MarkCount, formatting
from voice_pipeline.speech.scoring import score

texts = st.text("abAB ,.?-'", max_size=20).map(lambda text: normalise(text, CASED_PUNCTUATED))


@pytest.mark.parametrize(
    ("said", "heard", "marks"),
    [
        ("Hello, Mary.", "Hello, Mary.", {",": (1, 1, 1), ".": (1, 1, 1)}),
        ("Hello, Mary.", "hello mary", {",": (1, 0, 0), ".": (1, 0, 0)}),
        ("hello mary", "Hello, Mary.", {",": (0, 1, 0), ".": (0, 1, 0)}),
        ("Hello, Mary.", "Hello. Mary,", {",": (1, 1, 0), ".": (1, 1, 0)}),
        ("call Mary. now", "call Harry. now", {".": (1, 1, 1)}),
        ("call Mary, please now", "call please, now", {",": (1, 1, 0)}),
        ("call Mary now.", "call Mary right, now.", {".": (1, 1, 1), ",": (0, 1, 0)}),
        ("twenty-one, go", "twenty-one go", {",": (1, 0, 0), "-": (1, 1, 1)}),
        ("yes?", "", {"?": (1, 0, 0)}),
        ("", "yes?", {"?": (0, 1, 0)}),
    ],
)
def test_hand_counted_marks(said: str, heard: str, marks: dict[str, tuple[int, int, int]]) -> None:
    assert set(formatting(said, heard).marks) == {MarkCount(mark, *counts) for mark, counts in marks.items()}


def test_hand_counted_case_and_formatted_words() -> None:
    found = formatting("Call Mary, at nine.", "call Mary at ten.")
    assert (found.same_words, found.same_case) == (3, 2)  # Call/call, Mary, at; nine is not ten
    assert (found.words, found.word_errors) == (4, 3)  # Call, "Mary,", "nine."
    assert found.reference_cased
    assert not formatting("CALL MARY", "call").reference_cased


@given(texts, texts)
def test_counts_are_bounded_and_a_text_agrees_with_itself(said: str, heard: str) -> None:
    found = formatting(said, heard)
    for count in found.marks:
        assert 0 <= count.right <= min(count.reference, count.hypothesis)
        assert count.reference == said.count(count.mark)
        assert count.hypothesis == heard.count(count.mark)
    assert found.same_case <= found.same_words <= score(said, heard).words
    itself = formatting(said, said)
    assert all(count.right == count.reference == count.hypothesis for count in itself.marks)
    assert (itself.same_case, itself.word_errors) == (itself.same_words, 0)


@given(texts, texts)
def test_case_and_marks_change_no_word_error(said: str, heard: str) -> None:
    bare = " ".join("".join(c if c.isalpha() or c == "'" else " " for c in said.lower()).split())
    assert score(said, heard) == score(bare, heard.swapcase())
