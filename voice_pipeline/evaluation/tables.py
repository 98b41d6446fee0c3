"""Evaluation records as Markdown tables. Pure: records in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from voice_pipeline.schema.evaluation import ClassLatency, ComparedSlice, Comparison
from voice_pipeline.schema.training import EvaluationReport, Interval, PunctuationResult, SliceMinimum, WordErrors

THIN = "⚠"
"""Marks a slice with less material than the minimum."""


def slice_table(report: EvaluationReport, minimum: SliceMinimum | None = None) -> str:
    """The report as a Markdown table, one line a slice, overall first; slices under `minimum` are marked."""
    rows = []
    lacking = []
    for part in report.parts:
        missing = minimum.missing(part) if minimum else ""
        if missing:
            lacking.append(f"{part.slice} has {missing}")
        rows.append(
            (
                f"{part.slice} {THIN}" if missing else part.slice,
                part.clips,
                part.speakers,
                part.words,
                _percent(part.wer),
                f"{part.cer.value:.1%}",
                f"{part.substitutions} / {part.deletions} / {part.insertions}",
                ", ".join(f"{word.word} ({word.errors})" for word in part.worst_words[:3]) or "-",
            )
        )
    heads = ("slice", "clips", "speakers", "words", "WER (95 %)", "CER", "sub / del / ins", "worst words")
    table = _table(heads, rows)
    return f"{table}\n\n{THIN} too little to rely on: {_plain('; '.join(lacking))}." if lacking else table


def report_text(report: EvaluationReport) -> str:
    """The whole report for a terminal."""
    cer, latency = report.overall.cer, report.latency
    lines = [
        f"{report.model_version} ({report.variant}) on {report.suite_id}",
        slice_table(report, SliceMinimum()),
        f"\nworst words:\n{words_table(report.overall.worst_words)}\n",
        f"CER {cer.value:.2%} [{cer.low:.2%}, {cer.high:.2%}] overall, intervals over speakers",
        f"latency p50 {latency.p50_ms:.1f} ms, p95 {latency.p95_ms:.1f} ms over {latency.clips} clips, one thread, "
        f"measured on {latency.measured_on}",
    ]
    lines += [punctuation_text(report.punctuation)] if report.punctuation else []
    return "\n".join(lines)


def punctuation_text(found: PunctuationResult) -> str:
    """Punctuation and case as a Markdown list."""
    wer, f1, casing = found.formatted_wer, found.f1, found.casing_accuracy
    marks = f"{f1.value:.3f} ({f1.low:.3f} – {f1.high:.3f})" if f1 else "no reference has a mark"
    return "\n".join(
        [
            f"- F1 of punctuation: {marks}",
            f"- casing right: {_percent(casing) if casing else 'no reference mixes capitals and lowercase'}",
            f"- WER with case and marks: {_percent(wer)}, {found.clips} clips",
        ]
    )


def words_table(words: Sequence[WordErrors]) -> str:
    """Words with most errors, worst first."""
    rows = [
        (
            word.word,
            word.said,
            word.substituted,
            word.deleted,
            word.inserted,
            f"{word.heard_as} ({word.heard_as_times})" if word.heard_as else "-",
        )
        for word in words
    ]
    heads = ("word", "said", "substituted", "deleted", "inserted", "most often heard as")
    return _table(heads, rows) if rows else "No word that enough people said went wrong."


def comparison_table(comparison: Comparison) -> str:
    """Both models' WER by slice with the paired difference: negative = the new model is better."""
    rows = [
        (
            part.slice,
            part.clips,
            part.speakers,
            f"{part.baseline_wer:.1%}",
            f"{part.wer:.1%}",
            _signed(part.difference),
            _relative(part),
            f"{part.probability_worse:.2f}",
            f"{part.better:.0%} / {part.worse:.0%}",
        )
        for part in (comparison.overall, *comparison.slices)
    ]
    heads = (
        "slice",
        "clips",
        "speakers",
        f"WER {comparison.baseline_model_version}",
        f"WER {comparison.model_version}",
        "difference (95 %)",
        "relative change (95 %)",
        "p(worse)",
        "clips better / worse",
    )
    return _table(heads, rows)


def latency_table(latency: Iterable[ClassLatency]) -> str:
    """Waveform-to-text time by device class; who measured it is in every line."""
    rows = [
        (
            one.device_class.value,
            f"{one.p50_ms:.1f}",
            f"{one.p95_ms:.1f}",
            f"{one.p99_ms:.1f}" if one.p99_ms is not None else "-",
            f"{one.peak_memory_mb:.0f}" if one.peak_memory_mb is not None else "-",
            one.clips,
            one.source.value,
            one.measured_on,
        )
        for one in latency
    ]
    heads = ("device class", "p50 ms", "p95 ms", "p99 ms", "peak MB", "clips", "source", "measured on")
    return _table(heads, rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """First column to the left, columns of numbers to the right."""
    body = [[_plain(str(cell)) for cell in row] for row in rows]
    rule = "|".join(["---", *("--:" for _ in heads[1:])])
    lines = [f"| {' | '.join(heads)} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in body)]
    return "\n".join(lines)


def _plain(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def _percent(interval: Interval) -> str:
    return f"{interval.value:.1%} ({interval.low:.1%} – {interval.high:.1%})"


def _signed(interval: Interval) -> str:
    return f"{interval.value:+.1%} ({interval.low:+.1%} to {interval.high:+.1%})"


def _relative(part: ComparedSlice) -> str:
    change = part.relative_change
    if change is None:
        return "- (the other model makes no error)"
    high = f"{change.high:+.1%}" if change.high is not None else "unbounded"
    return f"{change.value:+.1%} ({change.low:+.1%} to {high})"
