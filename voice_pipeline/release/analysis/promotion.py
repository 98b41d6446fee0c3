"""Is the candidate shown to be no worse than the live model? Asked at most `max_looks` times a stage.

A look tests the correction rate, adjusted for each device's own history, against the stage's margin, in a canary each
guardrail against its own, and silence where the stage has a margin for it: all must be shown non-inferior (an
intersection-union test needs no correction: Berger, Technometrics 1982). Over the looks of a stage the error is spent
by a group-sequential rule (stats.group_sequential), so looking again costs no more than `promotion.alpha` in all. Only
devices whose apps run the live model too count.

A look also fails what it finds inferior beyond doubt. The rollout's budget for calling a harmless model harmful,
`guardrails.alpha`, has two halves: one is the harm tests' of every tick, the other is spread over all looks here.

A stage that was held may be resumed by a person, and a release that a person ended may come back as the next one of
its bundle; looks then begin anew, with half the error of those before, so that all looks ever made of a bundle at a
stage err no more often than twice `promotion.alpha`. What a resumed stage has shown is kept.

Each look stores the error that was spent by then. Under a policy that changed within a stage, later looks have what the
new budget leaves beyond that; where it leaves nothing, they end. Whoever raises `alpha` because of what looks have
shown chose it by the data: then no error rate holds that is said here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Protocol

import numpy as np

from voice_pipeline.release.analysis.measures import CORRECTION_RATE, MEASURES, SHARES, SILENCE, Measure, measures
from voice_pipeline.release.analysis.observations import (
    CANDIDATE,
    CONTROL,
    Dictation,
    History,
    StageData,
    by_device,
    correction_rate,
    shadow_rate,
)
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.schema.release_policy import STAGES, ReleasePolicy, Stage
from voice_pipeline.stats.group_sequential import nominal_levels, spent_by_looks
from voice_pipeline.stats.proportions import (
    Difference,
    NonInferiority,
    Shares,
    adjust_for_baseline,
    arm_difference,
    non_inferiority,
    paired_difference,
    share_difference,
)

TESTS = "noninferiority"
"""The key of a look's figures under which its tests are stored, by measure."""

SPENT = "error_spent"
"""The key of a look's figures under which is stored what its stage had spent with it, of each budget."""

PROMOTION, HARM = "promotion", "harm"
"""The two budgets of a look: of passing what is inferior, of failing what is harmless."""

UNTOLD_INFORMATION = 1e-6
"""Of today's: what an earlier look without figures of a measure counts as having known. It costs power only."""


class Taken(Protocol):
    """A look that was made in this stage: when, and the figures that it stored."""

    @property
    def at(self) -> datetime: ...

    @property
    def figures(self) -> Mapping[str, Any]: ...


def may_look(policy: ReleasePolicy, stage: Stage, looks: Sequence[Taken], now: datetime, resumed: int = 0) -> bool:
    """Whether another look is allowed now: some left, and the last one `min_minutes` ago."""
    if not looks:
        return True
    return not all_spent(policy, looks, resumed) and now - looks[-1].at >= timedelta(minutes=stage.min_minutes)


def all_spent(policy: ReleasePolicy, looks: Sequence[Taken], resumed: int = 0) -> bool:
    """Whether this stage has no look left: all were made, or they spent all that the policy allows now."""
    if len(looks) >= policy.promotion.max_looks:
        return True
    budget = budgets(policy, resumed)[PROMOTION]
    *_, before, following = (0.0, *_spent(policy, PROMOTION, budget, looks))
    return following <= before


def budgets(policy: ReleasePolicy, resumed: int = 0) -> dict[str, float]:
    """What the looks of a stage may err in all, since it began or was resumed last; of harm, each measure."""
    harm_alpha = policy.guardrails.alpha / 2 / (len(STAGES) * len(MEASURES))
    return {PROMOTION: policy.promotion.alpha * 2.0**-resumed, HARM: harm_alpha * 2.0 ** -(resumed + 1)}


def spent_figures(policy: ReleasePolicy, looks: Sequence[Taken], resumed: int = 0) -> dict[str, float]:
    """What is stored of one more look after `looks`: the error spent in all with it, of each budget."""
    return {name: _spent(policy, name, budget, looks)[-1] for name, budget in budgets(policy, resumed).items()}


def look_at(
    policy: ReleasePolicy, stage: Stage, data: StageData, looks: Sequence[Taken], resumed: int = 0
) -> dict[str, NonInferiority]:
    """The tests of one more look, by measure.

    Args:
        looks: those made before it since the stage began, or was resumed last, oldest first.
        resumed: how often people let this bundle into this stage again; each time grants new looks at half the error.
    """
    spent = [_spent(policy, name, budget, looks) for name, budget in budgets(policy, resumed).items()]
    tests = {}
    for name, (found, margin) in _differences(policy, stage, data).items():
        tests[name] = non_inferiority(found, margin, *(_level(one, name, found, looks) for one in spent))
    return tests


def latency_ratio(policy: ReleasePolicy, stage: Stage, data: StageData) -> float:
    """p95 of the candidate over p95 of the live model, each latency first put relative to its device class."""
    reference = data.before.latency(policy.gates.latency.max_p95_ms)
    shadow = stage.state is ReleaseState.SHADOW
    arm = data.arms[CANDIDATE]
    mine = [reference.relative(d, d.shadow_latency_ms) if shadow else reference.relative(d) for d in arm]
    theirs = [reference.relative(d) for d in (arm if shadow else data.arms[CONTROL])]
    return float(np.quantile(mine, 0.95) / max(float(np.quantile(theirs, 0.95)), 1e-9))


