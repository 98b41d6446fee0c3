"""Reports of made-up hearings, for tests of everything that is derived from a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from voice_pipeline.evaluation.report import Subject, evaluate
from voice_pipeline.evaluation.suites import SuiteClip
from voice_pipeline.schema.training import EvaluationReport

NOW = datetime(2026, 11, 2, tzinfo=UTC)
SUITE = "a" * 64


@dataclass(frozen=True)
class Said:
    """One utterance: who said what, what was heard, and in which slices it counts."""

    speaker: str
    text: str
    heard: str
    slices: tuple[str, ...] = ()
    condition: str = "clean"


@dataclass(frozen=True)
class Answer:
    text: str
    latency_ms: float = 10.0


class Scripted:
    """Answers from a list, in order; what a recogniser would say."""

    def __init__(self, answers: Sequence[str]) -> None:
        self.answers = iter(answers)

    def transcribe(self, samples: np.ndarray, /) -> Answer:
        return Answer(next(self.answers), latency_ms=float(len(samples)))


def report_on(
    said: Sequence[Said],
    model_version: str = "m-20261102-00000000",
    variant: str = "float",
    suite_digest: str = SUITE,
    word_speakers: int = 1,
) -> EvaluationReport:
    """The report of a model that heard `said`; clip n takes n + 1 ms."""
    clips = [
        SuiteClip(
            f"clip{n}",
            one.speaker,
            one.text,
            np.zeros(n + 1, np.float32),
            (f"condition:{one.condition}", *one.slices),
            one.condition,
        )
        for n, one in enumerate(said)
    ]
    subject = Subject(model_version, variant, "core-v1", suite_digest)
    return evaluate(Scripted([one.heard for one in said]), clips, subject, NOW, 200, word_speakers)
