"""How a bundle becomes a release, and comes back: by a policy only what gates rejected, asked for again each hour."""

from __future__ import annotations

from datetime import timedelta

import pytest

from voice_pipeline.release.candidate import awaiting_registration
from voice_pipeline.release.controller import tick
from voice_pipeline.release.errors import MissingEvidenceError
from voice_pipeline.release.people.decisions import record_decision
from voice_pipeline.schema.release import Decision
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.releases import release_views
from voice_pipeline_tests.release.world import World


def edit_policy(world: World) -> None:
    """Another policy that gates no better: its digest alone is new."""
    path = world.store.settings.policy_dir / "release.yaml"
    path.write_text(path.read_text().replace("version: 1", "version: 7"))
    assert world.policy.version == 7


def test_what_gates_rejected_comes_back_under_another_policy(small: World) -> None:
    small.bootstrap(small.model(0.2))
    rejected = small.register(small.model(0.2))
    assert rejected.state is S.REJECTED
    assert small.register(rejected.model_version) == rejected
    edit_policy(small)
    again = small.register(rejected.model_version)
    assert again.release_id == f"{rejected.model_version}-r2"
    assert again.transitions[-1].policy_digest == small.policy.digest


def test_what_a_person_rejected_comes_back_under_no_policy(small: World) -> None:
    small.bootstrap(small.model(0.2))
    view = small.register(small.model(0.1))
    assert view.state is S.GATED, "good enough: unattended it would reach devices"
    record_decision(small.store, view.release_id, Decision.REJECT, small.person("ann"), "not this one")
    tick(small.store, small.policy)
    rejected = small.view(view.model_version)
    assert rejected.state is S.REJECTED
    edit_policy(small)
    assert awaiting_registration(small.store) == []
    assert small.register(view.model_version) == rejected
    small.settle()
    assert [found.release_id for found in release_views(small.store)].count(view.release_id) == 1
    assert small.view(view.model_version) == rejected


def test_a_registration_that_died_is_asked_for_again_in_the_next_hour(small: World) -> None:
    """Dagster runs each key once, however the run ended."""
    model = small.model(0.2)
    small.clock.advance(timedelta(minutes=10))
    ((name, key),) = awaiting_registration(small.store)
    assert name == model
    small.clock.advance(timedelta(minutes=49))
    assert awaiting_registration(small.store) == [(model, key)], "once an hour, not at every tick"
    small.clock.advance(timedelta(minutes=1))
    ((name, later),) = awaiting_registration(small.store)
    assert (name, later != key) == (model, True)


def test_missing_evidence_is_asked_for_again_in_the_next_hour(small: World) -> None:
    small.bootstrap(small.model(0.2))
    model = small.model(0.1)
    small.change_bundle(model)
    with pytest.raises(MissingEvidenceError):
        small.register(model)
    ((_, key),) = awaiting_registration(small.store)
    small.clock.advance(timedelta(hours=1))
    ((_, later),) = awaiting_registration(small.store)
    assert later != key
