"""Punctuation F1, casing accuracy and formatted WER of many utterances, where references have case and punctuation.

Counts are pooled over utterances (micro-averages); F1 = 2 · right / (marks said + marks heard). Intervals resample
speakers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from voice_pipeline.schema.training import Interval, MarkResult, PunctuationResult
from voice_pipeline.stats.bootstrap import cluster_bootstrap_ratio

if TYPE_CHECKING:
    from voice_pipeline.speech.punctuation import Formatting

ALL = "all"


def punctuation_result(
    speakers: Sequence[str], compared: Sequence[Formatting], resamples: int
) -> PunctuationResult | None:
    """Pool the comparisons of utterances, one speaker each; None where no reference has a mark or mixed case."""
    marked = any(count.reference for item in compared for count in item.marks)
    cased = any(item.reference_cased for item in compared)
    if not marked and not cased:
        return None

    def interval(counts: list[int], totals: list[int]) -> Interval:
        value, low, high = cluster_bootstrap_ratio(counts, totals, speakers, n=resamples)
        return Interval(value=value, low=low, high=high)

    right = [sum(count.right for count in item.marks) for item in compared]
    both = [sum(count.reference + count.hypothesis for count in item.marks) for item in compared]
    return PunctuationResult(
        f1=interval([2 * n for n in right], both) if marked else None,
        marks=_marks(compared),
        casing_accuracy=_casing(compared, interval) if cased else None,
        formatted_wer=interval([item.word_errors for item in compared], [item.words for item in compared]),
        clips=len(compared),
    )


def _casing(compared: Sequence[Formatting], interval: Callable[[list[int], list[int]], Interval]) -> Interval | None:
    """None where not one word was heard rightly."""
    same = [item.same_words for item in compared]
    return interval([item.same_case for item in compared], same) if any(same) else None


def _marks(compared: Sequence[Formatting]) -> tuple[MarkResult, ...]:
    """All marks together, then each that occurs."""
    said: Counter[str] = Counter()
    heard: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for item in compared:
        for count in item.marks:
            for name in (ALL, count.mark):
                said[name] += count.reference
                heard[name] += count.hypothesis
                right[name] += count.right
    return tuple(_mark(name, said[name], heard[name], right[name]) for name in said)


def _mark(name: str, said: int, heard: int, right: int) -> MarkResult:
    return MarkResult(
        mark=name,
        reference=said,
        hypothesis=heard,
        right=right,
        precision=right / heard if heard else None,
        recall=right / said if said else None,
        f1=2 * right / (said + heard) if said + heard else None,
    )
