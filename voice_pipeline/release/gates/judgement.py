"""What the gates look at, and what one of them says."""

from __future__ import annotations

import math
from dataclasses import dataclass

from voice_pipeline.schema.evaluation import ClassLatency
from voice_pipeline.schema.evaluation_policy import EvaluationPolicy
from voice_pipeline.schema.release import Outcome
from voice_pipeline.schema.training import EvaluationReport

Slices = dict[tuple[str, str], tuple[str, ...]]


@dataclass(frozen=True)
class Evidence:
    """Everything the gates look at. `champion` is None while no model is live.

    `slices` maps (clip_id, condition) to the slices in which that utterance counts; `locales` are those of the suite;
    `latency` has one line a device class, and `lab_refused` one a device-lab report that does not count.
    `network_bytes` are those of the larger network file, `download_bytes` those of the archive that a device fetches;
    `largest` has path and bytes of some of the files in it, the largest first. `evaluation_policy` is that of
    `policy/evaluation.yaml` now, which says what wake words there are.
    """

    candidate: EvaluationReport
    candidate_float: EvaluationReport
    champion: EvaluationReport | None
    slices: Slices
    locales: frozenset[str]
    latency: tuple[ClassLatency, ...]
    lab_refused: tuple[str, ...]
    network_bytes: int
    download_bytes: int
    largest: tuple[tuple[str, int], ...]
    preset: str
    integrity_problem: str | None
    evaluation_policy: EvaluationPolicy


@dataclass(frozen=True)
class Judgement:
    """What one gate says. INVALID = the evidence cannot be judged, INCONCLUSIVE = there is too little to be certain."""

    metric: str
    value: float | None
    threshold: float | None
    outcome: Outcome
    detail: str


def at_most(metric: str, value: float, limit: float, detail: str) -> Judgement:
    """PASS up to the limit, that included; a value that is no finite number is INVALID."""
    if not math.isfinite(value):
        return Judgement(metric, None, limit, Outcome.INVALID, f"the figure is {value}, no number; {detail}")
    return Judgement(metric, value, limit, Outcome.PASS if value <= limit else Outcome.FAIL, detail)
