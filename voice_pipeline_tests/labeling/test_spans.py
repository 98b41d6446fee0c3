"""Misheard spans cover the differences and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from voice_pipeline.labeling.spans import WordTime, estimated_times, misheard_spans, word_distance

WORDS = st.lists(st.sampled_from(["stop", "start", "one", "two", "nine", "north"]), max_size=8).map(" ".join)


def test_a_misheard_word_is_found_with_its_time() -> None:
    heard = (WordTime("stop", 0.1, 0.5), WordTime("tree", 0.6, 1.0), WordTime("two", 1.1, 1.4))
    (span,) = misheard_spans(heard, "stop three two", 1.5)
    assert (span.start_s, span.end_s, span.heard, span.said) == (0.6, 1.0, "tree", "three")


def test_a_missed_word_points_between_its_neighbours() -> None:
    heard = (WordTime("stop", 0.1, 0.5), WordTime("two", 1.1, 1.4))
    (span,) = misheard_spans(heard, "stop three two", 1.5)
    assert (span.start_s, span.end_s, span.heard, span.said) == (1.1, 1.1, "", "three")


def test_hearing_nothing_marks_the_whole_clip() -> None:
    (span,) = misheard_spans((), "stop", 2.0)
    assert (span.start_s, span.end_s, span.said) == (0.0, 2.0, "stop")


@given(WORDS, WORDS, st.floats(0.2, 30))
def test_spans_lie_in_the_clip_in_order_and_appear_exactly_where_texts_differ(
    heard: str, said: str, duration_s: float
) -> None:
    spans = misheard_spans(estimated_times(heard, duration_s), said, duration_s)
    assert bool(spans) == (heard.split() != said.split())
    assert (word_distance(heard, said) == 0) == (not spans)
    reached = 0.0
    for span in spans:
        assert reached <= span.start_s <= span.end_s <= duration_s + 1e-6
        reached = span.end_s
