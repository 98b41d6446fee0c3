"""A policy file that became invalid stops promotion, and nothing that protects people."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from voice_pipeline.release.controller import tick_by_standing_policy
from voice_pipeline.release.people.decisions import record_decision
from voice_pipeline.release.policy import LAST_GOOD, standing_policy
from voice_pipeline.schema.policy_file import PolicyError
from voice_pipeline.schema.release import Decision
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import FILE_NAME
from voice_pipeline.store.store import Store
from voice_pipeline_tests.release.test_controller import in_stage
from voice_pipeline_tests.release.world import Behaviour, World


def broken(world: World) -> Path:
    """One key too many; a good tick was made before."""
    tick_by_standing_policy(world.store)
    path = world.store.settings.policy_dir / FILE_NAME
    path.write_text(path.read_text() + "\nspeed: 11\n")
    return path


@pytest.mark.parametrize(
    ("section", "key", "value"), [("telemetry", "sample_ratio_p", 1e-05), ("promotion", "alpha", 5e-05)]
)
def test_the_last_good_policy_is_read_back_as_it_was(small: World, section: str, key: str, value: float) -> None:
    """YAML takes 1e-05, as JSON writes it, for a word."""
    path = small.store.settings.policy_dir / FILE_NAME
    content = yaml.safe_load(path.read_text())
    content[section][key] = value
    path.write_text(json.dumps(content).replace("e-05", ".0e-05"))
    good = standing_policy(small.store)
    assert getattr(getattr(good.policy, section), key) == value
    path.write_text("speed: 11\n")
    standing = standing_policy(Store.open(small.store.settings, small.clock))
    assert standing.policy == good.policy
    assert "speed" in standing.problem


def test_harm_is_undone_and_people_are_told_while_the_policy_is_invalid(world: World) -> None:
    model = in_stage(world, S.CANARY_25, Behaviour(correction=0.9, crash=0.9))
    broken(world)
    world.report(minutes=5)
    result = tick_by_standing_policy(Store.open(world.store.settings, world.clock))
    assert world.view(model).state is S.ROLLED_BACK
    assert result.rolled_back == (world.view(model).release_id,)
    (told,) = world.alerts("the release policy is not valid")
    assert "speed" in told


def test_a_person_may_stop_a_release_while_the_policy_is_invalid(small: World) -> None:
    model = in_stage(small, S.CANARY_25)
    broken(small)
    person = small.person("ann")
    record_decision(small.store, small.view(model).release_id, Decision.ROLLBACK, person, "complaints")
    assert small.view(model).state is S.ROLLED_BACK


def test_nothing_is_promoted_while_the_policy_is_invalid_and_it_goes_on_afterwards(small: World) -> None:
    model = in_stage(small, S.SHADOW)
    path = broken(small)
    good = path.read_text().replace("speed: 11", "")
    small.report()
    result = tick_by_standing_policy(small.store)
    assert result.due == ()
    assert "speed" in result.notes[0]
    path.write_text(good)
    assert [step.to_state for step in tick_by_standing_policy(small.store).due] == [S.CANARY_5]
    assert small.view(model).state is S.SHADOW


def test_without_a_good_policy_there_is_none(small: World) -> None:
    path = broken(small)
    assert standing_policy(small.store).problem
    (small.store.settings.root / LAST_GOOD).unlink()
    with pytest.raises(PolicyError, match=r"speed.*mend it, there is no last good policy"):
        standing_policy(small.store)
    path.write_text("version: [")
    with pytest.raises(PolicyError, match=r"release\.yaml"):
        standing_policy(small.store)


def test_a_last_good_policy_that_holds_no_longer_is_told_beside_the_file(small: World) -> None:
    """As after an upgrade that asks for more than it says."""
    broken(small)
    (small.store.settings.root / LAST_GOOD).write_text('{"version": 1}')
    with pytest.raises(PolicyError, match=r"speed.*mend it.*last_good_release_policy\.yaml.*is missing"):
        standing_policy(small.store)
