"""What people are told a release waits for."""

from __future__ import annotations

import re

from voice_pipeline.release.waiting import waits_for
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.releases import release_views
from voice_pipeline_tests.release.test_controller import in_stage
from voice_pipeline_tests.release.world import Behaviour, World


def told(world: World, model: str) -> str:
    return waits_for(world.store, world.policy, release_views(world.store), world.view(model))


def test_what_shows_no_harm_is_not_named_as_near_to_it(small: World) -> None:
    model = in_stage(small, S.CANARY_5)
    assert "look 1 of" in told(small, model)
    for _ in range(3):
        small.report(minutes=9)
        assert "nearest to harm" not in told(small, model)


def test_the_test_that_lacks_least_is_named_with_what_it_shows_and_its_margin(small: World) -> None:
    model = in_stage(small, S.CANARY_25, Behaviour(crash=0.5))
    small.report(minutes=9)
    said = re.search(r"nearest to harm: crash, certainly \+([\d.]+)% of \+([\d.]+)%", told(small, model))
    assert said, told(small, model)
    assert 0 < float(said[1]) <= float(said[2]) == 100 * small.policy.guardrails.crash
