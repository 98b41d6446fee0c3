"""Gates that hold two reports against each other on the utterances that both heard.

Candidate against champion: the paired bootstrap over speakers (Bisani & Ney, ICASSP 2004). int8 against float: the
difference itself, for both are the same model on the same sounds. What was not heard by both is never taken for equal.
"""

from __future__ import annotations

from voice_pipeline.evaluation.errors import DifferentSuitesError
from voice_pipeline.evaluation.paired import Pair, bootstrap, paired
from voice_pipeline.release.gates.judgement import Evidence, Judgement, at_most
from voice_pipeline.schema.release import Outcome
from voice_pipeline.schema.release_policy import Gates, SliceMarginGate
from voice_pipeline.schema.training import EvaluationReport, SliceResult
from voice_pipeline.stats.bootstrap import PairedComparison

NAMED = 4
LEAST_SPEAKERS = 2
"""The bootstrap over speakers sees no spread in one."""


def noisy_wer(evidence: Evidence, gates: Gates) -> Judgement:
    """WER in noise is relatively lower than the champion's, and hardly by chance."""
    gate = gates.noisy_wer_improvement
    metric = f"relative WER improvement on {gate.slice}"
    if evidence.champion is None:
        detail = "no model is live, so there is nothing to improve upon; a person signs off"
        return Judgement(metric, None, gate.min_relative_improvement, Outcome.PASS, detail)
    result = compare(evidence, gate.slice, gates.bootstrap_samples)
    if result is None:
        detail = f"the suite has no utterance of {gate.slice} by {LEAST_SPEAKERS} speakers that both models heard"
        return Judgement(metric, None, gate.min_relative_improvement, Outcome.INVALID, detail)
    better = result.relative_improvement >= gate.min_relative_improvement
    certain = result.probability_worse <= gate.max_probability_worse
    detail = (
        f"{result.relative_improvement:+.1%} (95 %: {result.low:+.1%} to {result.high:+.1%}), probability of being "
        f"worse {result.probability_worse:.3f} (at most {gate.max_probability_worse}), {result.clusters} speakers"
    )
    # A champion without any error cannot be improved upon: -inf has no JSON form, and fails.
    value = result.relative_improvement if result.relative_improvement > -1e9 else -1e9
    outcome = Outcome.PASS if better and certain else Outcome.FAIL
    return Judgement(metric, value, gate.min_relative_improvement, outcome, detail)


def slice_margins(evidence: Evidence, gates: Gates) -> Judgement:
    """No slice is certainly worse by more than its own margin; the figure is that of the slice nearest or most beyond.

    INCONCLUSIVE, for a person, where a slice that the policy names in full is not large enough, or one that is large in
    either report was not heard by both: its clips were erased in between.
    """
    gate = gates.slice_margins
    metric = "certain WER regression of the slice worst against its margin"
    if evidence.champion is None:
        return Judgement(metric, None, gate.max_regression, Outcome.PASS, "no model is live to compare with")
    large = _large(evidence.candidate, gate) | _large(evidence.champion, gate)
    compared, lacking = {}, [name for name in gate.named_slices if name not in large]
    for name in sorted(large):
        # two-sided level 2c-1 puts 1-c into the lower tail
        result = compare(evidence, name, gates.bootstrap_samples, max(2 * gate.confidence - 1, 0.01))
        if result is None:
            lacking.append(name)
        else:
            compared[name] = result
    if not compared:
        return Judgement(metric, None, gate.max_regression, Outcome.INVALID, "no slice is large enough to be compared")
    excess = {name: result.absolute_low - gate.margin_of(name) for name, result in compared.items()}
    beyond = sorted((name for name in excess if excess[name] > 0), key=lambda name: -excess[name])
    name = max(excess, key=lambda name: (excess[name], name))
    worst, margin = compared[name], gate.margin_of(name)
    detail = (
        f"{len(compared)} slices; worst is {name}: {worst.absolute_change:+.1%}, at least {worst.absolute_low:+.1%} at "
        f"{gate.confidence:.0%}, margin {margin:.1%}"
    )
    detail += f"; beyond their margins too: {', '.join(beyond[1 : 1 + NAMED])}" if beyond[1:] else ""
    detail += f"; not compared: {', '.join(lacking[:NAMED])}" if lacking else ""
    outcome = Outcome.FAIL if beyond else Outcome.INCONCLUSIVE if lacking else Outcome.PASS
    return Judgement(metric, worst.absolute_low, margin, outcome, detail)


def int8_delta(evidence: Evidence, gates: Gates) -> Judgement:
    """int8 and float make about as many errors on the utterances that both heard."""
    metric, limit = "absolute WER difference int8 - float", gates.int8_delta.max_delta
    try:
        pairs = paired(evidence.candidate, evidence.candidate_float)
    except DifferentSuitesError as error:
        return Judgement(metric, None, limit, Outcome.INVALID, str(error))
    words = sum(pair.words for pair in pairs)
    if not words:
        return Judgement(metric, None, limit, Outcome.INVALID, "int8 and float heard no word in common")
    int8, plain = sum(pair.errors for pair in pairs), sum(pair.baseline_errors for pair in pairs)
    detail = f"int8 {int8 / words:.2%}, float {plain / words:.2%} on {len(pairs)} utterances"
    return at_most(metric, abs(int8 - plain) / words, limit, detail)


def compare(evidence: Evidence, slice_name: str, samples: int, level: float = 0.95) -> PairedComparison | None:
    """Candidate against champion on the utterances of a slice that both heard; None where these have no word, or are
    of fewer than two speakers.
    """
    if evidence.champion is None:
        return None
    keys = {key for key, names in evidence.slices.items() if slice_name in names}
    pairs = paired(evidence.candidate, evidence.champion, keys)
    return bootstrap(pairs, samples, level) if _enough(pairs) else None


def _enough(pairs: list[Pair]) -> bool:
    spoken = [pair for pair in pairs if pair.words]
    return len({pair.speaker for pair in spoken}) >= LEAST_SPEAKERS


def _large(report: EvaluationReport, gate: SliceMarginGate) -> set[str]:
    return {part.slice for part in report.slices if _is_large(part, gate)}


def _is_large(part: SliceResult, gate: SliceMarginGate) -> bool:
    return part.words >= gate.min_words and part.speakers >= gate.min_speakers
