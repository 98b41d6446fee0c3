"""Rows are printed under their headers, in columns, one line each."""

from __future__ import annotations

import pytest
from sqlalchemy import insert

from voice_pipeline.cli_table import print_columns, print_counts, print_table
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import quarantine


def test_columns_are_aligned_and_what_is_missing_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "n", "why"), [("a", 1, None), ("longer", 22, "two\nlines")])
    assert capsys.readouterr().out == "name    n   why\na       1   -\nlonger  22  two lines\n"


def test_a_table_of_the_catalogue_keeps_the_order_of_its_columns(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"capture_date": "2026-11-01", "reason": "empty", "detail": "there are no bytes", "at": "now"}
    with store.database.write() as connection:
        connection.execute(insert(quarantine), [{**row, "event_id": f"e{n}", "clip_id": f"c{n}"} for n in range(2)])
    print_columns(store, "quarantine", ("clip_id", "reason"))
    assert capsys.readouterr().out.splitlines() == ["clip_id  reason", "c0       empty", "c1       empty"]
    print_counts(store, "quarantine", "reason")
    assert capsys.readouterr().out.splitlines() == ["reason  quarantine", "empty   2"]
