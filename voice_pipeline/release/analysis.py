"""What the telemetry of a stage says: harm, or ready for the next stage, or neither.

Two questions with two tests:
- **Harm**, asked at every tick: anytime-valid betting bounds by device (stats.sequential), one error budget over all
  stages and measures (Bonferroni). Harm needs no minimum time and no valid sample ratio, and is looked for on every
  device that the candidate is offered to.
- **Promotion**, asked at most `max_looks` times a stage: one-sided non-inferiority of the correction rate by device,
  adjusted for each device's own history (stats.proportions), alpha split over the looks (Bonferroni). Only devices
  whose apps run the live model too are counted, here and in the checks of the telemetry before it.
Telemetry that is missing, stale, or split otherwise than assigned makes the answer INVALID, never a pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np

from voice_pipeline.release.observations import (
    CANDIDATE,
    CONTROL,
    Dictation,
    LatencyReference,
    StageData,
    StageTelemetry,
    by_device,
    completed,
    correction_rate,
    shadow_rate,
)
from voice_pipeline.schema.release import Outcome, ReleaseState
from voice_pipeline.schema.release_policy import Guardrails, ReleasePolicy, Stage
from voice_pipeline.stats.proportions import (
    NonInferiority,
    adjust_for_baseline,
    non_inferiority,
    paired_non_inferiority,
    sample_ratio_p_value,
)
from voice_pipeline.stats.sequential import HarmTest, harm_test

MEASURES = ("correction_rate", "slow", "crash", "abandonment", "fallback", "silence")
CANARY_STAGES = 3


@dataclass(frozen=True)
class Analysis:
    """One look at one stage.

    Attributes:
        outcome: PASS promotes, FAIL undoes, INCONCLUSIVE waits, INVALID cannot say.
        look: whether the promotion test was made (its alpha is spent).
        reason: one sentence.
        figures: plain JSON evidence: counts, bounds, p-values.
    """

    outcome: Outcome
    look: bool
    reason: str
    figures: dict[str, Any]


def analyse(policy: ReleasePolicy, state: ReleaseState, telemetry: StageTelemetry) -> Analysis:
    """Judge one stage. Pure."""
    stage = policy.stage(state)
    data = telemetry.comparable
    figures = _counts(data)
    if state is not ReleaseState.SHADOW:
        tests = harm_tests(policy.guardrails, telemetry.offered, _reference(policy, telemetry.offered))
        figures["harm"] = {name: _harm_figures(test) for name, test in tests.items()}
        harmful = [name for name, test in tests.items() if test.harmful]
        if harmful:
            return Analysis(Outcome.FAIL, False, _harm_reason(tests, harmful), figures)
    waiting = _waiting(stage, data, figures)
    if waiting:
        return Analysis(Outcome.INCONCLUSIVE, False, waiting, figures)
    invalid = _invalid(policy, data, figures)
    if invalid:
        return Analysis(Outcome.INVALID, False, invalid, figures)
    return _promotion(policy, stage, data, _reference(policy, data), figures)


def _reference(policy: ReleasePolicy, data: StageData) -> LatencyReference:
    return LatencyReference(data.before, policy.gates.latency.max_p95_ms)


def harm_tests(rules: Guardrails, data: StageData, reference: LatencyReference) -> dict[str, HarmTest]:
    """One anytime-valid test a measure, each at its share of the rollout's error budget."""
    alpha = rules.alpha / (CANARY_STAGES * len(MEASURES))
    devices = {arm: completed(data.arms[arm], rules.dictations_per_device) for arm in (CANDIDATE, CONTROL)}
    measures: dict[str, tuple[Callable[[Sequence[Dictation]], float], float]] = {
        "correction_rate": (correction_rate, rules.correction_rate),
        "slow": (lambda group: _share([reference.relative(d) > rules.slow_ratio for d in group]), rules.slow),
        "crash": (lambda group: _share([d.crashed for d in group]), rules.crash),
        "abandonment": (lambda group: _share([d.abandoned for d in group]), rules.abandonment),
        "fallback": (lambda group: _share([d.fallback for d in group]), rules.fallback),
    }
    tests = {
        name: harm_test([of(g) for g in devices[CANDIDATE]], [of(g) for g in devices[CONTROL]], margin, alpha)
        for name, (of, margin) in measures.items()
    }
    tests["silence"] = harm_test(_silent(data, CANDIDATE, rules), _silent(data, CONTROL, rules), rules.silence, alpha)
    return tests


def _silent(data: StageData, arm: str, rules: Guardrails) -> list[float]:
    """1.0 for each expected device not heard within `silence_minutes` of the stage; nothing before these are over."""
    deadline = data.since + timedelta(minutes=rules.silence_minutes)
    if data.now < deadline:
        return []
    return [0.0 if device in data.heard and data.heard[device] <= deadline else 1.0 for device in data.expected[arm]]


def _waiting(stage: Stage, data: StageData, figures: dict[str, Any]) -> str:
    if figures["minutes"] < stage.min_minutes:
        return f"{figures['minutes']:.0f} of {stage.min_minutes:.0f} minutes"
    devices, events = figures["devices"][CANDIDATE], figures["events"][CANDIDATE]
    if devices < stage.min_devices:
        return f"{devices} of {stage.min_devices} devices on the candidate"
    if events < stage.min_events:
        return f"{events} of {stage.min_events} dictations on the candidate"
    return ""


