"""Run by the crash tests in a process of its own, until it is killed: it never ends before.

`accept FIRST` prints `ready`, accepts numbered events without end and prints `ack N` after each acknowledged chunk of
ten. `ingest DAY BLOBS` ingests a day and kills itself (SIGKILL) as it is about to write blob number BLOBS.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from voice_pipeline.capture import ingest, intake
from voice_pipeline.settings import load_settings
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline_tests.capture.clips import capture, tone

CHUNK = 10


def main(home: str, verb: str, *arguments: str) -> None:
    store = Store.open(load_settings(Path(home)), ManualClock(datetime(2026, 11, 2, 9, tzinfo=UTC)))
    intake.CHUNK = ingest.CHUNK = CHUNK
    if verb == "ingest":
        _die_at_blob(store, int(arguments[1]))
        ingest.ingest_day(store, arguments[0])
        return
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for start in itertools.count(int(arguments[0]), CHUNK):
        answers = intake.accept_many(store, [(capture(n), tone(n)) for n in range(start, start + CHUNK)])
        assert len(answers) == CHUNK
        sys.stdout.write(f"ack {start}\n")
        sys.stdout.flush()


def _die_at_blob(store: Store, last: int) -> None:
    put, written = store.blobs.put, itertools.count(1)

    def put_or_die(key: str, data: bytes) -> str:
        if next(written) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return put(key, data)

    store.blobs.put = put_or_die  # type: ignore[method-assign]


if __name__ == "__main__":
    main(*sys.argv[1:])
