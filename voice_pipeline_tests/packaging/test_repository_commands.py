"""`voice-pipeline repository`, as people use it on two machines."""

from __future__ import annotations

import copy
import shutil
import sys
from pathlib import Path

import pytest

from voice_pipeline.cli import main
from voice_pipeline.packaging.bundle import publish
from voice_pipeline.packaging.metadata_chain import ROOT, TARGETS
from voice_pipeline.store.store import Store
from voice_pipeline_tests.packaging.offline_publisher import on_offer, repository, stick
from voice_pipeline_tests.packaging.publisher import NEW, OLD, signed

__all__ = ["signed", "stick"]


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and what was printed, standard error behind."""
    monkeypatch.setattr(sys, "argv", ["voice-pipeline", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    told = capsys.readouterr()
    return int(stop.value.code or 0), told.out + told.err


def test_the_commands_of_two_machines(
    store: Store, stick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ("--home", str(store.settings.root))
    publish(store, NEW)
    code, told = run(monkeypatch, capsys, "repository", "status", *home)
    assert code == 0
    assert "targets 3 waits: 0 of 1 targets keys have signed" in told
    assert "2 of 3" in told
    carried = shutil.copy(repository(store).pending()[0].path, tmp_path / "carried.json")
    code, told = run(monkeypatch, capsys, "repository", "sign", str(carried), "--keys", str(stick))
    assert (code, NEW in told) == (0, True)
    code, told = run(monkeypatch, capsys, "repository", "accept", str(carried), *home)
    assert (code, f"{NEW} is published" in told) == (0, True)
    code, told = run(monkeypatch, capsys, "repository", "rotate", "targets", *home)
    assert (code, "--public-key" in told) == (1, True)
    run(monkeypatch, capsys, "repository", "key", "targets", "--keys", str(stick))
    arguments = ("repository", "rotate", "targets", "--public-key", str(stick / "targets-3.pub"))
    code, told = run(monkeypatch, capsys, *arguments, *home)
    assert (code, "root 2 waits" in told, "targets 4 waits" in told) == (0, True, True)
    code, told = run(monkeypatch, capsys, "repository", "sign", "--keys", str(stick), *home)
    assert (code, "nothing waits" in told) == (0, True)
    code, told = run(monkeypatch, capsys, "repository", "sign", *home)
    assert (code, "nothing waits" in told) == (1, True)
    assert on_offer(store) == {OLD, NEW}
    code, told = run(monkeypatch, capsys, "repository", "rotate", "snapshot", "--revoke", *home)
    assert (code, "--revoke is for signing" in told) == (1, True)
    run(monkeypatch, capsys, "repository", "rotate", "signing", *home)
    code, told = run(monkeypatch, capsys, "repository", "discard", "root", *home)
    assert (code, "pending root discarded" in told) == (0, True)


def test_what_a_thief_of_the_targets_key_offered_is_named_and_withdrawn_before_a_new_key_vouches_for_it(
    store: Store, stick: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ("--home", str(store.settings.root))
    shutil.copytree(stick, store.settings.keys / "offline")
    chain = repository(store).chain
    with chain.exclusive():
        targets = chain.current(TARGETS)
        evil = copy.deepcopy(targets.signed.targets[f"{OLD}.tar.xz"])
        evil.unrecognized_fields = {}
        other = copy.deepcopy(targets.signed.targets[f"{OLD}.tar.xz"])
        other.unrecognized_fields["custom"]["bundle_digest"] = "e" * 64
        targets.signed.targets |= {"evil": evil, f"{NEW}.tar.xz": other}
        chain.propose(targets, TARGETS)
        chain.settle()
    code, told = run(monkeypatch, capsys, "repository", "status", *home)
    assert (code, told.count("no bundle of the catalogue")) == (0, 2)
    code, told = run(monkeypatch, capsys, "repository", "rotate", "targets", *home)
    assert (code, f"repository withdraw evil {NEW}.tar.xz" in told) == (1, True)
    code, told = run(monkeypatch, capsys, "repository", "withdraw", "evil", NEW, *home)
    assert (code, "in force" in told) == (0, True)
    assert on_offer(store) == {OLD}
    code, told = run(monkeypatch, capsys, "repository", "withdraw", NEW, *home)
    assert (code, "is not on offer" in told) == (1, True)
    code, told = run(monkeypatch, capsys, "repository", "rotate", "targets", *home)
    assert (code, "in force" in told) == (0, True)


def test_a_file_that_is_not_there_is_told_in_a_line(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (("show",), ("sign", "--keys", str(tmp_path)), ("accept", "--home", str(store.settings.root))):
        code, told = run(monkeypatch, capsys, "repository", *command, str(tmp_path / "nowhere.json"))
        assert (code, "nowhere.json is no metadata" in told, "Traceback" in told) == (1, True, False)


def test_a_second_rotation_is_refused_while_another_waits(
    store: Store, stick: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ("--home", str(store.settings.root))
    code, told = run(monkeypatch, capsys, "repository", "rotate", "snapshot", *home)
    assert (code, "leaves with root 2, keep it till then" in told) == (0, True)
    code, told = run(monkeypatch, capsys, "repository", "rotate", "timestamp", *home)
    assert (code, "root 2 waits for another" in told, "timestamp was NOT rotated" in told) == (1, True, True)
    code, told = run(monkeypatch, capsys, "repository", "rotate", "snapshot", *home)
    assert (code, "root 2 waits" in told) == (0, True)


def test_signing_without_a_key_that_fits_fails_and_with_the_same_medium_again_adds_nothing(
    store: Store, stick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ("--home", str(store.settings.root))
    run(monkeypatch, capsys, "repository", "rotate", "snapshot", *home)
    sign = ("repository", "sign", *home, "--keys")
    (tmp_path / "empty").mkdir()
    code, told = run(monkeypatch, capsys, *sign, str(tmp_path / "empty"))
    assert (code, "no key of root that counts" in told) == (1, True)
    (tmp_path / "one").mkdir()
    shutil.copy(stick / "root-2.key", tmp_path / "one")
    for count in (1, 0):
        code, told = run(monkeypatch, capsys, *sign, str(tmp_path / "one"))
        assert (code, f"added {count} signatures" in told, "1 of 2 former root keys" in told) == (0, True, True)
    code, told = run(monkeypatch, capsys, *sign, str(stick))
    assert (code, "added 2 signatures" in told, "left: destroy it" in told) == (0, True, True)


def test_rotating_where_there_is_no_repository_founds_none(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for what in (["snapshot"], ["targets"], ["signing"], ["signing", "--revoke"]):
        code, told = run(monkeypatch, capsys, "repository", "rotate", *what, "--home", str(store.settings.root))
        assert (code, "first bundle that is published founds it" in " ".join(told.split())) == (1, True)
    assert not (store.settings.tuf / "repository").exists()
    assert not [path for name in ("online", "offline") for path in (store.settings.keys / name).glob("*")]


def test_the_key_that_left_is_named_with_its_file_and_stays_marked(
    store: Store, stick: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ("--home", str(store.settings.root))
    shutil.copytree(stick, store.settings.keys / "offline")
    ids = {file: keyid[:12] for keyid, file in repository(store).chain.keys.files(ROOT).items()}
    code, told = run(monkeypatch, capsys, "repository", "rotate", "root", *home)
    ids |= {file: keyid[:12] for keyid, file in repository(store).chain.keys.files(ROOT).items()}
    named = f"key {ids['root-1.key']} (root-1.key) left: destroy it; new {ids['root-4.key']} (root-4.key)"
    assert (code, named in told) == (0, True)
    code, told = run(monkeypatch, capsys, "repository", "status", *home)
    assert f"retired: root key {ids['root-1.key']} (root-1.key) counts no more: destroy it" in told
    assert told.count("retired:") == 1
    for file in ("root-2.key", "root-3.key", "root-4.key"):
        assert f"{ids[file]} ({file})" in told


def test_a_revocation_is_shown_and_a_discard_says_that_it_is_given_up(
    store: Store, stick: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ("--home", str(store.settings.root))
    run(monkeypatch, capsys, "repository", "rotate", "signing", "--revoke", *home)
    assert "being revoked" in run(monkeypatch, capsys, "repository", "status", *home)[1]
    code, told = run(monkeypatch, capsys, "repository", "discard", "root", *home)
    assert (code, "revocation of bundle keys discarded" in told, "pending root discarded" in told) == (0, True, True)
    told = run(monkeypatch, capsys, "repository", "status", *home)[1]
    assert ("being revoked" in told, "waits" in told) == (False, False)
