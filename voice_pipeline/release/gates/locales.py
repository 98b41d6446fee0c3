"""Which locales a policy's language ranges name: basic filtering of RFC 4647, section 3.3.1.

A range matches a tag that it equals, or that goes on after it with a hyphen, whatever the case; `*` matches every tag.
`ar` thus matches `ar` and `ar-EG`, but neither `arn` nor `und`.
"""

from __future__ import annotations

from collections.abc import Iterable

UNDETERMINED = "und"


def matching(ranges: Iterable[str], locales: Iterable[str]) -> list[str]:
    """Those of `locales` that a range names, sorted. While there is any range, `und` (a clip that did not tell) is
    among them too: nobody can say that it is none of these languages.
    """
    wanted = [one.lower() for one in ranges]
    return sorted(locale for locale in locales if wanted and _named(wanted, locale.replace("_", "-").lower()))


def _named(ranges: list[str], tag: str) -> bool:
    if tag.split("-")[0] in ("", UNDETERMINED):
        return True
    return any(one == "*" or tag == one or tag.startswith(f"{one}-") for one in ranges)
