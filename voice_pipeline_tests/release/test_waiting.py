"""What people are told a release waits for."""

from __future__ import annotations

import re

from voice_pipeline.release.waiting import waits_for
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.releases import release_views
from voice_pipeline_tests.release.test_controller import in_stage
from voice_pipeline_tests.release.world import World


def told(world: World, model: str) -> str:
    return waits_for(world.store, world.policy, release_views(world.store), world.view(model))


def test_a_share_that_nothing_can_reach_is_not_named_as_near(small: World) -> None:
    """The first minutes of a stage: nobody was heard, so the live model's share could be anything up to all."""
    model = in_stage(small, S.CANARY_5)
    assert "look 1 of" in told(small, model)
    seen = {told(small, model)}
    for _ in range(3):
        small.report(minutes=9)
        seen.add(told(small, model))
    limits = [float(limit) for text in seen for limit in re.findall(r"certainly above [\d.]+% of ([\d.]+)%", text)]
    assert limits, seen
    assert all(limit < 100 for limit in limits), limits
