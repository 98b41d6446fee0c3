"""Markdown of what other people wrote: a reason typed at a prompt can be no table row, link, image or markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

LONGEST_CELL = 600
_MARKUP = re.compile(r"([\\`*_{}\[\]<>()#+!|&~$@])")
_UNPRINTED = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029\u200b-\u200f\u202a-\u202e\u2066-\u2069]+")


def plain(text: object) -> str:
    """`text` as Markdown that shows it letter by letter in one line: no markup, no hidden link, no control character.

    A bare address stays one: where it leads is what is read.
    """
    one_line = _UNPRINTED.sub(" ", str(text)).strip(" ")
    short = one_line if len(one_line) <= LONGEST_CELL else f"{one_line[: LONGEST_CELL - 1]}…"
    return _MARKUP.sub(r"\\\1", short)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], right: int = 0) -> str:
    """A Markdown table; every cell is `plain`, the last `right` columns are flush right."""
    rules = ["---"] * (len(heads) - right) + ["--:"] * right
    lines = [f"| {' | '.join(plain(cell) for cell in row)} |" for row in (heads, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(rules)}|", *lines[1:]])
