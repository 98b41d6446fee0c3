"""The model card: what a model is for, what it learnt from and who agreed, how well it does for whom, its limits.

After Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019). Two forms of one content: `model_card.json` for
machines, `model_card.md` for people. It holds counts, never texts, names or tokens of people.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from sqlalchemy import select

from voice_pipeline.evaluation.tables import slice_table
from voice_pipeline.schema.base import Record
from voice_pipeline.schema.canonical import canonical_json
from voice_pipeline.schema.training import EvaluationReport
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import consents, dataset_clips, dataset_versions, models
from voice_pipeline.training.confidence import Calibration
from voice_pipeline.training.planning import Plan

MARKDOWN, JSON_FORM = "model_card.md", "model_card.json"
CHUNK = 500

LIMITS = (
    "English dictation in the words of the alphabet above; no punctuation, no casing.",
    "Not for identifying or profiling speakers, nor for decisions about people.",
    "Slices with few speakers have wide intervals: read the interval, not the value.",
    "What nobody told (accent, gender) is in no slice: absence of a slice is absence of evidence.",
)


class DataSummary(Record):
    """What the model learnt from: clips by split, hours and people, and the consent receipts behind them by scope."""

    dataset_version: str
    dvc_md5: str
    clips: dict[str, int]
    speakers: dict[str, int]
    consents: int
    consent_scopes: dict[str, int]


class ModelCard(Record):
    """Everything the card says."""

    model_version: str
    owner: str
    spec: dict[str, Any]
    cause: str
    data: DataSummary
    training: dict[str, Any]
    confidence: dict[str, Any]
    evaluation: EvaluationReport
    limits: tuple[str, ...] = LIMITS


def write_card(store: Store, plan: Plan, report: EvaluationReport, calibration: Calibration | None) -> Path:
    """Write both forms into the model's folder; returns the Markdown file. The same inputs give the same bytes."""
    card = build_card(store, plan, report, calibration)
    folder = store.settings.models / plan.model_version
    write_atomically(
        folder / JSON_FORM, canonical_json(card.model_dump(mode="json", exclude={"evaluation": {"utterances"}}))
    )
    write_atomically(folder / MARKDOWN, as_markdown(card).encode())
    return folder / MARKDOWN


def build_card(store: Store, plan: Plan, report: EvaluationReport, calibration: Calibration | None) -> ModelCard:
    """Gather the card's content."""
    metrics = store.database.scalar(select(models.c.metrics).where(models.c.model_version == plan.model_version))
    return ModelCard(
        model_version=plan.model_version,
        owner=store.settings.owner,
        spec=plan.spec.model_dump(mode="json"),
        cause=plan.cause.label,
        data=summarise_data(store, plan.spec.dataset_version),
        training={key: value for key, value in (metrics or {}).items() if isinstance(value, int | float | str)},
        confidence=dict(calibration.__dict__) if calibration else {},
        evaluation=report,
    )


def summarise_data(store: Store, dataset_version: str) -> DataSummary:
    """Counts of a dataset version, with the consents it stands under."""
    rows = store.database.rows(select(dataset_clips).where(dataset_clips.c.dataset_version == dataset_version))
    md5 = store.database.scalar(
        select(dataset_versions.c.dvc_md5).where(dataset_versions.c.dataset_version == dataset_version)
    )
    people = {(row["split"], row["subject_token"]) for row in rows}
    receipts = sorted({row["consent_id"] for row in rows})
    return DataSummary(
        dataset_version=dataset_version,
        dvc_md5=str(md5),
        clips=dict(sorted(Counter(row["split"] for row in rows).items())),
        speakers=dict(sorted(Counter(split for split, _ in people).items())),
        consents=len(receipts),
        consent_scopes=_scopes(store, receipts),
    )


def _scopes(store: Store, receipts: list[str]) -> dict[str, int]:
    scopes: Counter[str] = Counter()
    for start in range(0, len(receipts), CHUNK):
        part = receipts[start : start + CHUNK]
        for row in store.database.rows(select(consents.c.scopes).where(consents.c.consent_id.in_(part))):
            scopes.update(row["scopes"])
    return dict(sorted(scopes.items()))


def as_markdown(card: ModelCard) -> str:
    """The card for people."""
    report = card.evaluation
    spec = card.spec
    hyperparameters = ", ".join(f"{key} {value}" for key, value in spec["hyperparameters"].items())
    sections = [
        f"# Model card: {card.model_version}",
        f"Owner {card.owner}. Dictation on the device: waveform (16 kHz mono) in, lower-case words out "
        f"(alphabet `{spec['alphabet'].strip()}` and space). Trained because of: {card.cause}.",
        "## Data",
        _data_section(card.data),
        "## Training",
        f"{hyperparameters}; seed {spec['seed']}; parent {spec['parent_model_version'] or 'none (from scratch)'}.\n\n"
        + _bullets(card.training),
        f"## Evaluation ({report.variant}, suite {report.suite_id})",
        slice_table(report),
        f"Waveform to text: p50 {report.latency.p50_ms:.1f} ms, p95 {report.latency.p95_ms:.1f} ms on "
        f"{report.latency.measured_on}.",
        "## Confidence",
        _bullets(card.confidence) or "Not calibrated.",
        "## Limits",
        "\n".join(f"- {limit}" for limit in card.limits),
        "## Provenance",
        _bullets(
            {
                "code commit": spec["code_commit"],
                "lock file sha256": spec["lock_digest"],
                "feature service": spec["feature_schema_version"],
                "suite sha256": report.suite_digest,
            }
        ),
    ]
    return "\n\n".join(sections) + "\n"


def _data_section(data: DataSummary) -> str:
    splits = "\n".join(f"| {split} | {count} | {data.speakers.get(split, 0)} |" for split, count in data.clips.items())
    scopes = ", ".join(f"{scope} {count}" for scope, count in data.consent_scopes.items())
    return (
        f"Dataset version `{data.dataset_version}` (DVC md5 `{data.dvc_md5}`), "
        f"{data.consents} consent receipts ({scopes}).\n\n"
        f"| split | clips | speakers |\n|---|--:|--:|\n{splits}"
    )


def _bullets(values: dict[str, Any]) -> str:
    return "\n".join(
        f"- {key.replace('_', ' ')}: {f'{value:.4g}' if isinstance(value, float) else value}"
        for key, value in values.items()
    )
