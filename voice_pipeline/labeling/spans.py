"""Where the machine misheard: word alignment of its hypothesis against what the reviewer wrote.

Alignment is the Levenshtein one over words (Wagner and Fischer, 1974). Times come from the hypothesis' word times
where they are known; else each word gets the share of the clip that its letters have of all letters, which is an
estimate good enough to jump to, not to cut at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from voice_pipeline.schema.labeling import MisheardSpan


@dataclass(frozen=True)
class WordTime:
    """One word of the hypothesis, seconds from the start of the clip."""

    text: str
    start_s: float
    end_s: float


def estimated_times(hypothesis: str, duration_s: float) -> tuple[WordTime, ...]:
    """Word times in proportion to letters, over the whole of `duration_s`."""
    words = hypothesis.split()
    letters = sum(len(word) + 1 for word in words)
    times, reached = [], 0.0
    for word in words:
        end = reached + duration_s * (len(word) + 1) / letters
        times.append(WordTime(word, reached, min(end, duration_s)))
        reached = end
    return tuple(times)


def misheard_spans(hypothesis: Sequence[WordTime], transcript: str, duration_s: float) -> tuple[MisheardSpan, ...]:
    """Stretches where `hypothesis` and `transcript` differ, in order and without overlap; empty where they agree.

    Args:
        hypothesis: words with times, in order.
        transcript: what was said, normalised like the hypothesis.
        duration_s: length of the clip.
    """
    from rapidfuzz.distance import Levenshtein

    said = transcript.split()
    if not hypothesis:
        return (MisheardSpan(start_s=0.0, end_s=duration_s, heard="", said=" ".join(said)),) if said else ()
    heard = [word.text for word in hypothesis]
    spans: list[MisheardSpan] = []
    for block in Levenshtein.opcodes(heard, said):
        if block.tag == "equal":
            continue
        words = hypothesis[block.src_start : block.src_end]
        start = words[0].start_s if words else _gap(hypothesis, block.src_start)
        end = words[-1].end_s if words else start
        span = MisheardSpan(
            start_s=start,
            end_s=max(start, end),
            heard=" ".join(word.text for word in words),
            said=" ".join(said[block.dest_start : block.dest_end]),
        )
        if spans and spans[-1].end_s >= span.start_s:
            spans[-1] = _joined(spans[-1], span)
        else:
            spans.append(span)
    return tuple(spans)


def _gap(hypothesis: Sequence[WordTime], before: int) -> float:
    """Where a word was missed: the boundary in front of hypothesis word `before`, or the end of the last word."""
    return hypothesis[before].start_s if before < len(hypothesis) else hypothesis[-1].end_s


def _joined(first: MisheardSpan, second: MisheardSpan) -> MisheardSpan:
    return MisheardSpan(
        start_s=first.start_s,
        end_s=max(first.end_s, second.end_s),
        heard=f"{first.heard} {second.heard}".strip(),
        said=f"{first.said} {second.said}".strip(),
    )


def word_distance(hypothesis: str, transcript: str) -> float:
    """Word edits that turn `hypothesis` into `transcript`, over the words of `transcript` (at least 1)."""
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.distance(hypothesis.split(), transcript.split()) / max(1, len(transcript.split()))
