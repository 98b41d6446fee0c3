"""People whom a model drives away weigh in a look by what they did before they went."""

from __future__ import annotations

import pytest

from voice_pipeline.release.analysis.observations import StageTelemetry
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


def driven_away(every: int, minutes: int, count: int) -> StageTelemetry:
    """The candidate crashes each time on one in so many devices, whose people try twice. All others are alike."""
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
    return stage(arms[CANDIDATE], arms[CONTROL], minutes, 0.5)


@pytest.mark.parametrize(("every", "share", "outcome"), [(999, 0.0, Outcome.PASS), (20, 0.05, Outcome.INCONCLUSIVE)])
def test_who_gives_up_weighs_in_a_look_as_much_as_who_goes_on(every: int, share: float, outcome: Outcome) -> None:
    """By dictations alone, five in a hundred devices that crash each time are half a percent."""
    telemetry = driven_away(every, 200, 200)
    found = analyse(POLICY, S.CANARY_50, telemetry, [])
    assert found.look
    assert found.outcome is outcome, found.reason
    crash = found.figures["noninferiority"]["crash"]
    assert crash["difference"] == pytest.approx(share, abs=0.01)
