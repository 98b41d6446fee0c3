"""WER is a pooled ratio; slices, counts and intervals come from the same utterances."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.evaluation.errors import EmptySuiteError
from voice_pipeline.evaluation.report import (
    Subject,
    evaluate,
    find_report,
    reported_artifact,
    store_report,
)
from voice_pipeline.evaluation.suites import SuiteClip
from voice_pipeline.evaluation.tables import slice_table
from voice_pipeline.store.store import Store
from voice_pipeline_tests.evaluation.heard import Answer, Scripted

NOW = datetime(2026, 11, 2, tzinfo=UTC)
SUBJECT = Subject("m-20261102-00000000", "float", "core-v1", "a" * 64)


def clip(number: int, text: str, speaker: str = "s1", slices: tuple[str, ...] = ("condition:clean",)) -> SuiteClip:
    return SuiteClip(f"clip{number}", speaker, text, np.zeros(number + 1, np.float32), slices, "clean")


def test_wer_is_pooled_over_words_not_averaged_over_utterances() -> None:
    clips = [clip(0, "yes"), clip(1, "a b c d e f g h i")]
    report = evaluate(Scripted(["no", "a b c d e f g h i"]), clips, SUBJECT, NOW)
    assert report.overall.wer.value == pytest.approx(0.1)
    assert (report.overall.substitutions, report.overall.deletions, report.overall.insertions) == (1, 0, 0)


def test_every_utterance_keeps_its_counts_for_paired_comparison() -> None:
    report = evaluate(Scripted(["a", "b b b"]), [clip(0, "a"), clip(1, "b", "s2")], SUBJECT, NOW)
    assert report.utterances == (("clip0", "clean", "s1", 0, 1), ("clip1", "clean", "s2", 2, 1))


def test_a_slice_counts_only_its_own_clips() -> None:
    clips = [clip(0, "a b", slices=("accent:x", "length:short")), clip(1, "a b", slices=("length:short",))]
    report = evaluate(Scripted(["", "a b"]), clips, SUBJECT, NOW)
    accent, short = report.slice("accent:x"), report.slice("length:short")
    assert accent is not None
    assert short is not None
    assert (accent.clips, accent.wer.value, accent.deletions) == (1, 1.0, 2)
    assert (short.clips, short.wer.value) == (2, 0.5)
    assert report.slice("accent:y") is None


def test_clips_are_consumed_one_by_one_so_that_memory_does_not_grow() -> None:
    seen: list[str] = []

    def lazily() -> Iterator[SuiteClip]:
        for number in range(3):
            assert len(seen) == number
            yield clip(number, "a")

    class Watching:
        def transcribe(self, samples: np.ndarray, /) -> Answer:
            seen.append("heard")
            return Answer("a")

    assert evaluate(Watching(), lazily(), SUBJECT, NOW).overall.clips == 3


@pytest.mark.parametrize("clips", [[], [clip(0, "")]])
def test_nothing_to_score_is_refused(clips: list[SuiteClip]) -> None:
    with pytest.raises(EmptySuiteError, match="core-v1"):
        evaluate(Scripted(["word"]), clips, SUBJECT, NOW)


words = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=5).map(" ".join)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(words, words, st.sampled_from(["s1", "s2", "s3"])), min_size=1, max_size=8))
def test_intervals_hold_the_value_and_slices_add_up(cases: list[tuple[str, str, str]]) -> None:
    clips = [clip(n, text, who, (f"accent:{who}",)) for n, (text, _, who) in enumerate(cases)]
    report = evaluate(Scripted([heard for _, heard, _ in cases]), clips, SUBJECT, NOW, resamples=200)
    assert sum(part.words for part in report.slices) == report.overall.words
    assert sum(part.clips for part in report.slices) == report.overall.clips
    errors = sum(line[3] for line in report.utterances)
    assert report.overall.wer.value == pytest.approx(errors / report.overall.words)
    for part in (report.overall, *report.slices):
        if part.speakers == 1:
            assert part.wer.low == pytest.approx(part.wer.value) == pytest.approx(part.wer.high)
        assert 0 <= part.wer.low <= part.wer.high


def test_a_stored_report_is_found_again_and_bound_to_its_artifact(store: Store) -> None:
    report = evaluate(Scripted(["a"]), [clip(0, "a")], SUBJECT, NOW)
    store_report(store, report, "b" * 64)
    assert find_report(store, SUBJECT.model_version, "float", SUBJECT.suite_digest) == report
    assert reported_artifact(store, SUBJECT.model_version, "float", SUBJECT.suite_digest) == "b" * 64
    assert find_report(store, SUBJECT.model_version, "int8", SUBJECT.suite_digest) is None


def test_the_table_has_a_line_a_slice_and_no_stray_column() -> None:
    report = evaluate(Scripted(["a"]), [clip(0, "a", slices=("accent:a|b", "condition:clean"))], SUBJECT, NOW)
    lines = slice_table(report).splitlines()
    assert len(lines) == 2 + 3
    assert {line.count("|") for line in lines} == {9}
