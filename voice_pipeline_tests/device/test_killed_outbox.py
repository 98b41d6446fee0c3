"""An outbox killed in the middle of anything holds what was acknowledged, whole batches, in their order."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from pathlib import Path

import pytest

from voice_pipeline.device.outbox import Outbox
from voice_pipeline_tests.device import killed_outbox
from voice_pipeline_tests.device.killed_outbox import BATCH, letters

STEPS, MOMENTS, BATCHES = 40, 15, 12
CONTEXT = multiprocessing.get_context("forkserver")


def run(path: Path, die_at: int, batches: int, after: int | None = None, wait_s: float = 0.0) -> list[tuple[str, int]]:
    """What a process told before it died at a step, or `wait_s` after it had told `after` things."""
    mine, its = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=killed_outbox.work, args=(path, die_at, its, batches))
    process.start()
    its.close()
    told: list[tuple[str, int]] = []
    try:
        while True:
            told.append(mine.recv())
            if len(told) == after:
                time.sleep(wait_s)
                process.kill()
    except EOFError:
        pass
    process.join(30)
    assert process.exitcode in (0, -signal.SIGKILL)
    return told


def held(path: Path) -> list[str]:
    outbox = Outbox(path)
    found = [letter.event_id for letter in outbox.next("telemetry", 10_000)]
    assert outbox.waiting("telemetry") == len(found)
    assert outbox.lost("telemetry") == 0
    assert outbox.add("telemetry", letters(9_999)), "it goes on working"
    outbox.close()
    assert not list(path.parent.glob("damaged-*"))
    return found


def batches_in(found: list[str]) -> list[int]:
    """Batch numbers in order; a torn batch fails."""
    numbers = [int(event_id.split("-")[1]) for event_id in found]
    assert found == [letter.event_id for batch in dict.fromkeys(numbers) for letter in letters(batch)]
    return list(dict.fromkeys(numbers))


def judge(path: Path, told: list[tuple[str, int]]) -> None:
    """All that was added and not sent is there; what may be there besides is only what was being done."""
    added = [batch for what, batch in told if what == "added"]
    sent = {batch for what, batch in told if what == "sent"}
    there = batches_in(held(path))
    under_way = {len(added)}
    dropping = {added[-1] - 1} if added and added[-1] % 2 else set()
    assert there == sorted(there)
    assert set(added) - sent - dropping <= set(there) <= (set(added) | under_way) - sent


def test_killed_at_any_step_of_sqlite_it_holds_what_was_acknowledged_in_order(tmp_path: Path) -> None:
    full = run(tmp_path / "full" / "outbox.db", 0, BATCHES)
    total = full[-1][1]
    judge(tmp_path / "full" / "outbox.db", full[:-1])
    cut = set()
    for die_at in sorted(random.Random(4).sample(range(1, total), STEPS)):
        path = tmp_path / f"at-{die_at}" / "outbox.db"
        told = run(path, die_at, BATCHES)
        assert told == full[: len(told)]
        judge(path, told)
        cut.add(len(told))
    assert len(cut) > BATCHES, "it died in many different calls"


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_killed_at_any_moment_it_holds_what_was_acknowledged_in_order(tmp_path: Path, moment: int) -> None:
    rng = random.Random(moment)
    path = tmp_path / "outbox.db"
    told = run(path, 0, 10_000, after=rng.randrange(1, 60), wait_s=rng.uniform(0, 0.004))
    assert len(told) * BATCH
    judge(path, told)
