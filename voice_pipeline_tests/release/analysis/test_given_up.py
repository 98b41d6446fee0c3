"""People whom a model drives away weigh in a look by what they did before they went."""

from __future__ import annotations

from dataclasses import replace

import pytest

from voice_pipeline.release.analysis.observations import History, StageTelemetry
from voice_pipeline.release.analysis.promotion import look_at
from voice_pipeline.release.analysis.stage import analyse
from voice_pipeline.schema.release import Outcome
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline_tests.release.analysis.test_stage import (
    CANDIDATE,
    CONTROL,
    POLICY,
    devices,
    dictation,
    stage,
)


def driven_away(every: int, minutes: int, count: int, back: bool = False) -> StageTelemetry:
    """The candidate crashes each time on one in so many devices, whose people try twice; `back`: which then go on with
    the live model. All others are alike.
    """
    lost = set(devices(CANDIDATE, count)[every // 2 :: every])
    arms = {
        arm: [
            dictation(device, minute + n / count, crashed=device in lost or (n + minute) % 97 == 0)
            for n, device in enumerate(devices(arm, count))
            for minute in range(1, minutes, 10)
            if device not in lost or minute <= 11
        ]
        for arm in (CANDIDATE, CONTROL)
    }
    told = stage(arms[CANDIDATE], arms[CONTROL], minutes, 0.5)
    if back:
        for device in lost:
            told.comparable.heard[CANDIDATE][device] += [told.comparable.now]
    return told


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("minutes", [125, 200])
@pytest.mark.parametrize(("every", "share", "outcome"), [(999, 0.0, Outcome.PASS), (20, 0.05, Outcome.INCONCLUSIVE)])
def test_who_gives_up_weighs_in_a_look_as_much_as_who_goes_on(
    every: int, share: float, outcome: Outcome, minutes: int, back: bool
) -> None:
    """By dictations alone, five in a hundred devices that crash each time are half a percent."""
    found = analyse(POLICY, S.CANARY_50, driven_away(every, minutes, 300, back), [])
    assert found.look
    assert found.outcome is outcome, found.reason
    crash = found.figures["noninferiority"]["crash"]
    assert crash["difference"] == pytest.approx(share, abs=0.01)


def test_a_device_counts_by_its_use_before_the_stage() -> None:
    """One busy device that crashes each time is worth as many that dictate little."""
    told = driven_away(999, 200, 100)
    busy, *others = devices(CANDIDATE, 100)
    counts = dict.fromkeys([*others, *devices(CONTROL, 100)], 1) | {busy: 99}
    before = [dictation(device, -60 - n) for device, count in counts.items() for n in range(count)]
    rows = [replace(row, crashed=row.device_id == busy) for row in told.comparable.arms[CANDIDATE]]
    arms = {CANDIDATE: rows, CONTROL: [replace(row, crashed=False) for row in told.comparable.arms[CONTROL]]}
    data = replace(told.comparable, arms=arms, before=History(before))
    tests = look_at(POLICY, POLICY.stage(S.CANARY_50), data, [])
    assert tests["crash"].difference == pytest.approx(99 / 198)
    of_others = [row for row in before if row.device_id != busy]
    unknown = replace(data, before=History(of_others))
    assert look_at(POLICY, POLICY.stage(S.CANARY_50), unknown, [])["crash"].difference == pytest.approx(1 / 100)
    newcomers = replace(data, before=History([]))
    assert look_at(POLICY, POLICY.stage(S.CANARY_50), newcomers, [])["crash"].difference == pytest.approx(1 / 100)
