"""From decision to plan: idempotent, all or nothing, and bound to the spec's digest."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import select, update

from voice_pipeline.schema.alphabet import CASED_PUNCTUATED, LOWERCASE
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.decoding import DecoderKind, Decoding
from voice_pipeline.schema.monitoring import Action, IncidentKind
from voice_pipeline.schema.policy_file import load_policy
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.schema.retrain_policy import RetrainDecision, RetrainPolicy, RetrainTrigger
from voice_pipeline.schema.training import FORMER_HYPERPARAMETERS, LATER_HYPERPARAMETERS, TrainingSpec
from voice_pipeline.settings import PROJECT_ROOT, Settings
from voice_pipeline.speech.shape import PRESETS, preset
from voice_pipeline.speech.tokenizer import CharTokenizer
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.incidents import open_incident
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import dataset_versions, models, retrain_decisions
from voice_pipeline.training import planning
from voice_pipeline.training.checkpoints import write_checkpoint
from voice_pipeline.training.plan_errors import UnknownPlanError, UnknownProfileError
from voice_pipeline.training.planning import Plan, act, find_plan, plan, request_retrain
from voice_pipeline.training.provenance import code_commit, lock_digest
from voice_pipeline_tests.training.catalogue import add_dataset, add_noise, move
from voice_pipeline_tests.training.speech_made_of_tones import spec_of


def policy_of(store: Store) -> RetrainPolicy:
    """The project's policy, with the numbers that these tests count with."""
    numbers = {"min_new_clips": 20, "min_incident_clips": 5, "cooldown_hours": 12.0}
    return planning.read_policy(store).model_copy(update=numbers)


def go_live(store: Store, model: Plan, seconds: float | None = None) -> None:
    """The model is trained and released to everybody."""
    metrics = {"training_seconds": seconds} if seconds else None
    values = {"state": "trained", "trained_at": store.now().isoformat(), "metrics": metrics}
    with store.database.write() as connection:
        connection.execute(update(models).where(models.c.model_version == model.model_version).values(**values))
    tokenizer = CharTokenizer(model.spec.alphabet)
    config = preset(model.spec.hyperparameters.preset.value, tokenizer.size)
    write_checkpoint(store.settings.models / model.model_version, model.spec, config, tokenizer, {})
    move(store, model.model_version, ReleaseState.CANDIDATE, ReleaseState.PRODUCTION)


def test_the_first_dataset_is_planned_once_from_scratch(store: Store) -> None:
    policy = policy_of(store)
    version = add_dataset(store, 1, clips=30)
    (first,) = act(store, policy)
    assert first.spec.dataset_version == version
    assert first.spec.parent_model_version is None
    assert first.spec.hyperparameters == policy.profiles["full"].scratch
    assert first.model_version == f"m-20261102-{first.spec.digest[:8]}"
    assert act(store, policy) == [first]
    assert len(store.database.rows(select(models))) == 1


def test_a_later_dataset_starts_warm_from_the_live_model(store: Store, clock: ManualClock) -> None:
    policy = policy_of(store)
    add_dataset(store, 1, clips=30)
    (first,) = act(store, policy)
    go_live(store, first)
    clock.advance(timedelta(days=1))
    add_dataset(store, 2, clips=25)
    (second,) = act(store, policy)
    assert second.spec.parent_model_version == first.model_version
    assert second.spec.hyperparameters == policy.profiles["full"].warm_start
    assert second.model_version.startswith("m-20261103-")


def test_a_live_model_of_another_shape_is_no_parent(store: Store, clock: ManualClock) -> None:
    add_dataset(store, 1, clips=30)
    quick = Store.open(Settings(home=store.settings.root, training_profile="quick"), clock)
    (first,) = act(quick, policy_of(quick))
    go_live(store, first)
    request_retrain(store, "bigger", actor="ann")
    (second,) = act(store, policy_of(store))
    assert second.spec.parent_model_version is None
    assert second.spec.hyperparameters == policy_of(store).profiles["full"].scratch


