"""What the telemetry of a stage says: harm, or ready for the next stage, or neither.

Two questions with two tests: **harm** (`harm`), asked at every tick of every device that the candidate is offered
to, and **promotion** (`promotion`), asked at a few looks of the devices that run both models. Telemetry that is
missing, stale, falling, or split otherwise than assigned makes the answer INVALID, never a pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from voice_pipeline.release.analysis.harm import harm_figures, harm_reason, harm_tests
from voice_pipeline.release.analysis.measures import CORRECTION_RATE, share
from voice_pipeline.release.analysis.observations import CANDIDATE, CONTROL, StageData, StageTelemetry
from voice_pipeline.release.analysis.promotion import (
    SPENT,
    TESTS,
    Taken,
    latency_ratio,
    look_at,
    may_look,
    said,
    spent_figures,
    test_figures,
)
from voice_pipeline.schema.release import Outcome, ReleaseState
from voice_pipeline.schema.release_policy import ReleasePolicy, Stage
from voice_pipeline.stats.proportions import NonInferiority, sample_ratio_p_value

READY = "no harm seen; the next look is not due yet"


@dataclass(frozen=True)
class Analysis:
    """One look at one stage.

    Attributes:
        outcome: PASS promotes, FAIL undoes, INCONCLUSIVE waits, INVALID cannot say.
        look: whether the promotion test was made (its error is spent).
        reason: one sentence.
        figures: plain JSON evidence: counts, bounds, p-values.
    """

    outcome: Outcome
    look: bool
    reason: str
    figures: dict[str, Any]


def analyse(
    policy: ReleasePolicy, state: ReleaseState, telemetry: StageTelemetry, looks: Sequence[Taken], resumed: int = 0
) -> Analysis:
    """Watch one stage, and make a look where one is due. Pure.

    Args:
        looks: those made before since the stage began, or was resumed last, oldest first.
        resumed: how often people resumed this stage.
    """
    seen = watch(policy, state, telemetry)
    stage, data = policy.stage(state), telemetry.comparable
    if seen.reason != READY or not may_look(policy, stage, looks, data.now, resumed):
        return seen
    figures = {**seen.figures, SPENT: spent_figures(policy, looks, resumed)}
    return _look(policy, stage, data, look_at(policy, stage, data, looks, resumed), figures)


def watch(policy: ReleasePolicy, state: ReleaseState, telemetry: StageTelemetry) -> Analysis:
    """Harm, and whether the telemetry would carry a look; never a pass. Pure."""
    data, offered = telemetry.comparable, telemetry.offered
    figures = _counts(data)
    reference = offered.before.latency(policy.gates.latency.max_p95_ms)
    tests = harm_tests(policy.guardrails, offered, reference)
    figures["harm"] = {name: harm_figures(test) for name, test in tests.items()}
    harm = harm_reason(tests)
    if harm:
        return Analysis(Outcome.FAIL, False, harm, figures)
    waiting = _waiting(policy.stage(state), data, figures)
    if waiting:
        return Analysis(Outcome.INCONCLUSIVE, False, waiting, figures)
    invalid = _invalid(policy, data, figures)
    if invalid:
        return Analysis(Outcome.INVALID, False, invalid, figures)
    return Analysis(Outcome.INCONCLUSIVE, False, READY, figures)


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
        age = (data.now - max(d.at for d in data.arms[arm])).total_seconds() / 60 if data.arms[arm] else math.inf
        if age > rules.stale_minutes:
            return f"telemetry of the {arm} arm is stale or missing"
    devices = figures["devices"]
    shares = (data.candidate_share, 1 - data.candidate_share)
    p_value = sample_ratio_p_value((devices[CANDIDATE], devices[CONTROL]), shares)
    figures["sample_ratio_p"] = p_value
    if p_value < rules.sample_ratio_p:
        return f"sample ratio mismatch: {devices[CANDIDATE]} to {devices[CONTROL]} devices (p = {p_value:.1e})"
    since = data.now - timedelta(minutes=rules.stale_minutes)
    reporting = {arm: _reporting(data, arm, since) for arm in (CANDIDATE, CONTROL)}
    figures["reporting"] = reporting
    if reporting[CANDIDATE] < rules.min_reporting_share * reporting[CONTROL]:
        return (
            f"only {reporting[CANDIDATE]:.0%} of the candidate's devices report, {reporting[CONTROL]:.0%} of the others"
        )
    if min(reporting.values()) < rules.min_heard_share:
        return f"only {min(reporting.values()):.0%} of the devices that were active before the stage report"
    return ""


def _reporting(data: StageData, arm: str, since: Any) -> float:
    """The share of the devices active before the stage that were heard since then; 1 where none was."""
    heard = data.heard[arm]
    return share([device in heard and heard[device][-1] > since for device in data.expected[arm]], 1.0)


def _look(
    policy: ReleasePolicy, stage: Stage, data: StageData, tests: dict[str, NonInferiority], figures: dict[str, Any]
) -> Analysis:
    ratio = latency_ratio(policy, stage, data)
    figures[TESTS] = {name: test_figures(test) for name, test in tests.items()}
    figures["latency_ratio"] = ratio
    inferior = [said(name, test) for name, test in tests.items() if test.fails]
    if inferior:
        return Analysis(Outcome.FAIL, True, f"inferior: {'; '.join(inferior)}", figures)
    limit = policy.promotion.max_latency_ratio
    open_ = [said(name, test) for name, test in tests.items() if not test.passes]
    open_ += [f"p95 latency is {ratio:.2f} times the live model's ({limit})"] if ratio > limit else []
    if open_:
        return Analysis(Outcome.INCONCLUSIVE, True, f"not yet shown non-inferior: {'; '.join(open_)}", figures)
    others = f", {len(tests) - 1} guardrails" if len(tests) > 1 else ""
    main = said(CORRECTION_RATE, tests[CORRECTION_RATE])
    return Analysis(Outcome.PASS, True, f"non-inferior: {main}{others}; p95 latency ratio {ratio:.2f}", figures)


def _counts(data: StageData) -> dict[str, Any]:
    return {
        "minutes": round((data.now - data.since).total_seconds() / 60, 2),
        "devices": {arm: len({d.device_id for d in rows}) for arm, rows in data.arms.items()},
        "events": {arm: len(rows) for arm, rows in data.arms.items()},
    }