def _invalid(policy: ReleasePolicy, data: StageData, figures: dict[str, Any]) -> str:
    rules = policy.telemetry
    for arm in (CANDIDATE, CONTROL):
        age = (data.now - data.arms[arm][-1].at).total_seconds() / 60 if data.arms[arm] else math.inf
        if age > rules.stale_minutes:
            return f"telemetry of the {arm} arm is stale or missing"
    devices = figures["devices"]
    shares = (data.candidate_share, 1 - data.candidate_share)
    p_value = sample_ratio_p_value((devices[CANDIDATE], devices[CONTROL]), shares)
    figures["sample_ratio_p"] = p_value
    if p_value < rules.sample_ratio_p:
        return f"sample ratio mismatch: {devices[CANDIDATE]} to {devices[CONTROL]} devices (p = {p_value:.1e})"
    reporting = {arm: _share([d in data.heard for d in data.expected[arm]], 1.0) for arm in (CANDIDATE, CONTROL)}
    figures["reporting"] = reporting
    if reporting[CANDIDATE] < rules.min_reporting_share * reporting[CONTROL]:
        return (
            f"only {reporting[CANDIDATE]:.0%} of the candidate's devices report, {reporting[CONTROL]:.0%} of the others"
        )
    return ""


def _promotion(
    policy: ReleasePolicy, stage: Stage, data: StageData, reference: LatencyReference, figures: dict[str, Any]
) -> Analysis:
    alpha = policy.promotion.alpha / policy.promotion.max_looks
    shadow = stage.state is ReleaseState.SHADOW
    test = _shadow_test(stage, data, alpha) if shadow else _canary_test(stage, data, alpha)
    ratio = _latency_ratio(data, reference, shadow)
    figures["noninferiority"] = _test_figures(test)
    figures["latency_ratio"] = ratio
    said = f"correction rate {test.difference:+.1%} (upper bound {test.upper:+.1%}, margin {test.margin:.0%})"
    if test.fails:
        return Analysis(Outcome.FAIL, True, f"inferior: {said}", figures)
    if ratio > policy.promotion.max_latency_ratio:
        limit = policy.promotion.max_latency_ratio
        return Analysis(
            Outcome.INCONCLUSIVE, True, f"p95 latency is {ratio:.2f} times the live model's ({limit})", figures
        )
    if not test.passes:
        return Analysis(Outcome.INCONCLUSIVE, True, f"not yet shown non-inferior: {said}", figures)
    return Analysis(Outcome.PASS, True, f"non-inferior: {said}; p95 latency ratio {ratio:.2f}", figures)


def _canary_test(stage: Stage, data: StageData, alpha: float) -> NonInferiority:
    before = {device: correction_rate(group) for device, group in by_device(data.before).items()}
    groups = [(arm, by_device(data.arms[arm])) for arm in (CANDIDATE, CONTROL)]
    values = [correction_rate(dictations) for _, group in groups for dictations in group.values()]
    baselines = [before.get(device) for _, group in groups for device in group]
    arms = [arm == CANDIDATE for arm, group in groups for _ in group]
    adjusted = adjust_for_baseline(values, baselines, arms)
    side = np.asarray(arms, dtype=bool)
    return non_inferiority(adjusted[side], adjusted[~side], stage.noninferiority_margin, alpha)


def _shadow_test(stage: Stage, data: StageData, alpha: float) -> NonInferiority:
    groups = by_device(data.arms[CANDIDATE]).values()
    differences = [shadow_rate(group) - correction_rate(group) for group in groups]
    return paired_non_inferiority(differences, stage.noninferiority_margin, alpha)


def _latency_ratio(data: StageData, reference: LatencyReference, shadow: bool) -> float:
    """p95 of the candidate over p95 of the live model, each latency first put relative to its device class."""
    arm = data.arms[CANDIDATE]
    mine = [reference.relative(d, d.shadow_latency_ms) if shadow else reference.relative(d) for d in arm]
    theirs = [reference.relative(d) for d in (arm if shadow else data.arms[CONTROL])]
    return float(np.quantile(mine, 0.95) / max(float(np.quantile(theirs, 0.95)), 1e-9))


def _counts(data: StageData) -> dict[str, Any]:
    return {
        "minutes": round((data.now - data.since).total_seconds() / 60, 2),
        "devices": {arm: len({d.device_id for d in rows}) for arm, rows in data.arms.items()},
        "events": {arm: len(rows) for arm, rows in data.arms.items()},
    }


def _harm_figures(test: HarmTest) -> dict[str, Any]:
    return {
        "candidate": test.candidate_mean,
        "control": test.control_mean,
        "candidate_lower": test.lower,
        "control_upper": test.upper,
        "margin": test.margin,
        "devices": [test.candidate_n, test.control_n],
        "harmful": test.harmful,
    }


def _harm_reason(tests: dict[str, HarmTest], harmful: Sequence[str]) -> str:
    parts = [
        f"{name} {tests[name].candidate_mean:.1%} on {tests[name].candidate_n} devices against "
        f"{tests[name].control_mean:.1%} (certainly above {tests[name].lower:.1%} and below {tests[name].upper:.1%}, "
        f"margin {tests[name].margin:.0%})"
        for name in harmful
    ]
    return "harm: " + "; ".join(parts)


def _test_figures(test: NonInferiority) -> dict[str, Any]:
    figures = {**test.__dict__, "passes": test.passes, "fails": test.fails}
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in figures.items()}


def _share(flags: Sequence[bool], empty: float = 0.0) -> float:
    return sum(flags) / len(flags) if flags else empty
