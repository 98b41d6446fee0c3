"""The catalogue keeps what it committed, refuses what is not its own, and lets one writer decide at a time."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import func, select

from voice_pipeline.store import tables
from voice_pipeline.store.database import Database, insert_new, upsert
from voice_pipeline.store.errors import DamagedDatabaseError
from voice_pipeline.store.tables import alerts, consents, meta


def open_catalogue(path: Path) -> Database:
    return Database(f"sqlite:///{path}", tables.catalogue)


def consent(number: int, notice: str = "1") -> dict[str, object]:
    return {
        "consent_id": f"c{number}",
        "subject_token": "s",
        "scopes": [],
        "granted_at": "2026-01-01",
        "notice_version": notice,
    }


def test_a_file_that_is_no_database_is_refused_in_one_line_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(DamagedDatabaseError, match="cannot be read") as error:
        open_catalogue(path)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == b"this is no database" * 100


def test_a_database_cut_in_half_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.db"
    database = open_catalogue(path)
    with database.write() as connection:
        insert_new(connection, consents, [consent(n) for n in range(500)])
    database.engine.dispose()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedDatabaseError):
        open_catalogue(path).rows(select(consents))


def test_another_schema_version_is_refused_not_guessed_at(tmp_path: Path) -> None:
    database = open_catalogue(tmp_path / "catalogue.db")
    with database.write() as connection:
        connection.execute(meta.update().values(value="999"))
    with pytest.raises(DamagedDatabaseError, match="schema version 999"):
        open_catalogue(tmp_path / "catalogue.db")


def test_a_failed_transaction_leaves_no_trace(tmp_path: Path) -> None:
    database = open_catalogue(tmp_path / "catalogue.db")

    def give_up_half_way() -> None:
        with database.write() as connection:
            insert_new(connection, consents, [consent(1)])
            raise RuntimeError("the caller gave up")

    with pytest.raises(RuntimeError):
        give_up_half_way()
    assert database.rows(select(consents)) == []


def test_a_scrub_says_whether_a_reader_kept_it_from_emptying_the_log(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.db"
    database = open_catalogue(path)
    impatient = database.engine.raw_connection()
    impatient.cursor().execute("PRAGMA busy_timeout=50")
    impatient.close()
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM consents").fetchone()
    with database.write() as connection:
        insert_new(connection, consents, [consent(1)])
    assert not database.scrub()
    reader.close()
    assert database.scrub()
    assert (tmp_path / "catalogue.db-wal").stat().st_size == 0


def test_inserting_again_changes_nothing_and_upsert_replaces(tmp_path: Path) -> None:
    database = open_catalogue(tmp_path / "catalogue.db")
    with database.write() as connection:
        assert insert_new(connection, consents, [consent(1), consent(2)]) == 2
        assert insert_new(connection, consents, [consent(1, notice="2"), consent(3)]) == 1
    assert database.scalar(select(consents.c.notice_version).where(consents.c.consent_id == "c1")) == "1"
    with database.write() as connection:
        upsert(connection, consents, consent(1, notice="2"))
    assert database.scalar(select(consents.c.notice_version).where(consents.c.consent_id == "c1")) == "2"


def test_a_check_and_the_write_after_it_are_one_step_for_ten_writers(tmp_path: Path) -> None:
    """Read-then-write from ten threads loses no increment: the write lock is taken before the read."""
    database = open_catalogue(tmp_path / "catalogue.db")
    with database.write() as connection:
        connection.execute(meta.insert(), {"key": "counter", "value": "0"})

    def increment() -> None:
        for _ in range(10):
            with database.write() as connection:
                value = int(connection.execute(select(meta.c.value).where(meta.c.key == "counter")).scalar() or 0)
                connection.execute(meta.update().where(meta.c.key == "counter").values(value=str(value + 1)))

    threads = [threading.Thread(target=increment) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert database.scalar(select(meta.c.value).where(meta.c.key == "counter")) == "100"


WRITER = """
import sys
from pathlib import Path
from voice_pipeline.store import tables
from voice_pipeline.store.database import Database
database = Database(f"sqlite:///{sys.argv[1]}", tables.catalogue)
number = 0
while True:
    with database.write() as connection:
        for part in ("a", "b"):
            row = {"alert_id": f"{number}{part}", "at": "", "title": "", "body": "", "delivered": False}
            connection.execute(tables.alerts.insert(), row)
    number += 1
    print(number, flush=True)
"""


def test_what_was_acknowledged_survives_a_kill_and_nothing_is_half_there(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.db"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = 0
    while acknowledged < 25:
        acknowledged = int(process.stdout.readline())
    process.kill()
    process.wait()
    acknowledged = max([acknowledged, *(int(line) for line in process.stdout.read().split())])
    rows = open_catalogue(path).scalar(select(func.count()).select_from(alerts))
    assert rows % 2 == 0
    assert rows >= 2 * acknowledged
