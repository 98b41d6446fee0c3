"""The gate on wake words: false alarms an hour and detection of the int8 model, each against its limit.

Rule: a wake word passes when the 95 % interval of its false-alarm rate (Garwood, Biometrika 1936) lies wholly within
the limit and that of its detection rate (Wilson, JASA 1927) wholly above its own; it fails when either lies wholly
beyond; else nobody can tell yet, and a person signs off. A point estimate alone decides nothing: no false alarm in a
minute of audio has the upper end 221 an hour. Only wake words that the policy names may lack all figures.

All wake words must pass, so each may be tested at full level and the chance of passing a model that is beyond a limit
stays at most 2.5 % (intersection-union test: Berger, "Multiparameter hypothesis testing and acceptance sampling",
Technometrics 1982). A model exactly at all limits fails wrongly in at most 2.5 % for each limit of each wake word.
"""

from __future__ import annotations

import math

from voice_pipeline.release.gates.judgement import Evidence, Judgement
from voice_pipeline.schema.release import Outcome
from voice_pipeline.schema.release_policy import Gates, WakeWordGate
from voice_pipeline.schema.training import Interval, WakeWordResult

METRIC = "false alarms an hour of the worst wake word"
WORST_FIRST = (Outcome.FAIL, Outcome.INVALID, Outcome.INCONCLUSIVE)


def wake_words(evidence: Evidence, gates: Gates) -> Judgement:
    """Every wake word of the evaluation policy; one without a figure never passes."""
    gate, asked = gates.wake_words, evidence.evaluation_policy
    limit, report = gate.max_false_alarms_per_hour, evidence.candidate
    if report.policy_digest != asked.digest:
        detail = "the report was made under another policy/evaluation.yaml; evaluate the model again"
        return Judgement(METRIC, None, limit, Outcome.INVALID, detail)
    if not asked.wake_words.phrases:
        detail = f"no wake word is configured (policy/evaluation.yaml {asked.digest[:12]})"
        return Judgement(METRIC, None, limit, Outcome.PASS, detail)
    found = {result.phrase: result for result in report.wake_words}
    judged = {phrase: _judged(found.get(phrase), gate) for phrase in asked.wake_words.phrases}
    outcomes = {outcome for outcome, _ in judged.values()}
    outcome = next((one for one in WORST_FIRST if one in outcomes), Outcome.PASS)
    rates = [found[phrase].false_alarms_per_hour for phrase in judged if phrase in found]
    often = [rate.value for rate in rates if rate is not None and math.isfinite(rate.value)]
    detail = "; ".join(f"{phrase} {text}" for phrase, (_, text) in judged.items())
    return Judgement(METRIC, max(often, default=None), limit, outcome, detail)


def _judged(result: WakeWordResult | None, gate: WakeWordGate) -> tuple[Outcome, str]:
    if result is None:
        return Outcome.INVALID, "is not in the report"
    if result.phrase in gate.may_be_uncovered and result.not_covered and not _has_figures(result):
        return Outcome.PASS, f"not covered: {result.not_covered}, and need not be"
    alarms = _within(result.false_alarms_per_hour, 0.0, gate.max_false_alarms_per_hour)
    found = _within(result.detection, gate.min_detection_rate, 1.0)
    outcome = next((one for one in WORST_FIRST if one in (alarms, found)), Outcome.PASS)
    rate, share = result.false_alarms_per_hour, result.detection
    told = [f"not covered: {result.not_covered}"] if result.not_covered else []
    if rate is not None:
        told.append(f"{rate.value:.2f}/h ({rate.low:.2f} - {rate.high:.2f}) in {result.negative_hours:.2f} h")
    if share is not None:
        told.append(f"found {share.value:.0%} of {result.positives} ({share.low:.0%} - {share.high:.0%})")
    return outcome, f"{', '.join(told) or 'has no figure'}: {outcome}"


def _has_figures(result: WakeWordResult) -> bool:
    return result.detection is not None or result.false_alarms_per_hour is not None


def _within(interval: Interval | None, least: float, most: float) -> Outcome:
    """Whether an interval lies in [least, most]; FAIL where it lies wholly outside."""
    if interval is None:
        return Outcome.INCONCLUSIVE
    if not -math.inf < interval.low <= interval.value <= interval.high < math.inf:
        return Outcome.INVALID
    if interval.high < least or interval.low > most:
        return Outcome.FAIL
    return Outcome.PASS if least <= interval.low and interval.high <= most else Outcome.INCONCLUSIVE
