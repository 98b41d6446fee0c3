"""What is measured of a device in a stage: each figure in [0, 1], higher is worse, with the margin of the policy.

The unit of every release test is the device, never the dictation: a device's dictations become one figure a measure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from voice_pipeline.release.analysis.observations import Dictation, LatencyReference, correction_rate
from voice_pipeline.schema.release_policy import Guardrails

CORRECTION_RATE, SILENCE = "correction_rate", "silence"
SHARES = ("slow", "crash", "abandonment", "fallback", "failure")
"""Shares of a device's dictations. `failure` holds every way to fail, so that several small harms are no small one."""

MEASURES = (CORRECTION_RATE, *SHARES, SILENCE)


@dataclass(frozen=True)
class Measure:
    """`of` makes one figure in [0, 1] of a device's dictations; harm is what exceeds the others' by over `margin`."""

    name: str
    of: Callable[[Sequence[Dictation]], float]
    margin: float


def measures(rules: Guardrails, reference: LatencyReference) -> tuple[Measure, ...]:
    """All measures of a device that dictates; silence is of those that do not."""
    return (
        Measure(CORRECTION_RATE, correction_rate, rules.correction_rate),
        Measure("slow", lambda group: share([reference.relative(d) > rules.slow_ratio for d in group]), rules.slow),
        Measure("crash", lambda group: share([d.crashed for d in group]), rules.crash),
        Measure("abandonment", lambda group: share([d.abandoned for d in group]), rules.abandonment),
        Measure("fallback", lambda group: share([d.fallback for d in group]), rules.fallback),
        Measure("failure", lambda group: share([d.crashed or d.abandoned or d.fallback for d in group]), rules.failure),
    )


def share(flags: Sequence[bool], empty: float = 0.0) -> float:
    """The share that is true; `empty` of nothing."""
    return sum(flags) / len(flags) if flags else empty
