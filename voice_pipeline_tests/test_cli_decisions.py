"""Decisions by command: who signs, what is in force at once, what waits for the sensor, and what is refused and why."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import update

from voice_pipeline.release.controller import tick
from voice_pipeline.release.people.enrolment import key_file
from voice_pipeline.schema.release import Decision
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.settings import PROJECT_ROOT
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.releases import live
from voice_pipeline.store.tables import ledger
from voice_pipeline_tests.command_line import Shell, run
from voice_pipeline_tests.release.conftest import SMALL_FLEET
from voice_pipeline_tests.release.test_controller import in_stage
from voice_pipeline_tests.release.world import World, add_suite, open_world

Said = pytest.CaptureFixture[str]


class WorldShell(Shell):
    """The command line in the home of a world."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch, capsys: Said) -> None:
        super().__init__(world.store, monkeypatch, capsys)
        self.world = world

    def decide(self, decision: str, release: str, name: str = "demo") -> tuple[str, ...]:
        return (decision, release, "--as", name, "--reason", "because")


@pytest.fixture
def shell(tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, capsys: Said) -> WorldShell:
    store = open_world(tmp_path / "home", clock, SMALL_FLEET)
    return WorldShell(World(store, clock, add_suite(store), devices=20), monkeypatch, capsys)


def test_a_first_model_is_signed_off_taken_back_and_all_of_it_verifies(shell: WorldShell) -> None:
    world = shell.world
    model = world.model(0.2)
    first = world.register(model).release_id
    assert "approve by demo or release-manager: bootstrap" in shell.ok("status")
    assert "'demo' is not enrolled" in shell.refused(*shell.decide("approve", first))
    enrolled = shell.ok("people", "add", "demo", "--role", "release-manager")
    assert str(key_file(world.store, "demo")) in enrolled
    told = shell.ok(*shell.decide("approve", first))
    assert "rollout_sensor acts on it at its next tick: within 30 s while `voice-pipeline dev` runs" in told
    assert world.view(model).state is S.AWAITING_SIGN_OFF
    assert "approve by demo: because; the run of production_release" in shell.ok("status")
    assert "waits for rollout_sensor" in shell.refused(*shell.decide("approve", first))
    world.settle()
    assert world.view(model).state is S.PRODUCTION
    assert shell.ok("status").endswith(f"live: {first}\n")
    assert "--leave-none" in shell.refused(*shell.decide("rollback", "live"))
    assert "--leave-none" in shell.refused(*shell.decide("rollback", first))
    assert world.view(model).state is S.PRODUCTION
    told = shell.ok(*shell.decide("rollback", "live"), "--leave-none")
    assert "in force now" in told
    assert f"{first} is rolled_back; live: no model" in told
    assert "live: no model" in shell.ok("status").splitlines()[-1]
    assert world.view(model).state is S.ROLLED_BACK
    assert "2 of 2 decisions are signed; 1 of 1 lines about people count" in shell.ok("verify")
    assert "no release is live" in shell.refused(*shell.decide("rollback", "live"))
    assert "rollback by demo: because" in shell.ok("history", first)


def test_a_history_on_a_ledger_that_is_broken_elsewhere_is_shown_with_a_warning(shell: WorldShell) -> None:
    first = shell.world.register(shell.world.model(0.2)).release_id
    whole = shell.ok("history", first)
    assert run(shell.monkeypatch, "release", "history", first) == 0
    assert "do not rely" not in shell.capsys.readouterr().err
    line = shell.store.ledger.append("export", "m-1", {}, "somebody")
    with shell.store.database.write() as connection:
        connection.execute(update(ledger).where(ledger.c.seq == line.seq).values(subject="m-2"))
    assert run(shell.monkeypatch, "release", "history", first) == 0
    told = shell.capsys.readouterr()
    assert told.out == whole
    assert f"do not rely on this history: ledger line {line.seq} was changed" in told.err


def test_what_waits_of_somebody_falls_with_them_and_their_key_is_named(shell: WorldShell) -> None:
    first = shell.world.register(shell.world.model(0.2)).release_id
    for name in ("ann", "bob"):
        shell.ok("people", "add", name, "--role", "release-manager", *(("--as", "ann") if name == "bob" else ()))
    shell.ok(*shell.decide("approve", first, "bob"))
    told = shell.ok("people", "remove", "bob", "--as", "ann")
    assert f"waited, and counts no more: {first}: approve by bob: because\n" in told
    key = key_file(shell.world.store, "bob")
    assert f"their private key is still there, and signs nothing that counts: {key}; delete it\n" in told
    shell.world.settle()
    assert shell.world.view(first.removesuffix("-r1")).state is S.AWAITING_SIGN_OFF


def test_a_rollout_is_held_at_once_and_says_who_may_resume_it(shell: WorldShell) -> None:
    world = shell.world
    world.bootstrap(world.model(0.2))
    world.report()
    model = world.model(0.1)
    release = world.register(model).release_id
    world.settle()
    assert "look 1 of" in shell.ok("status")
    assert "in force now" in shell.ok(*shell.decide("hold", release))
    assert world.view(model).state is S.HELD
    assert "resume by demo or release-manager, or rollback: hold by demo: because" in shell.ok("status")
    assert f"{release} is held" in shell.refused(*shell.decide("hold", release))
    assert "rollout_sensor acts on it" in shell.ok(*shell.decide("resume", release))
    tick(world.store, world.policy)
    assert world.view(model).state is S.SHADOW
    assert f"name one of its releases: {release}" in shell.refused(*shell.decide("rollback", model))
    shell.ok(*shell.decide("rollback", release))
    assert live(world.store) is not None
    assert "nothing, unless readmitted by demo or release-manager" in shell.ok("status")
    assert "at its next tick" in shell.ok(*shell.decide("readmit", release))
    assert "signed_bundle_sensor, to register it again: readmit by demo: because" in shell.ok("status")
    assert "readmitted  by demo: because" in shell.ok("history", release)
    assert world.register(model).release_id == f"{model}-r2"
    assert f"came back already, as {model}-r2" in shell.refused(*shell.decide("readmit", release))


