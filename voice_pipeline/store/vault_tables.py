"""Every table of the vault: subjects and their keys, in a database of its own, apart from what the keys open.

Times and `SCHEMA_VERSION` as in `tables`.
"""

from __future__ import annotations

from sqlalchemy import Column, LargeBinary, MetaData, String, Table

vault = MetaData()

meta = Table("meta", vault, Column("key", String, primary_key=True), Column("value", String, nullable=False))

subject_keys = Table(
    "subject_keys",
    vault,
    Column("subject_token", String, primary_key=True),
    Column("wrapped_key", LargeBinary),  # NULL once destroyed: the row stays as a tombstone
    Column("created_at", String, nullable=False),
    Column("destroyed_at", String),
)
