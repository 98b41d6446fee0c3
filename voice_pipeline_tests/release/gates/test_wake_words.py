"""The wake-word gate in a release: what it lets through, whom it asks, and when it must be judged again."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import yaml

from voice_pipeline.evaluation.report import find_report, reported_artifact, store_report
from voice_pipeline.release.controller import advance
from voice_pipeline.release.errors import MissingEvidenceError, ReleaseRefusedError
from voice_pipeline.release.gates.evidence import OTHER_EVALUATION, gate_problems, stored_verdicts
from voice_pipeline.release.people.decisions import record_decision
from voice_pipeline.schema.evaluation_policy import FILE_NAME, EvaluationPolicy, WakeWords
from voice_pipeline.schema.release import Decision, Outcome
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import FILE_NAME as RELEASE_POLICY
from voice_pipeline.schema.training import WakeWordResult
from voice_pipeline.store.releases import live
from voice_pipeline_tests.release.gate_evidence import errors, judged, report, sound, wake_word, with_rule
from voice_pipeline_tests.release.world import World

ASKED = EvaluationPolicy(wake_words=WakeWords(phrases=("hey bob",)))
UNCOVERED = WakeWordResult(
    phrase="hey bob", calibration_clips=0, positives=0, negative_hours=0, not_covered="no dev clip says it"
)


def ask(world: World, policy: EvaluationPolicy) -> None:
    """Write `policy/evaluation.yaml`."""
    (world.store.settings.policy_dir / FILE_NAME).write_text(yaml.safe_dump(policy.model_dump(mode="json")))


def heard(world: World, model: str, policy: EvaluationPolicy, results: Iterable[WakeWordResult] = ()) -> str:
    """The model's reports as an evaluation under `policy` would have stored them."""
    for variant in ("int8", "float"):
        key = (model, variant, world.suite.digest)
        found = find_report(world.store, *key)
        artifact = reported_artifact(world.store, *key)
        assert found is not None
        assert artifact is not None
        change = {"policy_digest": policy.digest, "wake_words": tuple(results)}
        store_report(world.store, found.model_copy(update=change), artifact)
    return model


def spoken(world: World, results: Iterable[WakeWordResult], wer: float = 0.1) -> str:
    """Another model and the live one, both evaluated under `ASKED`."""
    champion = live(world.store)
    if champion is not None:
        heard(world, champion.model_version, ASKED, [wake_word("hey bob")])
    return heard(world, world.model(wer), ASKED, results)


@pytest.fixture
def asked(small: World) -> World:
    """A live model; from now on one wake word is configured."""
    small.bootstrap(small.model(0.2))
    ask(small, ASKED)
    return small


def champion_digest(world: World) -> str:
    champion = live(world.store)
    assert champion is not None
    return champion.bundle_digest


def test_without_a_wake_word_the_verdict_names_the_policy_that_says_so(small: World) -> None:
    small.bootstrap(small.model(0.2))
    view = small.register(small.model(0.1))
    verdict = stored_verdicts(small.store, view.bundle_digest, small.policy.digest)["wake_words"]
    assert verdict.outcome is Outcome.PASS
    assert verdict.detail == f"no wake word is configured (policy/evaluation.yaml {EvaluationPolicy().digest[:12]})"
    assert verdict.evidence.endswith(f"&policy={EvaluationPolicy().digest}")


def test_a_model_that_hears_its_wake_word_well_is_gated(asked: World) -> None:
    assert asked.register(spoken(asked, [wake_word("hey bob")])).state is S.GATED


@pytest.mark.parametrize(
    "result", [wake_word("hey bob", alarms=100, hours=10), wake_word("hey bob", found=60, positives=100)]
)
def test_certain_false_alarms_or_misses_reject_a_model(asked: World, result: WakeWordResult) -> None:
    view = asked.register(spoken(asked, [result]))
    assert view.state is S.REJECTED
    assert "gate wake_words is fail" in view.transitions[-1].reason


@pytest.mark.parametrize("result", [UNCOVERED, wake_word("hey bob", hours=0.1)])
def test_too_little_audio_waits_for_a_person_and_goes_on_when_one_signs(asked: World, result: WakeWordResult) -> None:
    model = spoken(asked, [result])
    view = asked.register(model)
    assert view.state is S.AWAITING_SIGN_OFF
    assert "too little evidence: wake_words: hey bob" in view.transitions[-1].reason
    asked.settle()
    assert asked.view(model).state is S.AWAITING_SIGN_OFF
    with pytest.raises(ReleaseRefusedError, match="nobody has signed it off"):
        advance(asked.store, asked.policy, model, S.SHADOW)
    record_decision(asked.store, view.release_id, Decision.APPROVE, asked.person(), "no wake word is sold yet")
    asked.settle()
    assert asked.view(model).state is S.SHADOW


