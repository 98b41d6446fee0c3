"""Findings, incidents and the actions they ask for."""

from __future__ import annotations

from enum import StrEnum

from voice_pipeline.schema.base import Record, UtcTime


class Action(StrEnum):
    OBSERVE = "observe"
    LABEL = "label"
    RETRAIN = "retrain"
    HOLD = "hold"
    ROLL_BACK = "roll_back"


class IncidentKind(StrEnum):
    INPUT_DRIFT = "input_drift"
    CONCEPT_DRIFT = "concept_drift"
    QUALITY = "quality"
    RELEASE_HARM = "release_harm"
    PIPELINE_FAILURE = "pipeline_failure"


class DriftFinding(Record):
    """One feature of one window against the training reference.

    `psi` and `js` are bias-corrected; `ks` is the two-sample distance D with its asymptotic p-value,
    `q_value` is that p-value after Benjamini-Hochberg over all features of the window.
    """

    feature: str
    cohort: str
    psi: float
    ks: float
    js: float
    p_value: float
    q_value: float
    reference_n: int
    window_n: int
    drifted: bool


class Incident(Record):
    """One cause, one incident: what was seen, on which model, and what to do."""

    incident_id: str
    kind: IncidentKind
    cause_digest: str
    model_version: str | None
    action: Action
    opened_at: UtcTime
    summary: str
    detail: dict[str, object]