def test_figures(test: NonInferiority) -> dict[str, Any]:
    """A test as plain JSON; what is not finite is null."""
    figures = {**asdict(test), "passes": test.passes, "fails": test.fails}
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in figures.items()}


def said(name: str, test: NonInferiority) -> str:
    """A test in words."""
    return f"{name} {test.difference:+.1%} (upper bound {test.upper:+.1%}, margin {test.margin:.0%})".replace("_", " ")


def _differences(policy: ReleasePolicy, stage: Stage, data: StageData) -> dict[str, tuple[Difference, float]]:
    """What is estimated in a stage, by measure, with its margin."""
    found = _between_twins(stage, data) if stage.state is ReleaseState.SHADOW else _between_arms(policy, stage, data)
    if stage.silence_margin is not None:
        since = data.now - timedelta(minutes=policy.guardrails.silence_minutes)
        mine, theirs = (_silent(data, arm, since) for arm in (CANDIDATE, CONTROL))
        found[SILENCE] = (share_difference(mine, theirs, stage.silence_margin), stage.silence_margin)
    return found


def _between_twins(stage: Stage, data: StageData) -> dict[str, tuple[Difference, float]]:
    groups = by_device(data.arms[CANDIDATE]).values()
    pairs = [shadow_rate(group) - correction_rate(group) for group in groups]
    return {CORRECTION_RATE: (paired_difference(pairs), stage.noninferiority_margin)}


def _between_arms(policy: ReleasePolicy, stage: Stage, data: StageData) -> dict[str, tuple[Difference, float]]:
    reference = data.before.latency(policy.gates.latency.max_p95_ms)
    arms = {arm: by_device(data.arms[arm]) for arm in (CANDIDATE, CONTROL)}
    usage = _usage(data.before, [device for groups in arms.values() for device in groups])
    found = {CORRECTION_RATE: (_correction_difference(arms, data.before), stage.noninferiority_margin)}
    for measure in measures(policy.guardrails, reference):
        if measure.name in SHARES:
            mine, theirs = (_shares(measure, arms[arm], usage) for arm in (CANDIDATE, CONTROL))
            found[measure.name] = (share_difference(mine, theirs, measure.margin), measure.margin)
    return found


def _silent(data: StageData, arm: str, since: datetime) -> Shares:
    """Which of the devices that were active before the stage were not heard since; each is one trial and weighs one.

    A device that spoke since and fell quiet then is not silent yet; the stage's `min_minutes` see to it that every
    device that is on has taken the candidate before.
    """
    heard = data.heard[arm]
    shares = [float(device not in heard or heard[device][-1] <= since) for device in data.expected[arm]]
    return Shares(shares, trials=[1] * len(shares), weights=[1.0] * len(shares))


def _usage(before: History, devices: Sequence[str]) -> dict[str, float]:
    """How much each device counts in a share: as much as it was used before the rollout, so that whom a model drives
    away counts no less for having gone. Devices without a history count like an average one with.
    """
    known = before.dictation_counts
    told = [known[device] for device in devices if device in known]
    usual = sum(told) / len(told) if told else 1.0
    return {device: float(known.get(device, usual)) for device in devices}


def _shares(measure: Measure, groups: Mapping[str, Sequence[Dictation]], usage: Mapping[str, float]) -> Shares:
    rows = groups.items()
    return Shares(
        shares=[measure.of(group) for _, group in rows],
        trials=[len(group) for _, group in rows],
        weights=[usage[device] for device, _ in rows],
    )


def _correction_difference(arms: Mapping[str, Mapping[str, Sequence[Dictation]]], before: History) -> Difference:
    usual = before.correction_rates
    values = [correction_rate(group) for groups in arms.values() for group in groups.values()]
    baselines = [usual.get(device) for groups in arms.values() for device in groups]
    side = np.array([arm == CANDIDATE for arm, groups in arms.items() for _ in groups], dtype=bool)
    adjusted = adjust_for_baseline(values, baselines, side.tolist())
    return arm_difference(adjusted[side], adjusted[~side])


def _spent(policy: ReleasePolicy, name: str, budget: float, looks: Sequence[Taken]) -> tuple[float, ...]:
    """The error of one budget that was spent by each of `looks`, and is with one more."""
    told = [look.figures.get(SPENT, {}).get(name) for look in looks]  # older ledger lines have none
    return spent_by_looks(budget, policy.promotion.max_looks, told)


def _level(spent: Sequence[float], name: str, found: Difference, looks: Sequence[Taken]) -> float:
    """The nominal level of this look for one measure; 0 where nothing can be said, or nothing is left to spend.

    Looks at silence each know the time since the last one, not all since the stage began: they count as unrelated.
    """
    if not found.information:
        return 0.0
    told = [None if name == SILENCE else look.figures.get(TESTS, {}).get(name) for look in looks]
    known = [_information(one, number, found.information) for number, one in enumerate(told, 1)]
    return nominal_levels(spent, [*known, found.information])[-1]


def _information(told: object, number: int, now: float) -> float:
    """What look `number` knew of a measure. A look that knew more than is known now (it saw figures without spread) is
    taken for one that knew nothing: unrelated looks need the strictest levels.
    """
    value = told.get("information") if isinstance(told, dict) else None
    return float(value) if value and value < now else UNTOLD_INFORMATION * now * number
