"""Killed anywhere (SIGKILL), the intake loses nothing it acknowledged, doubles nothing, leaves nothing half-written."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import func, select

from voice_pipeline.capture.ingest import ingest_day
from voice_pipeline.capture.intake import accept_many
from voice_pipeline.speech.audio import decode
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clips, inbox
from voice_pipeline_tests.capture.clips import DAY, capture, tone
from voice_pipeline_tests.capture.crash_worker import CHUNK


def _worker(store: Store, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "voice_pipeline_tests.capture.crash_worker", str(store.settings.root), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def _kill(worker: subprocess.Popen[str]) -> list[str]:
    """Kill the worker; the lines that it printed and that were not read yet."""
    assert worker.stdout is not None
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    return worker.stdout.read().split("\n")[:-1]  # what follows the last line end is a line cut short


def _wait_for(worker: subprocess.Popen[str], line: str) -> None:
    assert worker.stdout is not None
    for printed in worker.stdout:
        if printed.strip() == line:
            return
    raise AssertionError(f"the worker ended before it printed {line!r}")


def _assert_whole(store: Store, count: int) -> None:
    """`count` clips, each with the samples of its event, no inbox line left over, no blob that nothing names."""
    rows = store.database.rows(select(clips).order_by(clips.c.clip_id))
    expected = {capture(n).clip_id: tone(n) for n in range(count)}
    assert [row["clip_id"] for row in rows] == sorted(expected)
    for row in rows:
        kept = store.vault.decrypt(row["subject_token"], store.blobs.get(row["blob_key"]), row["clip_id"])
        assert np.array_equal(decode(kept), decode(expected[row["clip_id"]]))
    assert store.database.scalar(select(func.count()).select_from(inbox)) == count
    assert store.database.scalar(select(func.count()).where(inbox.c.state != "catalogued")) == 0
    blobs = store.settings.root / "blobs"
    assert {path.name for path in blobs.rglob("*") if path.is_file() and not path.name.endswith(".tmp")} == set(
        expected
    )


@pytest.mark.parametrize("delay", [0.0, 0.013, 0.05, 0.11])
def test_a_kill_while_accepting_loses_no_acknowledged_clip(store: Store, delay: float) -> None:
    worker = _worker(store, "accept", "0")
    _wait_for(worker, "ack 0")
    time.sleep(delay)
    printed = _kill(worker)
    acknowledged = CHUNK + CHUNK * sum(line.startswith("ack") for line in printed)
    present = {row["clip_id"] for row in store.database.rows(select(inbox.c.clip_id))}
    assert {capture(n).clip_id for n in range(acknowledged)} <= present
    assert len(present) % CHUNK == 0, "a chunk is accepted whole or not at all"
    again = acknowledged + 2 * CHUNK
    answers = accept_many(store, [(capture(n), tone(n)) for n in range(again)])
    assert sum(answer.duplicate for answer in answers) == len(present)
    assert ingest_day(store, DAY).quarantined == {}
    _assert_whole(store, again)


@pytest.mark.parametrize("blob", [1, 15, 40])
def test_a_kill_while_ingesting_changes_nothing_in_the_end(store: Store, blob: int) -> None:
    total = 120
    accept_many(store, [(capture(n), tone(n)) for n in range(total)])
    assert _worker(store, "ingest", DAY, str(blob)).wait() == -signal.SIGKILL
    done = store.database.scalar(select(func.count()).select_from(clips))
    assert done == (blob - 1) // CHUNK * CHUNK, "the chunks before the kill are catalogued, its own is not"
    assert done == store.database.scalar(select(func.count()).where(inbox.c.state == "catalogued"))
    assert ingest_day(store, DAY).catalogued == total - done
    _assert_whole(store, total)
