"""Tables say which slices are too small and who measured what; charts are drawn for any report, always alike."""

from __future__ import annotations

import struct

import pytest

from voice_pipeline.evaluation.charts import MOST_ROWS, difference_png, errors_png, slices_png
from voice_pipeline.evaluation.latency import latency_by_class
from voice_pipeline.evaluation.paired import compare
from voice_pipeline.evaluation.tables import (
    THIN,
    comparison_table,
    latency_table,
    report_text,
    slice_table,
    words_table,
)
from voice_pipeline.schema.training import EvaluationReport, SliceMinimum
from voice_pipeline_tests.evaluation.heard import Said, report_on

MINIMUM = SliceMinimum(clips=2, speakers=2, words=6)
SAID = [
    Said("ann", "five nine one", "nine nine one", ("accent:en|gb",)),
    Said("ann", "five nine", "five", ("accent:en|gb",)),
    Said("bob", "one five two", "one five five two", ("accent:en$us$",)),
    Said("cid", "five", "nine", ("accent:en$us$",)),
]


@pytest.fixture
def report() -> EvaluationReport:
    return report_on(SAID)


def test_slices_under_the_minimum_are_marked_and_the_reason_is_given(report: EvaluationReport) -> None:
    table = slice_table(report, MINIMUM)
    marked = [line for line in table.splitlines() if line.startswith("|") and THIN in line]
    assert [line.split("|")[1].split()[0] for line in marked] == ["accent:en$us$", "accent:en/gb"]
    assert "accent:en/gb has 1 of 2 speakers, 5 of 6 words" in table
    assert "accent:en$us$ has 4 of 6 words" in table
    assert THIN not in slice_table(report)


def test_every_row_of_every_table_has_as_many_cells_as_its_head(report: EvaluationReport) -> None:
    comparison = compare(report, report)
    assert comparison is not None
    for table in (
        slice_table(report, MINIMUM).split("\n\n")[0],
        words_table(report.overall.worst_words),
        comparison_table(comparison),
        latency_table(latency_by_class(report, ())),
    ):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_the_text_for_a_terminal_has_scores_words_and_latency(report: EvaluationReport) -> None:
    text = report_text(report)
    assert "44.4%" in text  # four errors in nine words
    assert "| five | 4 | 2 | 0 | 1 | nine (2) |" in text
    assert "latency p50 2.5 ms" in text
    assert "one thread, measured on host" in text


def test_the_comparison_says_who_is_better_in_whole_words(report: EvaluationReport) -> None:
    perfect = report_on([Said(one.speaker, one.text, one.text, one.slices) for one in SAID], "m-20261103-cccccccc")
    better = compare(perfect, report)
    assert better is not None
    line = comparison_table(better).splitlines()[2]
    assert "-44.4%" in line
    assert "-100.0%" in line
    assert "100% / 0%" in line
    worse = compare(report, perfect)
    assert worse is not None
    assert "the other model makes no error" in comparison_table(worse)


def test_charts_are_the_same_bytes_every_time_and_differ_where_the_report_does(report: EvaluationReport) -> None:
    comparison = compare(report, report)
    assert comparison is not None
    draw = (
        lambda: slices_png(report, MINIMUM),
        lambda: errors_png(report),
        lambda: difference_png(comparison, report, MINIMUM),
    )
    for chart in draw:
        assert chart().startswith(b"\x89PNG")
        assert chart() == chart()
    assert slices_png(report, MINIMUM) != slices_png(report, SliceMinimum(clips=1, speakers=1, words=1))  # the marks


def test_a_chart_of_very_many_slices_stays_of_a_size_that_can_be_looked_at() -> None:
    many = [Said(f"s{n}", "a b", "a c", (f"accent:{n:03d}",)) for n in range(3 * MOST_ROWS)]
    height = struct.unpack(">II", slices_png(report_on(many), MINIMUM)[16:24])[1]
    full = report_on(many[: MOST_ROWS - 2])  # with overall and the condition: just as many rows as are shown
    assert height == struct.unpack(">II", slices_png(full, MINIMUM)[16:24])[1]
