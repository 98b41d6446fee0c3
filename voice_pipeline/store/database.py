"""The catalogue and the vault as SQL databases: SQLite in WAL mode by default, PostgreSQL by URL.

Promise: a committed write survives `kill -9` and power loss; a writer holds the database from its first statement
(`BEGIN IMMEDIATE`), so a check and the write that follows it are one step (https://sqlite.org/lang_transaction.html).
What must follow a commit (`after_commit`) runs once it is durable, and never for a transaction that failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, MetaData, RowMapping, Table, create_engine, event, insert, inspect, select
from sqlalchemy.exc import DatabaseError

from voice_pipeline.store.errors import DamagedDatabaseError
from voice_pipeline.store.tables import SCHEMA_VERSION


class Database:
    """One SQL database with one schema.

    Args:
        url: SQLAlchemy URL. A SQLite file and its folder are made on first use.
        metadata: the tables it holds.

    Raises:
        DamagedDatabaseError: the file is no database, is damaged, or carries another schema version.
    """

    def __init__(self, url: str, metadata: MetaData) -> None:
        self.url = url
        self.metadata = metadata
        if url.startswith("sqlite:///"):
            Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        self.engine: Engine = create_engine(url)
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _sqlite_connect)
            event.listen(self.engine, "begin", _sqlite_begin)
        try:
            self._prepare()
        except DatabaseError as error:
            raise DamagedDatabaseError(
                f"database {self.engine.url.render_as_string(hide_password=True)} cannot be read: {error.orig}; "
                "restore it from a backup or choose another VOICE_PIPELINE_HOME"
            ) from error

    def _prepare(self) -> None:
        meta = self.metadata.tables["meta"]
        if not inspect(self.engine).has_table("meta"):
            with self.write() as connection:
                self.metadata.create_all(connection)
                present = connection.execute(select(meta.c.key)).first()
                if present is None:
                    connection.execute(insert(meta).values(key="schema_version", value=str(SCHEMA_VERSION)))
        with self.read() as connection:
            found = connection.execute(select(meta.c.value).where(meta.c.key == "schema_version")).scalar()
        if found != str(SCHEMA_VERSION):
            raise DamagedDatabaseError(
                f"database {self.engine.url.render_as_string(hide_password=True)} has schema version {found}, "
                f"this program needs {SCHEMA_VERSION}; use the matching release of voice_pipeline"
            )

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that owns the write lock from its start; commits on success, else leaves no trace."""
        duties: dict[str, Callable[[], None]] = {}
        options = {"write": True, "after_commit": duties}
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection
        for duty in duties.values():
            duty()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent snapshot for reading."""
        with self.engine.connect() as connection, connection.begin():
            yield connection

    def scrub(self) -> bool:
        """Drop overwritten values from SQLite's write-ahead log, so that what was deleted cannot be dug out of it.

        PostgreSQL keeps its log for recovery; there, retention of the log bounds how long a deleted value survives.

        Returns:
            Whether it is done; False where a reader or writer held the log for longer than the busy timeout: try again.
        """
        if self.engine.dialect.name != "sqlite":
            return True
        connection = self.engine.raw_connection()
        try:
            busy, _frames, _moved = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            connection.close()
        return not busy

    def rows(self, statement: Any) -> Sequence[RowMapping]:
        """All rows of a select, as mappings."""
        with self.read() as connection:
            return connection.execute(statement).mappings().all()

    def row(self, statement: Any) -> RowMapping | None:
        """The first row of a select, or None."""
        with self.read() as connection:
            return connection.execute(statement).mappings().first()

    def scalar(self, statement: Any) -> Any:
        """The first column of the first row, or None."""
        with self.read() as connection:
            return connection.execute(statement).scalar()


def after_commit(connection: Connection, name: str, duty: Callable[[], None]) -> None:
    """Have `duty` run when the transaction of `Database.write` on `connection` has committed, and only then. Of several
    duties of one `name` the last one counts. The write is durable by then, so a duty must not raise.
    """
    connection.get_execution_options()["after_commit"][name] = duty


def insert_new(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> int:
    """Insert rows whose primary or unique key is not there yet; returns how many were new. A repeat changes nothing."""
    if not rows:
        return 0
    dialect = import_module(f"sqlalchemy.dialects.{connection.dialect.name}")
    new = 0
    for row in rows:
        new += connection.execute(dialect.insert(table).values(**row).on_conflict_do_nothing()).rowcount
    return new


def upsert(connection: Connection, table: Table, row: Mapping[str, Any]) -> None:
    """Insert a row or replace the one with the same primary key."""
    dialect = import_module(f"sqlalchemy.dialects.{connection.dialect.name}")
    keys = [column.name for column in table.primary_key]
    rest = {name: value for name, value in row.items() if name not in keys}
    statement = dialect.insert(table).values(**row)
    statement = (
        statement.on_conflict_do_update(index_elements=keys, set_=rest)
        if rest
        else statement.on_conflict_do_nothing(index_elements=keys)
    )
    connection.execute(statement)


def _sqlite_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by _sqlite_begin, not by the driver
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA secure_delete=ON")
    cursor.close()


def _sqlite_begin(connection: Connection) -> None:
    write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