def test_only_a_wake_word_that_the_policy_names_may_be_uncovered() -> None:
    gates = with_rule("wake_words", "may_be_uncovered", ["hey bob"])
    change = {"not_covered": "no clip without it", "false_alarms": None, "false_alarms_per_hour": None}
    missed = wake_word("hey bob", found=10, positives=100).model_copy(update=change)
    for results, outcome in (
        ([UNCOVERED, wake_word("computer")], Outcome.PASS),
        ([wake_word("hey bob"), UNCOVERED.model_copy(update={"phrase": "computer"})], Outcome.INCONCLUSIVE),
        ([UNCOVERED.model_copy(update={"not_covered": ""}), wake_word("computer")], Outcome.INCONCLUSIVE),
        ([wake_word("hey bob", hours=0.1), wake_word("computer")], Outcome.INCONCLUSIVE),
        ([wake_word("hey bob", alarms=100), wake_word("computer")], Outcome.FAIL),
        ([wake_word("hey bob").model_copy(update={"detection": None}), wake_word("computer")], Outcome.INCONCLUSIVE),
        ([wake_word("computer")], Outcome.INVALID),
        ([missed, wake_word("computer")], Outcome.FAIL),
    ):
        found = judged(sound(candidate=report(errors(1, 2), wake_words=tuple(results))), "wake_words", gates)
        assert found.outcome is outcome, found.detail


def test_verdicts_of_another_evaluation_policy_are_stale_and_judged_again(asked: World) -> None:
    model = spoken(asked, [wake_word("hey bob")])
    view = asked.register(model)
    against = champion_digest(asked)
    assert gate_problems(asked.store, asked.policy, view.bundle_digest, against) == []
    none = EvaluationPolicy()
    ask(asked, none)
    assert gate_problems(asked.store, asked.policy, view.bundle_digest, against) == [OTHER_EVALUATION]
    for one in (model, live(asked.store).model_version):  # type: ignore[union-attr]
        heard(asked, one, none)
    asked.settle()
    assert gate_problems(asked.store, asked.policy, view.bundle_digest, against) == []
    assert asked.view(model).state is S.SHADOW


def test_an_evaluation_policy_that_is_not_valid_stops_gates_and_steps(asked: World) -> None:
    model = spoken(asked, [wake_word("hey bob")])
    view = asked.register(model)
    other = spoken(asked, [wake_word("hey bob")], wer=0.05)
    (asked.store.settings.policy_dir / FILE_NAME).write_text("wake_words: {phrases: 3}")
    (problem,) = gate_problems(asked.store, asked.policy, view.bundle_digest, champion_digest(asked))
    assert problem.startswith("policy evaluation.yaml is not valid")
    with pytest.raises(ReleaseRefusedError, match=r"evaluation\.yaml is not valid"):
        advance(asked.store, asked.policy, model, S.SHADOW)
    with pytest.raises(MissingEvidenceError, match=r"evaluation\.yaml is not valid"):
        asked.register(other)


# --- a sign-off settles what the person was asked -------------------------------------------------------------------


def least_clips(world: World, count: int) -> None:
    """Change `policy/release.yaml`: with more clips than the suite has, coverage asks for a person."""
    path = world.store.settings.policy_dir / RELEASE_POLICY
    content = yaml.safe_load(path.read_text())
    content["gates"]["coverage"]["min_clips"] = count
    path.write_text(yaml.safe_dump(content))


def test_a_release_that_nobody_signed_is_stopped_when_a_gate_asks_later(small: World) -> None:
    """It awaited a sign-off once, went back to be judged again and passed: that was no sign-off."""
    small.bootstrap(small.model(0.2))
    small.report()
    least_clips(small, 10_000)
    model = small.model(0.1)
    assert small.register(model).state is S.AWAITING_SIGN_OFF
    least_clips(small, 40)
    small.settle()
    assert small.view(model).state is S.SHADOW
    small.report()
    small.settle()
    least_clips(small, 10_000)
    small.register(model)
    at = small.view(model).state
    assert any("gate coverage asks for a sign-off that never was" in note for note in small.settle().notes)
    assert small.view(model).state is at


def test_a_sign_off_for_one_gate_is_none_for_another_that_asks_later(asked: World) -> None:
    model = spoken(asked, [UNCOVERED])
    view = asked.register(model)
    record_decision(asked.store, view.release_id, Decision.APPROVE, asked.person(), "no wake word is sold yet")
    asked.report()
    asked.settle()
    assert asked.view(model).state is S.SHADOW
    least_clips(asked, 10_000)
    asked.register(model)
    asked.report()
    (note,) = [note for note in asked.settle().notes if "waits for" in note]
    assert "gate coverage asks for a sign-off that never was" in note
    assert f"roll it back (`voice-pipeline release rollback {view.release_id} --as NAME --reason WHY`)" in note
    assert "next model (`voice-pipeline training request`)" in note
    assert "wake_words asks" not in note
    assert asked.view(model).state is S.SHADOW
    record_decision(asked.store, view.release_id, Decision.ROLLBACK, asked.person(), "coverage was never signed off")
    assert asked.register(model).state is S.ROLLED_BACK, "what devices had to give back is not signed off anew"
