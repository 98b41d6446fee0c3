"""How commands print rows: a line of headers, then aligned columns two blanks apart; `none` where there are no rows."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import typer


def to_the_second(at: str) -> str:
    """An ISO time without fractions."""
    return datetime.fromisoformat(at).isoformat(timespec="seconds")


def print_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print `rows`, each as long as `headers`; what is None is `-`, a cell of several lines becomes one."""
    lines = [tuple("-" if cell is None else " ".join(str(cell).split()) for cell in row) for row in rows]
    if not lines:
        typer.echo("none")
        return
    lines.insert(0, tuple(headers))
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_columns(store: Any, name: str, columns: Sequence[str]) -> None:
    """All rows of a catalogue table."""
    from sqlalchemy import select

    from voice_pipeline.store.tables import catalogue

    rows = store.database.rows(select(*(catalogue.tables[name].c[column] for column in columns)))
    print_table(columns, [tuple(row.values()) for row in rows])


def print_counts(store: Any, name: str, column: str) -> None:
    """How many rows of a catalogue table have which value."""
    from sqlalchemy import func, select

    from voice_pipeline.store.tables import catalogue

    by = catalogue.tables[name].c[column]
    rows = store.database.rows(select(by, func.count().label("n")).group_by(by))
    print_table((column, name), [tuple(row.values()) for row in rows])
