"""Overrides: settle one failed gate of one bundle under one policy for a while, by somebody who may; nothing else."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import select

from voice_pipeline.release.candidate import awaiting_registration
from voice_pipeline.release.carrying_out import failing_gates, override_gate
from voice_pipeline.release.controller import advance, tick
from voice_pipeline.release.errors import (
    DecisionRefusedError,
    MissingEvidenceError,
    ReleaseRefusedError,
    UnknownReleaseError,
)
from voice_pipeline.release.gates.evidence import GATES, gate_problems, overridden_gates, stored_verdicts
from voice_pipeline.release.people.decisions import record_decision
from voice_pipeline.release.story.presentation import judged_gate
from voice_pipeline.schema.policy_file import PolicyError, load_policy
from voice_pipeline.schema.release import Decision, Outcome
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import Gates, ReleasePolicy
from voice_pipeline.store.releases import ReleaseView, live
from voice_pipeline.store.tables import verdicts
from voice_pipeline_tests.release.gates.test_evaluation import lab_report
from voice_pipeline_tests.release.world import World

NOISY = "noisy_wer_improvement"
WHY = "as good, and half the size"


@pytest.fixture
def rejected(small: World) -> ReleaseView:
    """A second model, no better than the live one: rejected by one gate."""
    small.bootstrap(small.model(0.2))
    small.report()
    view = small.register(small.model(0.2))
    assert view.state is S.REJECTED
    assert failing_gates(small.store, small.policy, view) == [NOISY]
    return view


def override(world: World, view: ReleaseView, gate: str = NOISY) -> list[str]:
    return override_gate(world.store, view.release_id, gate, world.person(), WHY)[1]


def problems(world: World, view: ReleaseView, policy: ReleasePolicy | None = None) -> list[str]:
    now = live(world.store)
    return gate_problems(world.store, policy or world.policy, view.bundle_digest, now.bundle_digest if now else "")


def test_a_rejected_release_comes_back_as_the_next_one_and_says_who_overrode_what(
    small: World, rejected: ReleaseView
) -> None:
    model = rejected.model_version
    assert awaiting_registration(small.store) == []
    assert override(small, rejected) == []
    assert [name for name, _ in awaiting_registration(small.store)] == [model]
    view = small.register(model)
    assert view.release_id == f"{model}-r2"
    assert view.bundle_digest == rejected.bundle_digest
    assert view.state is S.GATED
    assert f"gate {NOISY} overridden by demo: {WHY}" in view.transitions[-1].reason
    assert awaiting_registration(small.store) == []
    assert small.register(model) == view
    small.settle()
    shadow = small.view(model)
    assert shadow.state is S.SHADOW
    assert f"gate {NOISY} overridden by demo: {WHY}" in shadow.transitions[-1].reason
    assert shadow.transitions[-1].evidence["overridden"].keys() == {NOISY}
    assert [step.to_state for step in shadow.transitions] == [S.CANDIDATE, S.GATED, S.SHADOW]


def test_the_verdict_itself_stays_as_it_was(small: World, rejected: ReleaseView) -> None:
    override(small, rejected)
    small.register(rejected.model_version)
    found = stored_verdicts(small.store, rejected.bundle_digest, small.policy.digest)
    assert found[NOISY].outcome is Outcome.FAIL
    table = select(verdicts.c.verdict).where(
        verdicts.c.gate == NOISY, verdicts.c.bundle_digest == rejected.bundle_digest
    )
    assert small.store.database.scalar(table)["outcome"] == "fail"
    shown = judged_gate(small.store, small.policy, rejected.model_version, NOISY)
    assert shown.passed
    assert shown.metadata["outcome"] == "fail"


def test_no_stage_and_no_look_is_overridden(small: World, rejected: ReleaseView) -> None:
    model = rejected.model_version
    override(small, rejected)
    small.register(model)
    for too_far in (S.CANARY_5, S.CANARY_25, S.CANARY_50, S.PRODUCTION):
        with pytest.raises(ReleaseRefusedError):
            advance(small.store, small.policy, model, too_far)
    small.settle()
    assert small.view(model).state is S.SHADOW
    for too_far in (S.CANARY_5, S.CANARY_25, S.CANARY_50, S.PRODUCTION):
        with pytest.raises(ReleaseRefusedError, match=r"no fresh passing look|leads to|cannot go"):
            advance(small.store, small.policy, model, too_far)


def test_an_override_expires(small: World, rejected: ReleaseView) -> None:
    override(small, rejected)
    view = small.register(rejected.model_version)
    assert problems(small, view) == []
    small.clock.advance(timedelta(days=small.policy.gates.max_age_days, minutes=1))
    assert overridden_gates(small.store, small.policy, view.bundle_digest) == {}
    small.settle()  # the verdicts are too old as well: judged again, and nobody vouches now
    assert small.view(rejected.model_version).state is S.REJECTED
    assert awaiting_registration(small.store) == []


def test_an_override_holds_for_the_policy_that_it_was_signed_under(small: World, rejected: ReleaseView) -> None:
    override(small, rejected)
    other = small.policy.model_copy(update={"version": 2})
    assert overridden_gates(small.store, other, rejected.bundle_digest) == {}
    path = small.store.settings.policy_dir / "release.yaml"
    path.write_text(path.read_text().replace("version: 1", "version: 7"))
    assert small.register(rejected.model_version).state is S.REJECTED


def test_an_override_holds_for_its_bundle_alone(small: World, rejected: ReleaseView) -> None:
    other = small.register(small.model(0.2))
    assert other.state is S.REJECTED
    override(small, rejected)
    assert overridden_gates(small.store, small.policy, other.bundle_digest) == {}
    assert small.register(other.model_version).release_id == other.release_id
    assert failing_gates(small.store, small.policy, other) == [NOISY]


def test_an_override_holds_for_its_gate_alone(small: World) -> None:
    small.bootstrap(small.model(0.2))
    view = small.register(small.model(0.2, p95_ms=400.0))
    assert failing_gates(small.store, small.policy, view) == [NOISY, "latency"]
    assert override(small, view) == ["latency"]
    assert awaiting_registration(small.store) == []
    assert small.register(view.model_version).release_id == view.release_id
    assert override(small, view, "latency") == []
    again = small.register(view.model_version)
    assert again.state is S.GATED
    assert again.transitions[-1].reason.count("overridden by demo") == 2


def test_a_latency_that_was_overridden_is_stopped_by_what_the_lab_measures_later(small: World) -> None:
    small.bootstrap(small.model(0.2))
    small.report()
    model = small.model(0.1)
    lab_report(small, model, "phone_low", 120)
    view = small.register(model)
    assert failing_gates(small.store, small.policy, view) == ["latency"]
    small.clock.advance(timedelta(minutes=5))
    override(small, view, "latency")
    assert small.register(model).state is S.GATED
    small.settle()
    assert small.view(model).state is S.SHADOW
    small.clock.advance(timedelta(minutes=5))
    lab_report(small, model, "phone_low", 300)
    assert any("p95 300.0 ms" in problem for problem in problems(small, small.view(model)))


def test_the_override_of_somebody_who_was_removed_counts_no_more(small: World, rejected: ReleaseView) -> None:
    override(small, rejected)
    view = small.register(rejected.model_version)
    small.removes("demo")
    assert any(NOISY in problem for problem in problems(small, view))
    with pytest.raises(ReleaseRefusedError, match=NOISY):
        advance(small.store, small.policy, view.model_version, S.SHADOW)


def test_what_a_person_rejected_stays_rejected_whatever_was_overridden(small: World, rejected: ReleaseView) -> None:
    override(small, rejected)
    view = small.register(rejected.model_version)
    record_decision(small.store, view.release_id, Decision.REJECT, small.person("ann"), "no")
    tick(small.store, small.policy)
    assert small.view(view.model_version).state is S.REJECTED
    assert awaiting_registration(small.store) == []
    assert small.register(view.model_version).release_id == view.release_id


def test_only_what_was_judged_and_failed_can_be_overridden(small: World, rejected: ReleaseView) -> None:
    with pytest.raises(DecisionRefusedError, match=r"gate size of .* is pass"):
        override(small, rejected, "size")
    with pytest.raises(UnknownReleaseError):
        override_gate(small.store, "m-20261102-00000000-r9", NOISY, small.person(), WHY)
    path = small.store.settings.policy_dir / "release.yaml"
    path.write_text(path.read_text().replace("version: 1", "version: 7"))
    with pytest.raises(DecisionRefusedError, match="was never judged under this policy"):
        override(small, rejected)


def test_an_override_signed_before_the_gate_was_judged_settles_nothing(small: World) -> None:
    """Signed in advance, past `override_gate`, while the bundle cannot be judged."""
    small.bootstrap(small.model(0.2))
    model = small.model(0.2)
    content = small.change_bundle(model)
    with pytest.raises(MissingEvidenceError):
        small.register(model)
    record_decision(small.store, small.view(model).release_id, Decision.OVERRIDE, small.person(), WHY, NOISY)
    small.restore_bundle(model, content)
    view = small.register(model)
    assert view.state is S.REJECTED
    assert overridden_gates(small.store, small.policy, view.bundle_digest) == {}
    override(small, view)
    assert small.register(model).state is S.GATED


def test_the_integrity_of_a_bundle_is_never_overridden(small: World) -> None:
    small.bootstrap(small.model(0.2))
    model = small.model(0.1)
    (small.store.settings.bundles / f"{model}.sig").write_text("{}")
    view = small.register(model)
    assert failing_gates(small.store, small.policy, view) == ["bundle_integrity"]
    with pytest.raises(DecisionRefusedError, match="bundle_integrity is no gate that can be overridden"):
        override(small, view, "bundle_integrity")


def test_nobody_overrides_whom_the_policy_does_not_name(small: World, rejected: ReleaseView) -> None:
    with pytest.raises(DecisionRefusedError, match=rf"ann \(tester\) may not override gate {NOISY}"):
        override_gate(small.store, rejected.release_id, NOISY, small.person("ann"), WHY)
    with pytest.raises(
        DecisionRefusedError,
        match=r"int8_delta is no gate that can be overridden; policy/release.yaml lets: download, latency,",
    ):
        override(small, rejected, "int8_delta")


def test_missing_and_old_verdicts_are_not_overridden(small: World, rejected: ReleaseView) -> None:
    small.clock.advance(timedelta(days=1))
    override(small, rejected)
    other = small.policy.model_copy(update={"version": 2})
    assert len(problems(small, rejected, other)) == len(GATES)
    small.clock.advance(timedelta(days=small.policy.gates.max_age_days - 1, minutes=1))
    assert overridden_gates(small.store, small.policy, rejected.bundle_digest).keys() == {NOISY}
    assert any(problem.startswith(f"gate {NOISY} was judged at") for problem in problems(small, rejected))


def test_every_gate_but_the_integrity_has_rules_and_could_be_named() -> None:
    assert Gates.names() == set(GATES) - {"bundle_integrity"}


@pytest.mark.parametrize("gate", ["bundle_integrity", "canary_5", "shadow", "max_age_days", "latancy", "*", ""])
def test_a_policy_that_lets_people_override_what_is_no_gate_does_not_parse(
    small: World, tmp_path: Path, gate: str
) -> None:
    content: dict[str, Any] = yaml.safe_load((small.store.settings.policy_dir / "release.yaml").read_text())
    path = tmp_path / "release.yaml"
    path.write_text(yaml.safe_dump({**content, "overrides": {gate: ["demo"]}}))
    with pytest.raises(PolicyError, match="cannot be overridden; gates that can are"):
        load_policy(path, ReleasePolicy)


def test_to_override_everything_is_no_authority(small: World, tmp_path: Path) -> None:
    content: dict[str, Any] = yaml.safe_load((small.store.settings.policy_dir / "release.yaml").read_text())
    path = tmp_path / "release.yaml"
    path.write_text(yaml.safe_dump({**content, "authority": {**content["authority"], "override": ["demo"]}}))
    with pytest.raises(PolicyError, match="gate by gate"):
        load_policy(path, ReleasePolicy)