def test_the_live_one_has_a_history_and_a_chart_a_place(shell: WorldShell, tmp_path: Path) -> None:
    assert "no release is live" in shell.refused("history", "live")
    view = shell.world.bootstrap(shell.world.model(0.2))
    assert shell.ok("history", "live") == shell.ok("history", view.release_id)
    nowhere = tmp_path / "nowhere" / "a.png"
    assert run(shell.monkeypatch, "release", "history", "live", "--chart", str(nowhere)) == 1
    assert f"there is no folder {nowhere.parent}" in shell.capsys.readouterr().err


def test_a_rejected_release_is_overridden_gate_by_gate(shell: WorldShell) -> None:
    world = shell.world
    world.bootstrap(world.model(0.2))
    model = world.model(0.2, p95_ms=400.0)
    release = world.register(model).release_id
    assert "nothing, unless overridden: noisy_wer_improvement by" in shell.ok("status")
    command = ("override", release, "--as", "demo", "--reason", "because", "--gate")
    assert "it still fails: latency" in shell.ok(*command, "noisy_wer_improvement")
    assert "bundle_integrity" in shell.refused(*command, "bundle_integrity")
    assert f"gate size of {release} is pass" in shell.refused(*command, "size")
    assert "next tick" in shell.ok(*command, "latency")
    assert "gate latency overridden  by demo: because" in shell.ok("history", release)
    assert world.register(model).release_id == f"{model}-r2"
    assert "overridden by demo: because" in shell.ok("history", f"{model}-r2")


def test_a_key_elsewhere_is_named_by_option_or_environment(shell: WorldShell, tmp_path: Path) -> None:
    release = shell.world.register(shell.world.model(0.2)).release_id
    shell.ok("people", "add", "demo", "--role", "release-manager")
    shell.ok("people", "add", "ann", "--role", "tester", "--as", "demo")
    away = key_file(shell.world.store, "demo").rename(tmp_path / "away.pem")
    approve = shell.decide("approve", release)
    assert "name theirs with --key" in shell.refused(*approve)
    assert "is not the key of demo" in shell.refused(*approve, "--key", str(key_file(shell.world.store, "ann")))
    shell.ok(*approve, "--key", str(away))
    shell.monkeypatch.setenv("VOICE_PIPELINE_PERSON_KEY", str(away))
    shell.ok(*shell.decide("reject", release))


@pytest.mark.parametrize("release", ["", " ", "m-20261102-00000000-r1", "../..", "-r1\nx", "живой", "x" * 5000])
@pytest.mark.parametrize("decision", ["approve", "rollback"])
def test_a_malformed_release_is_refused_in_one_line(shell: WorldShell, decision: str, release: str) -> None:
    shell.world.person()
    arguments = (decision, "--as", "demo", "--reason", "because", "--", release)
    assert "does not exist; `voice-pipeline release status` lists all" in shell.refused(*arguments)
    assert shell.world.store.ledger.lines(kind="decision") == []


def test_a_decision_that_nobody_signed_is_found_by_verify(shell: WorldShell) -> None:
    release = shell.world.register(shell.world.model(0.2)).release_id
    shell.world.store.ledger.append("decision", release, {"decision_id": "dec-x", "decision": "approve"}, "demo")
    assert run(shell.monkeypatch, "release", "verify") == 1
    assert "demo was not enrolled then" in shell.capsys.readouterr().err


def commands_of(page: str, title: str) -> list[list[str]]:
    """The lines of the shell block of a section, as words behind `voice-pipeline release`."""
    text = (PROJECT_ROOT / page).read_text()
    block = text.split(f"\n## {title}\n")[1].split("\n## ")[0].split("```sh\n")[1].split("```")[0]
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert all(line[0].endswith("voice-pipeline") and line[1] == "release" for line in lines)
    return [line[2:] for line in lines]


def test_the_commands_of_the_readme_run_as_they_stand_there(shell: WorldShell) -> None:
    world = shell.world
    world.devices = 60
    release = world.view(in_stage(world, S.PRODUCTION)).release_id
    for words in commands_of("README.md", "Decide about a release"):
        shell.ok(*(release if word == "RELEASE" else word for word in words))
    now = live(world.store)
    assert now is not None
    assert now.release_id != release
    assert now.transitions[-1].reason.endswith(": rollback by demo: complaints")


def test_the_commands_of_the_runbook_run_as_they_stand_there(shell: WorldShell, tmp_path: Path) -> None:
    shell.monkeypatch.chdir(tmp_path)
    key = Ed25519PrivateKey.generate().public_key()
    Path("bob.pub").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    told = [shell.ok(*words) for words in commands_of("docs/runbook.md", "Releases: who decides, and how")]
    assert [row.split()[0] for row in told[3].splitlines()] == ["name", "ann", "bob", "cleo"]


def test_the_runbook_tells_of_every_decision() -> None:
    text = (PROJECT_ROOT / "docs" / "runbook.md").read_text()
    for decision in Decision:
        assert f"| `voice-pipeline release {decision} RELEASE" in text
