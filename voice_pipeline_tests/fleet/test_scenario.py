"""Scenarios: who is there, what they allow, and that a channel is fixed by its seed."""

from __future__ import annotations

import numpy as np
import pytest

from voice_pipeline.fleet.errors import FleetError
from voice_pipeline.fleet.scenario import Fault, Faults, populations, telephone_in_noise
from voice_pipeline.schema.consent import Scope
from voice_pipeline_tests.fleet.field import clips

SPEECH = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)


def test_only_test_speakers_of_the_home_corpus_dictate_and_they_are_never_captured() -> None:
    home = [*clips("home", 4, 2, split="train"), *clips("tested", 2, 2)]
    made = populations(home, clips("new", 6, 2), seed=1)
    assert {person.name for person in made.home.people} == {"tested-0", "tested-1"}
    assert all(not person.scopes for person in made.home.people)


def test_a_third_of_the_new_people_allow_evaluation_but_not_training() -> None:
    people = populations(clips("home", 2, 1), clips("new", 6, 2), seed=1).new.people
    assert sum(Scope.TRAIN not in person.scopes for person in people) == 2
    assert all({Scope.TRANSCRIBE_REVIEW, Scope.EVALUATE} <= person.scopes for person in people)


def test_a_clip_sounds_the_same_every_time_and_other_clips_otherwise() -> None:
    first = telephone_in_noise("a", 1, [])(SPEECH)
    np.testing.assert_array_equal(first, telephone_in_noise("a", 1, [])(SPEECH))
    assert not np.array_equal(first, telephone_in_noise("b", 1, [])(SPEECH))
    assert not np.array_equal(first, telephone_in_noise("a", 2, [])(SPEECH))


def test_short_noise_is_repeated_under_a_long_clip() -> None:
    heard = telephone_in_noise("a", 1, [SPEECH[:1000]])(SPEECH)
    assert heard.shape == SPEECH.shape
    assert np.isfinite(heard).all()


def test_a_fault_concerns_its_model_and_stays_hidden_in_shadow_unless_told() -> None:
    faults = Faults()
    faults.inject(Fault("m-1", latency_factor=8))
    assert faults.of("m-1", shadow=False) is not None
    assert faults.of("m-1", shadow=True) is None
    assert faults.of("m-2", shadow=False) is None
    faults.inject(Fault("m-1", in_shadow=True))
    assert faults.of("m-1", shadow=True) is not None


@pytest.mark.parametrize(("home", "new"), [(0, 1), (1, 0)])
def test_a_scenario_without_people_is_refused(home: int, new: int) -> None:
    with pytest.raises(FleetError, match="at least one"):
        populations(clips("home", 2, home), clips("new", 2, new), seed=1)
