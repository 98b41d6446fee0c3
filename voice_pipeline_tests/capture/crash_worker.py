"""Run by the crash tests in a process of its own: accepts numbered events, or ingests a day, until it is killed.

Both print `ready` first; `accept FIRST LAST` then prints `ack N` after each acknowledged chunk of ten.
"""

from __future__ import annotations

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
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if verb == "ingest":
        ingest.ingest_day(store, arguments[0])
        return
    first, last = map(int, arguments)
    for start in range(first, last, CHUNK):
        answers = intake.accept_many(store, [(capture(n), tone(n)) for n in range(start, start + CHUNK)])
        assert len(answers) == CHUNK
        sys.stdout.write(f"ack {start}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
