"""People by command: who comes in and goes, signed by whom; what is told of it; and a ledger that somebody changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete, update

from voice_pipeline.release.people.enrolment import key_file
from voice_pipeline.release.people.keys import write_private
from voice_pipeline.release.people.roll import enrolled
from voice_pipeline.schema.release import PersonEvent
from voice_pipeline.schema.release_policy import FILE_NAME
from voice_pipeline.store.checkpoint import CHECKPOINT, KEY
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import alerts, ledger
from voice_pipeline_tests.command_line import Shell, run
from voice_pipeline_tests.release.people.test_enrolment import pem
from voice_pipeline_tests.release.world import open_world
from voice_pipeline_tests.store.test_checkpoint import rows_of

Said = pytest.CaptureFixture[str]
MANAGER = ("--role", "release-manager")


def alerted(shell: Shell) -> list[str]:
    return [row["body"] for row in shell.store.database.rows(alerts.select())]


@pytest.fixture
def shell(tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, capsys: Said) -> Shell:
    return Shell(open_world(tmp_path / "home", clock), monkeypatch, capsys)


def test_people_come_in_by_signature_are_listed_and_go(shell: Shell, tmp_path: Path) -> None:
    assert shell.ok("people", "list") == "none\n"
    assert "would be the first and may not enrol others" in shell.refused("people", "add", "ann", "--role", "speech")
    told = shell.ok("people", "add", "ann", *MANAGER)
    assert "ann enrolled as release-manager as the first person, signed by nobody" in told
    assert str(key_file(shell.store, "ann")) in told
    _, row, warning = shell.ok("people", "list").splitlines()
    assert row.split()[:2] == ["ann", "release-manager"]
    assert row.endswith("here")
    assert warning.startswith("only ann may enrol and remove people")
    assert "somebody who is enrolled signs for them (--as NAME" in shell.refused("people", "add", "eve", *MANAGER)
    assert "'eve' is not enrolled" in shell.refused("people", "add", "eve", *MANAGER, "--as", "eve")
    assert "ann is enrolled already" in shell.refused("people", "add", "ann", "--role", "speech", "--as", "ann")
    nothing = str(tmp_path / "nothing.pem")
    told = shell.refused("people", "add", "bob", *MANAGER, "--as", "ann", "--public-key", nothing)
    assert f"--public-key {nothing} cannot be read (no such file or directory); name the PEM file" in told
    assert "bob enrolled as speech by ann" in shell.ok("people", "add", "bob", "--role", "speech", "--as", "ann")
    assert "bob (speech) may not" in shell.refused("people", "add", "eve", *MANAGER, "--as", "bob")
    assert "bob (speech) may not" in shell.refused("people", "remove", "ann", "--as", "bob")
    assert "ann is the last person who may enrol" in shell.refused("people", "remove", "ann", "--as", "ann")
    assert "bob removed by bob" in shell.ok("people", "remove", "bob", "--as", "bob")
    assert "'bob' is not enrolled" in shell.refused("people", "remove", "bob", "--as", "ann")
    assert "3 of 3 lines about people count" in shell.ok("verify")
    assert [body.split(" as ")[0].split(";")[0] for body in alerted(shell)] == [
        *("ann enrolled", "bob enrolled", "bob removed by bob")
    ]


def test_the_key_of_the_signer_is_named_by_option(shell: Shell, tmp_path: Path) -> None:
    shell.ok("people", "add", "ann", *MANAGER)
    away = key_file(shell.store, "ann").rename(tmp_path / "away.pem")
    command = ("people", "add", "bob", *MANAGER, "--as", "ann")
    assert "name theirs with --key" in shell.refused(*command)
    shell.ok(*command, "--key", str(away))
    assert "is not the key of ann" in shell.refused(
        *("people", "remove", "bob", "--as", "ann", "--key", str(key_file(shell.store, "bob")))
    )


@pytest.mark.parametrize(
    "command",
    [
        ("add", "eve", *MANAGER, "--as", "ann"),
        ("remove", "bob", "--as", "ann"),
        ("found-anew", "eve", *MANAGER, "--reason", "lost"),
        ("list",),
    ],
    ids=lambda command: command[0],
)
def test_on_a_ledger_that_does_not_verify_nothing_is_done_and_the_line_is_named(
    shell: Shell, command: tuple[str, ...]
) -> None:
    shell.ok("people", "add", "ann", *MANAGER)
    shell.ok("people", "add", "bob", *MANAGER, "--as", "ann")
    shell.store.ledger.append("export", "m-1", {}, "somebody")
    with shell.store.database.write() as connection:
        connection.execute(update(ledger).where(ledger.c.seq == 3).values(subject="m-2"))
    before, told = rows_of(shell.store), alerted(shell)
    assert "ledger line 3 was changed" in shell.refused("people", *command)
    assert rows_of(shell.store) == before
    assert alerted(shell) == told
    assert not key_file(shell.store, "eve").exists()


def test_list_says_where_the_key_is_that_counts(shell: Shell, tmp_path: Path) -> None:
    shell.ok("people", "add", "ann", *MANAGER)
    shell.ok("people", "add", "bob", "--role", "speech", "--as", "ann")
    shell.ok("people", "remove", "bob", "--as", "ann")
    (tmp_path / "bob.pub").write_bytes(pem(Ed25519PrivateKey.generate()))
    shell.ok("people", "add", "bob", "--role", "speech", "--as", "ann", "--public-key", str(tmp_path / "bob.pub"))
    place, ann = key_file(shell.store, "ann"), enrolled(shell.store)[0]
    place.rename(place.with_name(f"ann.{ann.fingerprint[:16]}.new"))  # where a kill right after the commit leaves it
    _, first, second, *_ = shell.ok("people", "list").splitlines()
    assert (first.split()[0], first.split()[-1]) == ("ann", "here")
    assert (second.split()[0], second.split()[-1]) == ("bob", "elsewhere"), "the file is the key of the former bob"


def test_a_line_number_that_comes_again_after_a_restore_is_told_again(shell: Shell) -> None:
    shell.ok("people", "add", "ann", *MANAGER)
    shell.store.ledger.append("export", "m-1", {}, "somebody")
    shell.ok("people", "add", "bob", "--role", "speech", "--as", "ann")
    with shell.store.database.write() as connection:  # alerts outlive it here; where they do not, all is told again
        connection.execute(delete(ledger).where(ledger.c.seq >= 2))
    (shell.store.settings.root / CHECKPOINT).unlink()
    (shell.store.settings.keys / KEY).unlink()
    Store.open(shell.store.settings, shell.store.clock).ledger.found_checkpoint("a person")
    shell.ok("people", "add", "dan", "--role", "speech", "--as", "ann")
    assert [line.seq for line in shell.store.ledger.lines(kind=PersonEvent.ENROLLED)] == [1, 3]
    assert [body.split()[0] for body in alerted(shell)] == ["ann", "bob", "dan"]


def test_a_founding_is_told_for_ever(shell: Shell) -> None:
    shell.ok("people", "add", "ann", *MANAGER)
    shell.ok("people", "add", "bob", "--role", "speech", "--as", "ann")
    key_file(shell.store, "ann").unlink()
    founding = ("people", "found-anew", "eve", *MANAGER, "--reason")
    assert "needs a reason" in shell.refused(*founding, " ")
    told = shell.ok(*founding, "the laptop was lost")
    assert "counts no more: ann, bob" in told
    assert str(key_file(shell.store, "eve")) in told
    shell.ok("people", "add", "cleo", *MANAGER, "--as", "eve")
    expected = "founded anew at 2026-11-02T09:00 (ledger line 3) with eve (release-manager), signed by nobody: the"
    for command in (("verify",), ("people", "list")):
        assert f"{expected} laptop was lost\n" in shell.ok(*command)
    assert any("founded anew" in body for body in alerted(shell))


def test_who_enrolled_himself_past_the_commands_is_found_by_verify_and_told_of(shell: Shell) -> None:
    shell.ok("people", "add", "ann", *MANAGER)
    (line,) = shell.store.ledger.lines(kind=PersonEvent.ENROLLED)
    shell.store.ledger.append(PersonEvent.ENROLLED, "mallory", line.payload, "ann")
    why = "ledger line 2 (person_enrolled mallory) counts for nothing: not signed by ann"
    assert run(shell.monkeypatch, "release", "verify") == 1
    assert why in shell.capsys.readouterr().err
    assert why in shell.ok("people", "list")
    shell.ok("people", "add", "bob", *MANAGER, "--as", "ann")
    assert why in alerted(shell)
    assert [person.name for person in enrolled(shell.store)] == ["ann", "bob"]


def test_who_was_enrolled_by_somebody_who_may_not_is_named_by_verify_and_list(shell: Shell) -> None:
    """The roll takes any signature that counts; whether the policy lets them, these two say."""
    shell.ok("people", "add", "ann", *MANAGER)
    shell.ok("people", "add", "bob", *MANAGER, "--as", "ann")
    assert "by policy/release.yaml as it is" not in shell.ok("verify") + shell.ok("people", "list")
    path = shell.store.settings.policy_dir / FILE_NAME
    policy = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(policy | {"people": ["bob"]}))
    told = "by policy/release.yaml as it is: bob enrolled as release-manager by ann (release-manager), who may not: "
    assert told in shell.ok("verify")
    assert told in shell.ok("people", "list")


def test_nobody_is_told_to_delete_a_key_that_is_not_that_of_who_was_removed(shell: Shell, tmp_path: Path) -> None:
    shell.ok("people", "add", "ann", *MANAGER)
    (tmp_path / "bob.pub").write_bytes(pem(Ed25519PrivateKey.generate()))
    shell.ok("people", "add", "bob", *MANAGER, "--as", "ann", "--public-key", str(tmp_path / "bob.pub"))
    write_private(key_file(shell.store, "bob"), Ed25519PrivateKey.generate())
    assert "delete it" not in shell.ok("people", "remove", "bob", "--as", "ann")


def test_a_role_that_the_policy_does_not_know_is_told_of(shell: Shell) -> None:
    shell.ok("people", "add", "ann", *MANAGER)
    told = shell.ok("people", "add", "bob", "--role", "release-manger", "--as", "ann")
    assert "policy/release.yaml names neither bob nor release-manger, so bob may do what anyone enrolled may: " in told
    assert "hold, reject, rollback; it names demo, release-manager" in told
    assert "names neither" not in shell.ok("people", "add", "demo", "--role", "speech", "--as", "ann")
    assert "names neither" not in shell.ok("people", "add", "cleo", *MANAGER, "--as", "ann")


def test_list_says_what_of_the_policy_nobody_may_do(shell: Shell) -> None:
    shell.ok("people", "add", "ann", *MANAGER)
    shell.ok("people", "add", "bob", *MANAGER, "--as", "ann")
    assert len(shell.ok("people", "list").splitlines()) == 3
    path = shell.store.settings.policy_dir / FILE_NAME
    policy = yaml.safe_load(path.read_text())
    policy["authority"] |= {"approve": ["boss"], "rollback": [], "resume": ["bob"]}
    policy["overrides"] |= {"size": ["chief"]}
    path.write_text(yaml.safe_dump(policy | {"people": ["chief", "bob"]}))
    *_, only, nobody = shell.ok("people", "list").splitlines()
    assert only.startswith("only bob may enrol and remove people")
    assert (
        nobody == "nobody who is enrolled may approve, rollback, override size; policy/release.yaml names boss, chief"
    )
    path.write_text(yaml.safe_dump(policy | {"people": ["chief"]}))
    assert "nobody who is enrolled may enrol or remove people; policy/release.yaml names chief" in shell.ok(
        "people", "list"
    )
