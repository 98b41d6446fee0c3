"""Punctuation figures are pooled over utterances, and absent where no reference has marks or case."""

from __future__ import annotations

import pytest

from voice_pipeline.evaluation.punctuation import ALL, punctuation_result
from voice_pipeline.evaluation.report import evaluate
from voice_pipeline.schema.training import EvaluationReport, PunctuationResult
from voice_pipeline.speech.punctuation import formatting
from voice_pipeline_tests.evaluation.test_report import NOW, SUBJECT, Scripted, clip

SPOKEN = [("Call me, Ann.", "Call me. ann."), ("Is it nine?", "Is it nine"), ("Yes, no.", "Yes, go.")]


def figures(pairs: list[tuple[str, str]]) -> PunctuationResult | None:
    return punctuation_result([f"s{n}" for n in range(len(pairs))], [formatting(*pair) for pair in pairs], 200)


def test_hand_computed_figures() -> None:
    found = figures(SPOKEN)
    assert found is not None
    marks = {mark.mark: mark for mark in found.marks}
    assert (marks[ALL].reference, marks[ALL].hypothesis, marks[ALL].right) == (5, 4, 3)
    assert found.f1 is not None
    assert found.f1.value == marks[ALL].f1 == pytest.approx(6 / 9)
    assert (marks[ALL].precision, marks[ALL].recall) == (3 / 4, 3 / 5)
    assert (marks["?"].precision, marks["?"].recall, marks["?"].f1) == (None, 0, 0)
    assert (marks[","].precision, marks[","].recall, marks[","].f1) == (1, 0.5, pytest.approx(2 / 3))
    assert marks["."].f1 == pytest.approx(4 / 5)
    assert found.casing_accuracy is not None
    assert found.casing_accuracy.value == pytest.approx(6 / 7)  # Call me ann, Is it nine, Yes; no was heard as go
    assert found.formatted_wer.value == pytest.approx(4 / 8)
    assert found.f1.low <= found.f1.value <= found.f1.high


def test_figures_are_absent_where_references_have_no_case_and_no_marks() -> None:
    assert figures([("call ann", "Call Ann."), ("yes", "yes")]) is None
    cased = figures([("Call Ann", "call Ann")])
    assert cased is not None
    assert (cased.f1, cased.casing_accuracy is not None) == (None, True)
    marked = figures([("yes, no", "yes no")])
    assert marked is not None
    assert (marked.casing_accuracy, marked.f1 is not None) == (None, True)
    nothing_heard = figures([("Yes, no", "")])
    assert nothing_heard is not None
    assert nothing_heard.casing_accuracy is None


def test_a_report_has_them_and_its_word_errors_do_not_depend_on_them() -> None:
    said, heard = zip(*SPOKEN, strict=True)
    report = evaluate(Scripted(list(heard)), [clip(n, text) for n, text in enumerate(said)], SUBJECT, NOW)
    assert report.punctuation is not None
    assert report.overall.wer.value == pytest.approx(1 / 8)
    assert EvaluationReport.model_validate_json(report.model_dump_json()) == report
    plain = evaluate(Scripted(["call me ann"]), [clip(0, "call me ann")], SUBJECT, NOW)
    assert plain.punctuation is None


def test_a_report_from_before_the_figures_can_be_read() -> None:
    report = evaluate(Scripted(["a"]), [clip(0, "a")], SUBJECT, NOW).model_dump(mode="json")
    del report["punctuation"], report["wake_words"]
    assert EvaluationReport.model_validate(report).wake_words == ()
