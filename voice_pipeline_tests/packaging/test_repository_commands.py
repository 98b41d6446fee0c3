"""`voice-pipeline repository`, as people use it on two machines."""

from __future__ import annotations

import copy
import shutil
import sys
from pathlib import Path

import pytest

from voice_pipeline.cli import main
from voice_pipeline.packaging.bundle import publish
from voice_pipeline.packaging.metadata_chain import TARGETS
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
