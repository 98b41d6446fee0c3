"""A release's tests as its story tells them: every look and the harm figures, read from the ledger's own lines.

Promise: nothing is computed here, so no figure that people read can differ from the one that was decided upon. Figures
that a line does not hold (an older policy, too few devices) are absent, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from voice_pipeline.release.analysis.looks import ANALYSIS
from voice_pipeline.schema.release import Outcome, ReleaseState
from voice_pipeline.store.ledger import LedgerLine
from voice_pipeline.store.releases import TRANSITION, ReleaseView, fold

CORRECTION_RATE = "correction_rate"


@dataclass(frozen=True)
class Difference:
    """One non-inferiority test: candidate minus control with its one-sided bounds, as fractions. None: not known.

    `passes`: `upper` lies below `margin`. `fails`: `lower` lies above it.
    """

    difference: float | None = None
    lower: float | None = None
    upper: float | None = None
    margin: float | None = None
    passes: bool = False
    fails: bool = False


@dataclass(frozen=True)
class Harm:
    """One harm test, as fractions: `lower` is what the candidate adds for certain, `margin` what it may."""

    candidate: float
    control: float
    lower: float
    margin: float
    harmful: bool


@dataclass(frozen=True)
class ToldLook:
    """One promotion test of one stage.

    Attributes:
        devices, dictations: on the candidate and on the control; None where the line does not say.
        tests: non-inferiority by measure.
        latency_ratio: p95 of the candidate over p95 of the live model.
        harm: the harm tests of the same moment, by measure.
    """

    seq: int
    at: datetime
    stage: ReleaseState | None
    outcome: Outcome
    reason: str
    devices: tuple[int, int] | None = None
    dictations: tuple[int, int] | None = None
    tests: dict[str, Difference] = field(default_factory=dict)
    latency_ratio: float | None = None
    harm: dict[str, Harm] = field(default_factory=dict)

    @property
    def correction_rate(self) -> Difference:
        return self.tests.get(CORRECTION_RATE, Difference())


def told_looks(lines: Sequence[LedgerLine]) -> tuple[ToldLook, ...]:
    """Every look of all stages among a release's ledger lines, oldest first."""
    return tuple(told_look(line) for line in lines if line.kind == ANALYSIS)


def release_as_of(lines: Sequence[LedgerLine]) -> ReleaseView | None:
    """The release as these ledger lines about it leave it; None before its registration."""
    return next(iter(fold([line for line in lines if line.kind == TRANSITION])), None)


def told_look(line: LedgerLine) -> ToldLook:
    """An `analysis` line of the ledger."""
    payload = line.payload
    figures = payload.get("figures") or {}
    stage = payload.get("stage")
    ratio = figures.get("latency_ratio")
    return ToldLook(
        seq=line.seq,
        at=datetime.fromisoformat(line.at),
        stage=ReleaseState(stage) if stage else None,
        outcome=Outcome(payload["outcome"]),
        reason=payload.get("reason", ""),
        devices=_pair(figures.get("devices")),
        dictations=_pair(figures.get("events")),
        tests=_tests(figures.get("noninferiority") or {}),
        latency_ratio=None if ratio is None else float(ratio),
        harm=told_harm(figures),
    )


def told_harm(evidence: Mapping[str, Any]) -> dict[str, Harm]:
    """The harm tests in a look's figures or in a transition's evidence; those without all figures are left out."""
    names = [member.name for member in fields(Harm)]
    tests: Mapping[str, Any] = evidence.get("harm") or {}
    return {
        measure: Harm(**{name: test[name] for name in names})
        for measure, test in tests.items()
        if all(test.get(name) is not None for name in names)
    }


def _tests(stored: Mapping[str, Any]) -> dict[str, Difference]:
    """By measure. Lines written before guardrails were tested, too, hold the one test of the correction rate, flat."""
    by_measure = {CORRECTION_RATE: stored} if "margin" in stored else stored
    names = [member.name for member in fields(Difference)]
    return {
        measure: Difference(**{name: test[name] for name in names if test.get(name) is not None})
        for measure, test in by_measure.items()
    }


def _pair(arms: Mapping[str, Any] | None) -> tuple[int, int] | None:
    return (int(arms["candidate"]), int(arms["control"])) if arms and {"candidate", "control"} <= set(arms) else None
