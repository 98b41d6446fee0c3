"""Two models on the same utterances: paired bootstrap over speakers, the one statistic of report, card and gates.

Both models hear the same clips in the same noise, so the difference is far more certain than two separate intervals
suggest (Bisani & Ney, ICASSP 2004; `stats.bootstrap.paired_bootstrap_relative`).
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass

from voice_pipeline.evaluation.artifacts import INT8, report_for
from voice_pipeline.evaluation.errors import DifferentSuitesError, EvaluationError, UnknownArtifactError
from voice_pipeline.evaluation.report import OVERALL
from voice_pipeline.schema.dataset import EvalSuite
from voice_pipeline.schema.evaluation import ComparedSlice, Comparison, RelativeChange
from voice_pipeline.schema.training import EvaluationReport, Interval
from voice_pipeline.stats.bootstrap import PairedComparison, paired_bootstrap_relative
from voice_pipeline.store.releases import live
from voice_pipeline.store.store import Store

SAMPLES = 2000

Key = tuple[str, str]
"""(clip_id, condition) of an utterance."""


@dataclass(frozen=True)
class Pair:
    """One utterance that both models heard: word errors of each, words of the reference."""

    speaker: str
    baseline_errors: int
    errors: int
    words: int


@dataclass(frozen=True)
class AgainstLive:
    """The comparison with the live model, or in one line why there is none."""

    comparison: Comparison | None
    reason: str = ""


def paired(candidate: EvaluationReport, baseline: EvaluationReport, keys: Container[Key] | None = None) -> list[Pair]:
    """The utterances that both reports hold, only those of `keys` where given.

    Raises:
        DifferentSuitesError: the reports are about two suites.
    """
    if candidate.suite_digest != baseline.suite_digest:
        raise DifferentSuitesError(
            f"{candidate.model_version} was heard on suite {candidate.suite_digest[:12]}, {baseline.model_version} on "
            f"{baseline.suite_digest[:12]}; evaluate both on one suite"
        )
    theirs = {(clip, condition): errors for clip, condition, _, errors, _ in baseline.utterances}
    return [
        Pair(speaker, theirs[clip, condition], errors, words)
        for clip, condition, speaker, errors, words in candidate.utterances
        if (clip, condition) in theirs and (keys is None or (clip, condition) in keys)
    ]


def bootstrap(pairs: Sequence[Pair], samples: int = SAMPLES, level: float = 0.95) -> PairedComparison | None:
    """The paired bootstrap over speakers; None without a pair."""
    if not pairs:
        return None
    return paired_bootstrap_relative(
        [pair.baseline_errors for pair in pairs],
        [pair.errors for pair in pairs],
        [pair.words for pair in pairs],
        [pair.speaker for pair in pairs],
        n=samples,
        level=level,
    )


def compare(candidate: EvaluationReport, baseline: EvaluationReport, samples: int = SAMPLES) -> Comparison | None:
    """Overall and by each slice of the candidate's report; None where no utterance is common.

    Raises:
        DifferentSuitesError: the reports are about two suites.
    """
    overall = _compared(OVERALL, paired(candidate, baseline), samples)
    if overall is None:
        return None
    slices = []
    for name, positions in candidate.members.items():
        keys = {candidate.utterances[position][:2] for position in positions}
        part = _compared(name, paired(candidate, baseline, keys), samples)
        if part is not None:
            slices.append(part)
    return Comparison(
        model_version=candidate.model_version,
        variant=candidate.variant,
        baseline_model_version=baseline.model_version,
        baseline_variant=baseline.variant,
        suite_id=candidate.suite_id,
        suite_digest=candidate.suite_digest,
        overall=overall,
        slices=tuple(slices),
    )


def compare_with_live(store: Store, report: EvaluationReport, suite: EvalSuite) -> AgainstLive:
    """`report` against the live model on `suite`, like with like: its same variant, else the int8 form in its bundle.

    The live model is heard again unless its stored report is of the very bytes that lie there now (`report_for`).
    """
    champion = live(store)
    if champion is None:
        return AgainstLive(None, "no model is live yet, so there is nothing to compare with")
    if champion.model_version == report.model_version:
        return AgainstLive(None, f"{report.model_version} is itself the live model")
    return compare_with(store, report, champion.model_version, suite)


def compare_with(store: Store, report: EvaluationReport, model_version: str, suite: EvalSuite) -> AgainstLive:
    """`report` against `model_version` on `suite`; where that model cannot be heard any more, the reason says so."""
    try:
        baseline = _heard(store, model_version, report.variant, suite)
    except EvaluationError as error:
        return AgainstLive(None, f"{model_version} cannot be heard: {error}")
    found = compare(report, baseline)
    return AgainstLive(found, "" if found else f"no utterance of {suite.name} was heard by both models")


def _heard(store: Store, model_version: str, variant: str, suite: EvalSuite) -> EvaluationReport:
    try:
        return report_for(store, model_version, variant, suite)
    except UnknownArtifactError:
        return report_for(store, model_version, INT8, suite)


def _compared(name: str, pairs: Sequence[Pair], samples: int) -> ComparedSlice | None:
    result = bootstrap(pairs, samples)
    if result is None:
        return None
    words = sum(pair.words for pair in pairs)
    base, mine = sum(pair.baseline_errors for pair in pairs), sum(pair.errors for pair in pairs)
    return ComparedSlice(
        slice=name,
        clips=len(pairs),
        speakers=result.clusters,
        words=words,
        baseline_wer=base / words if words else 0.0,
        wer=mine / words if words else 0.0,
        difference=Interval(value=result.absolute_change, low=result.absolute_low, high=result.absolute_high),
        relative_change=_relative_change(result) if base else None,
        probability_worse=result.probability_worse,
        better=sum(pair.errors < pair.baseline_errors for pair in pairs) / len(pairs),
        worse=sum(pair.errors > pair.baseline_errors for pair in pairs) / len(pairs),
    )


def _relative_change(result: PairedComparison) -> RelativeChange:
    """An improvement of +20 % is a change of -20 %, so the ends of the interval trade places."""
    high = None if math.isinf(result.low) else 0.0 - result.low  # not -0.0
    return RelativeChange(value=0.0 - result.relative_improvement, low=0.0 - result.high, high=high)
