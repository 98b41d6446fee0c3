"""Releases and models are found by each other's names, and what there is not is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import insert

from voice_pipeline.release.policy import LAST_GOOD
from voice_pipeline.release.story.charts import rollout_png
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import FILE_NAME
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.releases import find_release
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import models
from voice_pipeline_tests.command_line import Shell, run
from voice_pipeline_tests.release.conftest import SMALL_FLEET
from voice_pipeline_tests.release.test_controller import in_stage
from voice_pipeline_tests.release.world import World, add_suite, open_world

MODEL = "m-20261102-aaaaaaaa"


@pytest.fixture
def world(tmp_path: Path, clock: ManualClock) -> World:
    store = open_world(tmp_path / "home", clock, SMALL_FLEET)
    return World(store, clock, add_suite(store))


@pytest.fixture
def shell(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(world.store, monkeypatch, capsys)


@pytest.fixture
def released(store: Store) -> Store:
    """A model with two releases, the first rejected."""
    spec = {"code_commit": "c", "lock_digest": "l", "feature_schema_version": "clip_features_v1"}
    row = {"model_version": MODEL, "spec_digest": "d", "spec": spec, "dataset_version": "ds-1", "state": "trained"}
    with store.database.write() as connection:
        connection.execute(insert(models).values(**row, cause={}, planned_at=store.now().isoformat()))
    payload = {"model_version": MODEL, "bundle_digest": "b", "policy_digest": "p", "evidence": {}}
    for release_id, steps in (
        (f"{MODEL}-r1", [(None, "candidate", "registered"), ("candidate", "rejected", "worse in noise")]),
        (f"{MODEL}-r2", [(None, "candidate", "registered anew")]),
    ):
        for before, after, reason in steps:
            line = {**payload, "from": before, "to": after, "reason": reason}
            store.ledger.append("transition", release_id, line, actor="test")
    return store


def test_a_status_names_the_model_of_each_release(
    released: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "release", "status") == 0
    head, first, second, live = capsys.readouterr().out.splitlines()
    assert head.split() == ["release_id", "state", "exposure", "since", "model_version", "waits", "for"]
    assert first.split() == [f"{MODEL}-r1", "rejected", "0", "%", released.now().isoformat(), MODEL, "-"]
    assert second.startswith(f"{MODEL}-r2  candidate  0 %")
    assert second.endswith("verdicts of its gates")
    assert live == "live: no model; devices go on with what they have"


def test_the_history_of_a_model_is_that_of_all_its_releases(
    released: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "release", "history", f"{MODEL}-r2") == 0
    alone = capsys.readouterr().out
    assert alone.count("\n") == 1
    assert run(monkeypatch, "release", "history", MODEL) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if line.endswith(":")] == [f"{MODEL}-r1:", f"{MODEL}-r2:"]
    assert told[2].endswith("candidate → rejected  by test: worse in noise")
    assert told[4] + "\n" == alone


def test_the_lineage_of_a_release_is_that_of_its_model(
    released: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "lineage", f"{MODEL}-r1", "--json") == 0
    of_release = json.loads(capsys.readouterr().out)
    assert run(monkeypatch, "lineage", MODEL, "--json") == 0
    assert json.loads(capsys.readouterr().out) == of_release
    assert of_release["model_version"] == MODEL
    assert run(monkeypatch, "lineage", f"{MODEL}-r3") == 1
    assert f"{MODEL}-r3" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["release", "status"],
        ["capture", "quarantined"],
        ["dataset", "list"],
        ["training", "list"],
        ["monitoring", "incidents"],
        ["labeling", "status"],
    ],
)
def test_where_there_is_nothing_none_is_said(
    arguments: list[str], store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *arguments) == 0
    assert capsys.readouterr().out == "none\n"


def test_the_history_draws_the_picture_that_the_assets_show(
    released: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = tmp_path / "rollout.png"
    assert run(monkeypatch, "release", "history", f"{MODEL}-r1", "--chart", str(drawn)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{drawn} written"
    view = find_release(released, f"{MODEL}-r1")
    assert view is not None
    assert drawn.read_bytes() == rollout_png(view, ())


def test_a_picture_is_of_one_release(
    released: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = tmp_path / "rollout.png"
    assert run(monkeypatch, "release", "history", MODEL, "--chart", str(drawn)) == 1
    assert f"name one of {MODEL}-r1, {MODEL}-r2" in capsys.readouterr().err
    assert not drawn.exists()
    assert run(monkeypatch, "release", "history", f"{MODEL}-r1", "--chart", str(tmp_path / "none" / "a.png")) == 1


def break_policy(world: World) -> None:
    path = world.store.settings.policy_dir / FILE_NAME
    path.write_text(path.read_text() + "\nspeed: 11\n")


def told_of_the_policy(shell: Shell, *arguments: str) -> str:
    """What a command prints that works although the policy file is invalid, of which it tells in one line."""
    assert run(shell.monkeypatch, "release", *arguments) == 0
    told = shell.capsys.readouterr()
    assert told.err.startswith("voice-pipeline: policy release.yaml is not valid: speed is no key")
    assert told.err.endswith("the last good policy stands and nothing is promoted\n")
    assert told.err.count("\n") == 1
    return told.out


def test_a_status_is_there_while_the_policy_file_is_invalid(world: World, shell: Shell) -> None:
    world.register(world.model())
    good = shell.ok("status")
    assert "approve by demo or release-manager" in good
    break_policy(world)
    assert told_of_the_policy(shell, "status") == good


def test_what_asks_no_policy_looks_at_releases_without_one(world: World, shell: Shell) -> None:
    view = world.register(world.model())
    break_policy(world)
    for arguments in (("history", view.release_id), ("verify",)):
        assert shell.ok(*arguments)
    assert not (world.store.settings.root / LAST_GOOD).exists()


def test_without_a_good_policy_ever_a_status_says_what_to_mend(world: World, shell: Shell) -> None:
    world.register(world.model())
    break_policy(world)
    told = shell.refused("status")
    assert told.startswith("voice-pipeline: policy release.yaml is not valid: speed is no key")
    assert "mend it, there is no last good policy to go on with" in told


def test_people_decide_by_the_last_good_policy_and_are_told_so(world: World, shell: Shell) -> None:
    view = world.register(world.model())
    world.person()
    shell.ok("status")
    break_policy(world)
    because = ("--as", "demo", "--reason", "because")
    assert "approve" in told_of_the_policy(shell, "approve", view.release_id, *because)
    assert "rollout_sensor acts on it" in told_of_the_policy(shell, "reject", view.release_id, *because)
    assert "reject by demo: because" in told_of_the_policy(shell, "status")


def test_people_override_and_readmit_by_the_last_good_policy(world: World, shell: Shell) -> None:
    stopped = world.view(in_stage(world, S.SHADOW)).release_id
    rejected = world.register(world.model(0.1, p95_ms=900.0))
    assert rejected.state is S.REJECTED
    shell.ok("status")
    break_policy(world)
    because = ("--as", "demo", "--reason", "because")
    told_of_the_policy(shell, "rollback", stopped, *because)
    assert f"{stopped} readmitted; signed" in told_of_the_policy(shell, "readmit", stopped, *because)
    override = ("override", rejected.release_id, "--gate", "latency", *because)
    assert "gate latency of bundle" in told_of_the_policy(shell, *override)
