"""Is the candidate harming anybody? Asked at every tick, with one error budget for a whole rollout.

Every measure has an anytime-valid test by device (stats.sequential) in every stage; half of the budget
`guardrails.alpha` is split evenly over stages and measures (Bonferroni), the other half is that of the looks
(release.analysis.promotion). Harm needs no minimum time and no valid sample ratio. A device counts once a stage, when
it has dictated enough or has fallen quiet (`observations.spoken`): of both arms alike, so that nothing but the draw of
arms tells them apart, whoever comes first and whoever leaves.

Silence is looked for in window after window of `silence_minutes`: who was active before the stage, or heard in an
earlier window, and says nothing in this one. Window k has `1 / (k (k + 1))` of its measure's budget, which sums to one
over all windows: telemetry that is missing from the start and telemetry that falls away later count alike.

In a shadow release all devices answer with the live model; harm is then what running a second one does to them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from voice_pipeline.release.analysis.measures import MEASURES, SILENCE, measures
from voice_pipeline.release.analysis.observations import CANDIDATE, CONTROL, LatencyReference, StageData, spoken
from voice_pipeline.schema.release_policy import STAGES, Guardrails
from voice_pipeline.stats.sequential import HarmTest, harm_test

ARMS = (CANDIDATE, CONTROL)
NEWEST_WINDOWS = 24
"""So far back silence is looked for again at each tick; what no tick saw for longer is seen in the windows since."""


def error_of_a_test(rules: Guardrails) -> float:
    """The share of a rollout's error budget that one measure has in one stage."""
    return rules.alpha / 2 / (len(STAGES) * len(MEASURES))


def harm_tests(rules: Guardrails, data: StageData, reference: LatencyReference) -> dict[str, HarmTest]:
    """One test a measure; of silence the one of the window that shows most, if any is over."""
    alpha, share = error_of_a_test(rules), data.candidate_share
    known = spoken(data, rules.dictations_per_device, timedelta(minutes=rules.silence_minutes))
    arms = [one.arm == CANDIDATE for one in known]
    either = [one.device_id not in data.candidate_only for one in known]
    tests = {}
    for measure in measures(rules, reference):
        figures = [measure.of(one.dictations) for one in known]
        tests[measure.name] = harm_test(figures, arms, share, measure.margin, alpha, either)
    tests[SILENCE] = max(_silence_tests(rules, data, alpha), key=lambda test: (test.harmful, test.lower))
    return tests


def _silence_tests(rules: Guardrails, data: StageData, alpha: float) -> list[HarmTest]:
    """A test for each of the newest windows that are over; before the first is over, one of nothing."""
    window, share = timedelta(minutes=rules.silence_minutes), data.candidate_share
    tests = [harm_test([], [], share, rules.silence, alpha)]
    over = int((data.now - data.since) / window)
    for k in range(max(1, over - NEWEST_WINDOWS + 1), over + 1):
        start, end = data.since + (k - 1) * window, data.since + k * window
        silent = sorted(one for arm in ARMS for one in _silent(data, arm, start, end))
        figures, arms = [figure for _, figure, _ in silent], [arm == CANDIDATE for _, _, arm in silent]
        either = [device not in data.candidate_only for device, _, _ in silent]
        tests.append(harm_test(figures, arms, share, rules.silence, alpha * share_of_window(k), either))
    return tests


def share_of_window(k: int) -> float:
    """What window k = 1, 2, … has of the budget of its measure; all windows together have it once."""
    return 1 / (k * (k + 1))


def _silent(data: StageData, arm: str, start: datetime, end: datetime) -> Iterator[tuple[str, float, str]]:
    """(id, 1.0 if it is not heard in (start, end], else 0.0, arm) of each device known by `start`."""
    heard = data.heard[arm]
    for device in {device for device, times in heard.items() if times[0] <= start}.union(data.expected[arm]):
        yield device, float(not _between(heard.get(device, []), start, end)), arm


def _between(times: Sequence[datetime], start: datetime, end: datetime) -> bool:
    """Whether one of `times`, which are in order, lies in (start, end]."""
    return bisect_right(times, end) > bisect_right(times, start)


def harm_reason(tests: dict[str, HarmTest]) -> str:
    """Which tests show harm, with their figures; "" where none does."""
    parts = [
        f"{name} {test.candidate_mean:.1%} on {test.candidate_n} devices against {test.control_mean:.1%} "
        f"(certainly worse by more than the margin, {test.margin:.0%})"
        for name, test in tests.items()
        if test.harmful
    ]
    return f"harm: {'; '.join(parts)}" if parts else ""


def harm_figures(test: HarmTest) -> dict[str, Any]:
    """A test as plain JSON."""
    return {
        "candidate": test.candidate_mean,
        "control": test.control_mean,
        "lower": test.lower,
        "margin": test.margin,
        "devices": [test.candidate_n, test.control_n],
        "harmful": test.harmful,
    }
