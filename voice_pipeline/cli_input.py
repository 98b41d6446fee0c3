"""What commands take, and how they refuse it."""

from typing import Annotated

import typer

DAY = ["%Y-%m-%d"]


class InputError(Exception):
    """What was asked for on the command line cannot be done; the message says why."""


def _words(value: str) -> str:
    if not value.strip():
        raise typer.BadParameter("must not be empty")
    return value


Words = Annotated[str, typer.Argument(callback=_words)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]
