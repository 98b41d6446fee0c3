"""The command line in this process, from the words on it to its exit code."""

from __future__ import annotations

import sys

import pytest

from voice_pipeline.cli import main
from voice_pipeline.store.store import Store


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["voice-pipeline", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


class Shell:
    """`voice-pipeline release …` in the home of `store`, by its clock and its policy."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.store, self.monkeypatch, self.capsys = store, monkeypatch, capsys
        monkeypatch.setenv("VOICE_PIPELINE_HOME", str(store.settings.root))
        monkeypatch.setenv("VOICE_PIPELINE_POLICY_DIR", str(store.settings.policy_dir))
        monkeypatch.setattr("voice_pipeline.store.store.SystemClock", lambda: store.clock)

    def ok(self, *arguments: str) -> str:
        """What it prints."""
        assert run(self.monkeypatch, "release", *arguments) == 0, self.capsys.readouterr().err
        return self.capsys.readouterr().out

    def refused(self, *arguments: str) -> str:
        """The one line that says why, before anything else was printed."""
        assert run(self.monkeypatch, "release", *arguments) == 1
        told = self.capsys.readouterr()
        assert told.out == ""
        assert told.err.count("\n") == 1
        assert "Traceback" not in told.err
        return told.err
