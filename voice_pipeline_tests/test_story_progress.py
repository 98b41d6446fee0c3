"""Off a terminal a long step is told now and then; a story that comes to no model says what was missing."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

from rich.console import Console

from voice_pipeline.settings import load_settings
from voice_pipeline.story_progress import Progress


def told_during(progress: Progress, silence_s: float, enough: int) -> str:
    """What is printed while nothing happens, once there are `enough` lines of it."""
    file = progress.console.file
    assert isinstance(file, io.StringIO)
    with progress.alive(silence_s):
        until = time.monotonic() + 20
        while file.getvalue().count("…") < enough and time.monotonic() < until:
            time.sleep(0.005)
    return file.getvalue()


def test_off_a_terminal_a_long_step_is_told_with_the_training_that_goes_on(tmp_path: Path) -> None:
    settings = load_settings(tmp_path)
    log = settings.models / "m-1" / "progress.jsonl"
    log.parent.mkdir(parents=True)
    whole = '{"epoch": 1, "loss": 3.02, "dev_wer": 0.9}\n{"epoch": 2, "loss": 1.996, "dev_wer": 0.823}\n'
    log.write_text(whole + '{"epoch": 3, "lo')  # being written
    progress = Progress(Console(file=io.StringIO(), width=200), settings)
    progress.begin(2, "Train")
    lines = told_during(progress, silence_s=0.01, enough=2).splitlines()
    assert len(lines) >= 3
    assert lines[0].startswith("2/9 Train")
    assert all(
        line.startswith("    … Train ") and line.endswith("m-1: epoch 2, loss 2.00, dev WER 82%") for line in lines[1:3]
    )


class Waits(Event):
    """Time passes only as `happenings` say, one a wait; then it is over."""

    def __init__(self, *happenings: Callable[[], None]) -> None:
        super().__init__()
        self.happenings = iter(happenings)

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        assert 0 <= timeout <= 30
        happening = next(self.happenings, None)
        if happening is not None:
            happening()
        return happening is None


def test_a_line_comes_only_after_a_silence(tmp_path: Path) -> None:
    file = io.StringIO()
    progress = Progress(Console(file=file, width=200), load_settings(tmp_path))

    def silence() -> None:
        progress.printed -= 31

    progress._tell(Waits(lambda: progress.say("done"), silence, lambda: None), silence_s=30)
    assert [line.split()[0] for line in file.getvalue().splitlines()] == ["done", "…"]
