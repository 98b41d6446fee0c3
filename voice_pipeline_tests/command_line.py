"""The command line in this process, from the words on it to its exit code."""

from __future__ import annotations

import sys

import pytest

from voice_pipeline.cli import main


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["voice-pipeline", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)
