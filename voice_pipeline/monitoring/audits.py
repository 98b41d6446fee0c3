"""WER in the field, from the random audit stream: labelled clips that triage drew without looking at them."""

from __future__ import annotations

from sqlalchemy import select

from voice_pipeline.schema.base import Record
from voice_pipeline.schema.monitoring_policy import ConceptPolicy
from voice_pipeline.schema.training import Interval
from voice_pipeline.speech.scoring import score
from voice_pipeline.stats.bootstrap import cluster_bootstrap_ratio
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clips, evaluations, labels, triage

DEVICE_VARIANT = "int8"


class AuditedWer(Record):
    """Field WER of a model on audited clips (interval over speakers) beside what its evaluation promised."""

    clips: int
    wer: Interval
    evaluated_wer: float | None

    def confirms(self, policy: ConceptPolicy) -> bool:
        """Whether the field is surely worse than the evaluation by more than the policy's margin."""
        enough = self.clips >= policy.min_audited_clips and self.evaluated_wer is not None
        return enough and self.wer.low > (self.evaluated_wer or 0.0) + policy.audited_wer_margin


def audited_wer(store: Store, model_version: str) -> AuditedWer | None:
    """WER of what `model_version` heard on labelled audit clips; None where there are none yet."""
    statement = (
        select(clips.c.subject_token, clips.c.hypothesis, labels.c.text)
        .join(labels, labels.c.clip_id == clips.c.clip_id)
        .join(triage, triage.c.clip_id == clips.c.clip_id)
        .where(clips.c.model_version == model_version, triage.c.audit.is_(True))
        .where(clips.c.hypothesis.is_not(None), clips.c.erased_at.is_(None))
        .order_by(clips.c.clip_id)
    )
    rows = store.database.rows(statement)
    if not rows:
        return None
    scores = [score(row["text"], row["hypothesis"]) for row in rows]
    value, low, high = cluster_bootstrap_ratio(
        [s.errors for s in scores], [s.words for s in scores], [row["subject_token"] for row in rows]
    )
    interval = Interval(value=value, low=low, high=high)
    return AuditedWer(clips=len(rows), wer=interval, evaluated_wer=_evaluated_wer(store, model_version))


def _evaluated_wer(store: Store, model_version: str) -> float | None:
    statement = (
        select(evaluations.c.report)
        .where(evaluations.c.model_version == model_version, evaluations.c.variant == DEVICE_VARIANT)
        .order_by(evaluations.c.created_at.desc())
    )
    report = store.database.scalar(statement.limit(1))
    return float(report["overall"]["wer"]["value"]) if report else None
