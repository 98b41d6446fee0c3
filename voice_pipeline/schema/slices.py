"""What slices of a suite may be called: `<kind>:<value>`. Of some kinds all values are known, of others people tell."""

from __future__ import annotations

import re

from voice_pipeline.schema.clip import NAMED_CLASSES, Microphone
from voice_pipeline.schema.evaluation import SLICE_KINDS

NOT_TOLD = ("", "unknown")
"""What nobody told makes no slice."""

CLOSED: dict[str, tuple[str, ...]] = {
    "device": tuple(one.value for one in NAMED_CLASSES),
    "microphone": tuple(one.value for one in Microphone if one is not Microphone.UNKNOWN),
    "length": ("short", "medium", "long"),
    "snr": ("poor", "fair", "good"),
}
"""All values that a suite can have of these kinds; the other kinds, but `condition`, are free words of corpora."""

_CONDITION = re.compile(r"clean|noise_-?[0-9]+db")


def slice_problem(name: str) -> str:
    """Why no suite could ever have a slice of this name; "" where one could."""
    kind, colon, value = name.partition(":")
    if kind not in SLICE_KINDS or not colon:
        return f"{name!r} is no slice (`accent:en-gb`); its kind is one of {', '.join(SLICE_KINDS)}"
    if kind == "condition" and not _CONDITION.fullmatch(value):
        return f"no suite has the slice {name!r}; a condition is `clean` or `noise_<dB>db`, such as `noise_10db`"
    if kind in CLOSED and value not in CLOSED[kind]:
        return f"no suite has the slice {name!r}; of {kind} there is {', '.join(CLOSED[kind])}"
    if value in NOT_TOLD or "*" in value:
        return f"no suite has the slice {name!r}; after the colon stands what speakers told, in full"
    return ""