@pytest.mark.parametrize("changed", [{"channels": 100}, {"kernels": (3, 5)}, {"planes": (8, 8)}])
def test_a_live_model_of_the_same_preset_as_it_was_before_is_no_parent(
    store: Store, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    """Once, its name was enough, and every later model failed in training for want of a parent that fits."""
    add_dataset(store, 1, clips=30)
    (first,) = act(store, policy_of(store))
    go_live(store, first)
    name = first.spec.hyperparameters.preset.value
    monkeypatch.setitem(PRESETS, name, replace(PRESETS[name], **changed))
    request_retrain(store, "new shape", actor="ann")
    (second,) = act(store, policy_of(store))
    assert second.spec.parent_model_version is None
    assert second.spec.hyperparameters == policy_of(store).profiles["full"].scratch


@pytest.mark.parametrize(("name", "content"), [("config.json", "{"), ("config.json", "[]"), ("tokenizer.json", "{}")])
def test_a_live_model_whose_checkpoint_cannot_be_read_is_no_parent(store: Store, name: str, content: str) -> None:
    add_dataset(store, 1, clips=30)
    (first,) = act(store, policy_of(store))
    go_live(store, first)
    (store.settings.models / first.model_version / "checkpoint" / name).write_text(content)
    request_retrain(store, "refresh", actor="ann")
    (second,) = act(store, policy_of(store))
    assert second.spec.parent_model_version is None


def test_the_alphabet_is_that_of_the_dataset_and_another_alphabets_model_is_no_parent(store: Store) -> None:
    add_dataset(store, 1, clips=30)
    (first,) = act(store, policy_of(store))
    assert first.spec.alphabet == LOWERCASE
    go_live(store, first)
    version = add_dataset(store, 2, clips=30)
    with store.database.write() as connection:
        told = update(dataset_versions).where(dataset_versions.c.dataset_version == version)
        connection.execute(told.values(validation={"alphabet": CASED_PUNCTUATED}))
    request_retrain(store, "case and marks", actor="ann")
    second = act(store, policy_of(store))[-1]
    assert (second.spec.dataset_version, second.spec.alphabet) == (version, CASED_PUNCTUATED)
    assert second.spec.parent_model_version is None


def test_planning_loads_no_network() -> None:
    code = "import sys, voice_pipeline.training.planning; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_clips_that_are_new_count(store: Store, clock: ManualClock) -> None:
    policy = policy_of(store)
    add_dataset(store, 1, clips=30)
    (first,) = act(store, policy)
    go_live(store, first)
    clock.advance(timedelta(days=1))
    add_dataset(store, 2, clips=policy.min_new_clips - 1)
    assert act(store, policy) == []
    reasons = [row["reason"] for row in store.database.rows(select(retrain_decisions)) if not row["approved"]]
    assert reasons == ["19 new clips to learn from, 20 are needed"]


def test_an_incident_is_named_by_the_plan_that_answers_it(store: Store) -> None:
    policy = policy_of(store)
    add_dataset(store, 1, clips=30)
    (first,) = act(store, policy)
    go_live(store, first)
    incident = open_incident(
        store, IncidentKind.INPUT_DRIFT, {"day": "2026-11-02"}, None, Action.RETRAIN, "new voices", {}
    )
    assert act(store, policy) == []  # nothing labelled yet
    add_dataset(store, 2, clips=8, cause=f"incident:{incident.incident_id}")
    (second,) = act(store, policy)
    assert second.cause.incidents == (incident.incident_id,)
    rows = {
        row["cause"]["trigger"]: row
        for row in store.database.rows(select(retrain_decisions))
        if row["model_version"] == second.model_version
    }
    assert set(rows) == {"dataset_version", "incident"}
    assert rows["incident"]["approved"]
    go_live(store, second)
    assert act(store, policy) == []


def test_an_incident_that_a_model_answered_hurries_no_later_dataset(store: Store) -> None:
    policy = policy_of(store)
    add_dataset(store, 1, clips=30)
    (first,) = act(store, policy)
    go_live(store, first)
    incident = open_incident(
        store, IncidentKind.INPUT_DRIFT, {"day": "2026-11-02"}, None, Action.RETRAIN, "new voices", {}
    )
    add_dataset(store, 2, clips=8, cause=f"incident:{incident.incident_id}")
    (second,) = act(store, policy)
    go_live(store, second)
    add_dataset(store, 3, clips=8, cause=f"incident:{incident.incident_id}")
    assert act(store, policy) == []


def test_each_request_gives_another_model_on_the_same_data(store: Store) -> None:
    policy = policy_of(store)
    add_dataset(store, 1, clips=30)
    act(store, policy)
    request_retrain(store, "refresh", actor="ann")
    request_retrain(store, "refresh", actor="ann")
    plans = act(store, policy)
    assert len({p.model_version for p in plans}) == 3
    assert [p.spec.seed for p in plans] == [policy.seed, policy.seed + 1, policy.seed + 2]
    assert {p.cause.trigger for p in plans} == {RetrainTrigger.DATASET_VERSION, RetrainTrigger.MANUAL}
    assert act(store, policy) == plans


def test_a_crash_between_plan_and_decision_leaves_neither(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of(store)
    add_dataset(store, 1, clips=30)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(planning, "upsert", crash)
        with pytest.raises(KeyboardInterrupt):
            act(store, policy)
    assert store.database.rows(select(models)) == []
    assert len(act(store, policy)) == 1


def test_the_same_spec_on_another_day_is_the_same_model(store: Store, clock: ManualClock) -> None:
    policy = policy_of(store)
    add_dataset(store, 1, clips=30)
    (first,) = act(store, policy)
    clock.advance(timedelta(days=3))
    again = RetrainDecision(cause=first.cause, approved=True, reason="again", at=store.now())
    assert plan(store, policy, again).model_version == first.model_version


def test_training_minutes_of_this_month_are_counted(store: Store, clock: ManualClock) -> None:
    policy = policy_of(store).model_copy(update={"monthly_training_minutes": 15.0})
    add_dataset(store, 1, clips=30)
    (first,) = act(store, policy)
    go_live(store, first, seconds=600)
    request_retrain(store, "refresh", actor="ann")
    assert act(store, policy) == []
    clock.advance(timedelta(days=31))
    assert len(act(store, policy)) == 1


def test_a_changed_spec_is_refused(store: Store) -> None:
    add_dataset(store, 1, clips=30)
    (first,) = act(store, policy_of(store))
    tampered = {**first.spec.model_dump(mode="json"), "seed": 99}
    with store.database.write() as connection:
        connection.execute(update(models).values(spec=tampered))
    with pytest.raises(UnknownPlanError, match="was changed after it was planned"):
        find_plan(store, first.model_version)


def test_an_unknown_model_and_an_unknown_profile_are_named(store: Store, clock: ManualClock) -> None:
    with pytest.raises(UnknownPlanError, match="m-20260101-00000000 was never planned"):
        find_plan(store, "m-20260101-00000000")
    add_dataset(store, 1, clips=30)
    odd = Store.open(Settings(home=store.settings.root, training_profile="gigantic"), clock)
    with pytest.raises(UnknownProfileError, match="gigantic"):
        act(odd, policy_of(odd))


def test_a_refusal_is_written_once_not_at_every_look(store: Store, clock: ManualClock) -> None:
    policy = policy_of(store)
    add_dataset(store, 1, clips=3)
    act(store, policy)
    written = store.database.row(select(retrain_decisions))
    clock.advance(timedelta(minutes=1))
    act(store, policy)
    assert store.database.row(select(retrain_decisions)) == written


def test_the_commit_is_that_of_this_checkout_and_dirt_shows(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "requirements.lock").write_text("a==1\n")
    git("add", ".")
    git("commit", "-qm", "one")
    head = git("rev-parse", "HEAD")
    assert code_commit(tmp_path) == head
    assert lock_digest(tmp_path) != lock_digest(tmp_path / "elsewhere") == "unknown"
    (tmp_path / "requirements.lock").write_text("a==2\n")
    assert re.fullmatch(rf"{head}-dirty-[0-9a-f]{{12}}", code_commit(tmp_path))
    (tmp_path / "inside").mkdir()
    assert re.fullmatch(r"unknown-[0-9a-f]{12}", code_commit(tmp_path / "inside"))


def test_code_that_no_commit_names_is_told_apart_by_its_sources(tmp_path: Path) -> None:
    source = tmp_path / "voice_pipeline" / "speech" / "shape.py"
    source.parent.mkdir(parents=True)
    seen = []
    for content in ("a = 1\n", "a = 2\n"):
        source.write_text(content)
        seen.append(code_commit(tmp_path))
    source.write_text("a = 1\n")
    assert code_commit(tmp_path) == seen[0] != seen[1]
    source.rename(source.with_name("form.py"))
    assert code_commit(tmp_path) not in seen


def test_another_noise_or_room_is_another_model(store: Store) -> None:
    policy = policy_of(store)
    add_dataset(store, 1, clips=30)
    (first,) = act(store, policy)
    add_noise(store, "0b")
    again = RetrainDecision(cause=first.cause, approved=True, reason="again", at=store.now())
    second = plan(store, policy, again)
    assert second.model_version != first.model_version
    add_noise(store, "room", kind="rir")  # rooms are put around speech
    assert plan(store, policy, again).model_version not in (first.model_version, second.model_version)


def test_a_spec_from_before_noises_and_decoders_were_kept_has_the_digest_it_had() -> None:
    spec = spec_of()
    older = spec.model_dump(mode="json", exclude={"noise_digest", "decoding"})
    for name in LATER_HYPERPARAMETERS:
        del older["hyperparameters"][name]
    assert spec.digest == digest(older)
    assert spec.model_copy(update={"noise_digest": "0" * 64}).digest != spec.digest


def test_a_spec_from_when_views_were_compared_is_read_if_it_did_not_compare_them() -> None:
    spec = spec_of()
    older = spec.model_dump(mode="json")
    older["hyperparameters"] |= FORMER_HYPERPARAMETERS
    assert TrainingSpec.model_validate(older) == spec
    older["hyperparameters"]["consistency"] = 0.3
    with pytest.raises(ValidationError, match="consistency"):
        TrainingSpec.model_validate(older)


def test_another_search_is_another_model_but_greedy_is_as_before() -> None:
    spec = spec_of()
    greedy = Decoding(order=2, beam_width=99)  # what greedy does not use does not name it
    assert spec.model_copy(update={"decoding": greedy}).digest == spec.digest
    searches = [Decoding(kind=DecoderKind.BEAM), Decoding(kind=DecoderKind.BEAM, order=2)]
    assert len({spec.digest, *(spec.model_copy(update={"decoding": search}).digest for search in searches)}) == 3


def test_the_plan_takes_the_decoding_of_its_profile(store: Store) -> None:
    add_dataset(store, 1, clips=30)
    searching = Decoding(kind=DecoderKind.BEAM, beam_width=8)
    policy = policy_of(store)
    profiles = {name: profile.model_copy(update={"decoding": searching}) for name, profile in policy.profiles.items()}
    (planned,) = act(store, policy.model_copy(update={"profiles": profiles}))
    assert planned.spec.decoding == searching
    assert find_plan(store, planned.model_version) == planned


@pytest.mark.parametrize(
    "decoding", [{"kind": "magic"}, {"kind": "beam", "width": 8}, {"kind": "beam", "order": 9}, "beam"]
)
def test_a_policy_that_asks_for_no_known_decoding_is_refused(decoding: object) -> None:
    profile = {"scratch": {}, "warm_start": {}, "decoding": decoding}
    with pytest.raises(ValidationError):
        RetrainPolicy.model_validate({"profiles": {"quick": profile}})


def test_only_full_work_pays_for_a_search() -> None:
    profiles = load_policy(PROJECT_ROOT / "policy" / "retrain.yaml", RetrainPolicy).profiles
    kinds = {name: profile.decoding.kind for name, profile in profiles.items()}
    assert kinds == {"quick": DecoderKind.GREEDY, "story": DecoderKind.GREEDY, "full": DecoderKind.BEAM}
