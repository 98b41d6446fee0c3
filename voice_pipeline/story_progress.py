"""What a story prints while it goes on: each step and run, and in between, that it is alive."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner

from voice_pipeline.conductor import ExecutedRun
from voice_pipeline.settings import Settings

SILENCE_S = 30.0
"""Off a terminal, something is printed at least this often."""

TRAINING_S = 20.0
"""A progress file older than this is of a training that ended."""


@dataclass
class Progress:
    """Prints each finished run and what is going on right now: in place on a terminal, else as a line now and then."""

    console: Console
    settings: Settings
    started: float = field(default_factory=time.monotonic)
    printed: float = field(default_factory=time.monotonic)
    step: str = ""

    def begin(self, number: int, title: str) -> None:
        self.step = title
        self._print(f"[bold]{number}/9 {title}[/bold] [dim]({time.monotonic() - self.started:.0f} s)[/dim]")

    def say(self, text: str) -> None:
        self._print(f"    {text}")

    def run(self, run: ExecutedRun) -> None:
        where = f" \\[{run.partition}]" if run.partition else ""
        alarms = f" [yellow]alarms: {', '.join(run.failed_checks)}[/yellow]" if run.failed_checks else ""
        self._print(f"    {run.sensor} → {run.job}{where} [dim]{run.seconds:.1f} s[/dim]{alarms}")

    @contextmanager
    def alive(self, silence_s: float = SILENCE_S) -> Iterator[None]:
        """Show what goes on for as long as the context lasts; off a terminal, after `silence_s` without a line."""
        if self.console.is_terminal:
            with Live(self, console=self.console, refresh_per_second=4, transient=True):
                yield
            return
        over = Event()
        telling = Thread(target=self._tell, args=(over, silence_s), daemon=True)
        telling.start()
        try:
            yield
        finally:
            over.set()
            telling.join()

    def _tell(self, over: Event, silence_s: float) -> None:
        while not over.wait(max(0.0, self.printed + silence_s - time.monotonic())):
            if time.monotonic() - self.printed >= silence_s:
                self._print(f"    … {escape(self._now())}")

    def _print(self, text: str) -> None:
        self.printed = time.monotonic()
        self.console.print(text)

    def _now(self) -> str:
        logs = sorted(self.settings.models.glob("*/progress.jsonl"), key=lambda p: p.stat().st_mtime)
        training = ""
        if logs and time.time() - logs[-1].stat().st_mtime < TRAINING_S:
            training = f" · {logs[-1].parent.name}{_last_epoch(logs[-1])}"
        return f"{self.step} {time.monotonic() - self.started:.0f} s{training}"

    def __rich__(self) -> Spinner:
        return Spinner("dots", text=self._now())


def _last_epoch(log: Path) -> str:
    """What a training's progress file says last, in words; nothing while it holds no whole line."""
    whole = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    if not whole:
        return ""
    epoch = json.loads(whole[-1])
    return f": epoch {epoch['epoch']}, loss {epoch['loss']:.2f}, dev WER {epoch['dev_wer']:.0%}"
