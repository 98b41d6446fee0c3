"""The model card: what a model is for, what it learnt from and who agreed, how well it does for whom, its limits.

After Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019). Two forms of one content: `model_card.json` for
machines (a `ModelCard`), `model_card.md` for people (`card_text`). It holds counts, never texts, names or
tokens of people; single words only if several people said them. Charts lie beside it in `charts/` and in MLflow: the
card also travels in the signed bundle, which devices download, so it only links to them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import select

from voice_pipeline.evaluation.paired import AgainstLive, compare_with
from voice_pipeline.evaluation.suites import CLEAN, find_suite
from voice_pipeline.schema.base import Record, Sha256
from voice_pipeline.schema.canonical import canonical_json, sha256_bytes
from voice_pipeline.schema.evaluation import ClassLatency, Comparison, LatencySource
from voice_pipeline.schema.training import EvaluationReport, SliceMinimum
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import consents, dataset_clips, dataset_versions, models
from voice_pipeline.training.assessment import CAPTIONS, CHARTS, Assessment
from voice_pipeline.training.card_text import as_markdown
from voice_pipeline.training.confidence import Calibration, HeldOut
from voice_pipeline.training.planning import Plan

MARKDOWN, JSON_FORM = "model_card.md", "model_card.json"
CHUNK = 500

INTENDED = (
    "Dictation of English on a phone or laptop: one recording of at most 30 s (16 kHz mono) in, its words out.",
    "Runs on the device, offline, on one thread; audio does not leave it for recognition.",
    "For people who see the text at once and can correct it; where confidence is low, ask again or fall back.",
)
OUT_OF_SCOPE = (
    "Identifying or profiling speakers, guessing accent, gender, health or mood, decisions about people.",
    "Covert transcription, or transcription of people who did not agree.",
    "Emergency calls, medical or legal records, or any text that nobody reads over.",
    "Languages other than English, meetings of several speakers, far-field rooms and singing: never evaluated.",
)
LIMITS = (
    "Slices with few speakers have wide intervals: read the interval, not the value.",
    "What nobody told (accent, gender) is in no slice: absence of a slice is absence of evidence.",
    "On x86 CPUs without VNNI sums of the int8 form may saturate and words may change: golden vectors on the device "
    "and the device lab tell, these figures do not.",
)
ERASURE = (
    "Everyone whose speech the model learnt from agreed to that use and may take it back. Then their key is destroyed: "
    "their audio can be read in no dataset version any more, past ones included, and labels and features are deleted. "
    "The weights of a model that is already trained stay as they are and may carry traces of what was learnt; "
    "`voice-pipeline capture erase` names these models and releases, and the next training run leaves the person out."
)


class DataSummary(Record):
    """What the model learnt from: clips and people by split, and the consent receipts behind them by scope.

    `revoked` of the receipts were taken back when the card was written.
    """

    dataset_version: str
    dvc_md5: str
    clips: dict[str, int]
    speakers: dict[str, int]
    consents: int
    consent_scopes: dict[str, int]
    revoked: int = 0


class ComparedWith(Record):
    """The comparison with another model (`role`: `live` or `parent`), or in one line why there is none."""

    role: str
    comparison: Comparison | None
    reason: str


class Chart(Record):
    """A picture beside the card, `path` relative to it."""

    path: str
    caption: str
    sha256: Sha256


class ModelCard(Record):
    """Everything the card says. `evaluation` is the report without its utterances: those name people.

    `confidence` is the judgement out of fold on the clips that it was fitted on, `confidence_held_out` that on a frozen
    suite, which it names; each is empty until there is one.
    """

    model_version: str
    owner: str
    intended_use: tuple[str, ...]
    out_of_scope: tuple[str, ...]
    spec: dict[str, Any]
    cause: str
    data: DataSummary
    training: dict[str, Any]
    confidence: dict[str, Any]
    confidence_held_out: dict[str, Any]
    evaluation: EvaluationReport
    minimum: SliceMinimum
    under_minimum: dict[str, str]
    compared_with: tuple[ComparedWith, ...]
    latency: tuple[ClassLatency, ...]
    limits: tuple[str, ...]
    erasure: str
    provenance: dict[str, str]
    charts: tuple[Chart, ...]


def write_card(
    store: Store, plan: Plan, assessment: Assessment, calibration: Calibration | None, held_out: HeldOut | None
) -> Path:
    """Write both forms into the model's folder; returns the Markdown file. The same inputs give the same bytes."""
    card = build_card(store, plan, assessment, calibration, held_out)
    folder = store.settings.models / plan.model_version
    write_atomically(folder / JSON_FORM, canonical_json(card))
    write_atomically(folder / MARKDOWN, as_markdown(card).encode())
    return folder / MARKDOWN


def build_card(
    store: Store, plan: Plan, assessment: Assessment, calibration: Calibration | None, held_out: HeldOut | None
) -> ModelCard:
    """Gather the card's content."""
    spec, report = plan.spec, assessment.report
    metrics = store.database.scalar(select(models.c.metrics).where(models.c.model_version == plan.model_version))
    missing = {part.slice: assessment.minimum.missing(part) for part in report.parts}
    under_minimum = {name: lacks for name, lacks in missing.items() if lacks}
    return ModelCard(
        model_version=plan.model_version,
        owner=store.settings.owner,
        intended_use=INTENDED,
        out_of_scope=OUT_OF_SCOPE,
        spec=spec.model_dump(mode="json"),
        cause=plan.cause.label,
        data=summarise_data(store, spec.dataset_version),
        training={key: value for key, value in (metrics or {}).items() if isinstance(value, int | float | str)},
        confidence=asdict(calibration) if calibration else {},
        confidence_held_out=asdict(held_out) if held_out else {},
        evaluation=report.model_copy(update={"utterances": (), "members": {}}),
        minimum=assessment.minimum,
        under_minimum=under_minimum,
        compared_with=_compared_with(store, plan, assessment),
        latency=assessment.latency,
        limits=(*_found_limits(spec.alphabet, assessment, under_minimum, calibration), *LIMITS),
        erasure=ERASURE,
        provenance={
            "code commit": spec.code_commit,
            "lock file sha256": spec.lock_digest,
            "feature service": spec.feature_schema_version,
            "dataset DVC version": spec.dataset_version,
            "suite": report.suite_id,
            "suite sha256": report.suite_digest,
        },
        charts=tuple(
            Chart(path=f"{CHARTS}/{name}", caption=CAPTIONS[name], sha256=sha256_bytes(png))
            for name, png in assessment.charts.items()
        ),
    )


def _compared_with(store: Store, plan: Plan, assessment: Assessment) -> tuple[ComparedWith, ...]:
    """The live model, and the parent where that is another one."""

    def told(role: str, against: AgainstLive) -> ComparedWith:
        return ComparedWith(role=role, comparison=against.comparison, reason=against.reason)

    found = [told("live", assessment.against_live)]
    parent = plan.spec.parent_model_version
    known = assessment.against_live.comparison
    if parent is not None and (known is None or known.baseline_model_version != parent):
        suite = find_suite(store, assessment.report.suite_digest)
        found.append(told("parent", compare_with(store, assessment.report, parent, suite)))
    return tuple(found)


def _found_limits(
    alphabet: str, assessment: Assessment, under_minimum: dict[str, str], calibration: Calibration | None
) -> tuple[str, ...]:
    """What the figures themselves show the model has not shown."""
    report = assessment.report
    limits = []
    marks = "".join(sorted(c for c in alphabet if not c.isalnum() and c not in " '"))
    cased = any(c.isupper() for c in alphabet)
    if not marks or not cased:
        lacking = " and ".join(name for name, there in (("punctuation", marks), ("casing", cased)) if not there)
        limits.append(f"Writes no {lacking}; numbers come as words.")
    if under_minimum:
        named = "; ".join(f"{name} ({lacks})" for name, lacks in sorted(under_minimum.items()))
        limits.append(f"Too little was heard of these slices to say how well it does there: {named}.")
    trusted = [part for part in report.slices if part.slice not in under_minimum]
    if trusted:
        weakest = max(trusted, key=lambda part: (part.wer.value, part.slice))
        limits.append(
            f"Weakest slice with enough material: {weakest.slice}, WER {weakest.wer.value:.1%} "
            f"({weakest.wer.low:.1%} to {weakest.wer.high:.1%}) beside {report.overall.wer.value:.1%} overall."
        )
    noises = sorted({condition for _, condition, *_ in report.utterances} - {CLEAN})
    limits.append(f"Heard clean and in {', '.join(noises)}: other noise levels are untested." if noises else UNTESTED)
    stand_in = [one.device_class.value for one in assessment.latency if one.source is LatencySource.HOST]
    if stand_in:
        limits.append(f"No device lab has timed it on {', '.join(stand_in)}: the times given there are this host's.")
    if calibration is None or calibration.fitted_on != "dev":
        limits.append("Its confidence was not calibrated on speakers it never heard: do not gate on it.")
    limits.append(
        f"These figures are of the {report.variant} network; the int8 form that devices run is judged against it "
        "by the release gates."
    )
    return tuple(limits)


UNTESTED = "Heard without added noise only: noise is untested."


def summarise_data(store: Store, dataset_version: str) -> DataSummary:
    """Counts of a dataset version, with the consents it stands under."""
    rows = store.database.rows(select(dataset_clips).where(dataset_clips.c.dataset_version == dataset_version))
    md5 = store.database.scalar(
        select(dataset_versions.c.dvc_md5).where(dataset_versions.c.dataset_version == dataset_version)
    )
    people = {(row["split"], row["subject_token"]) for row in rows}
    receipts = sorted({row["consent_id"] for row in rows})
    scopes, revoked = _consents(store, receipts)
    return DataSummary(
        dataset_version=dataset_version,
        dvc_md5=str(md5),
        clips=dict(sorted(Counter(row["split"] for row in rows).items())),
        speakers=dict(sorted(Counter(split for split, _ in people).items())),
        consents=len(receipts),
        consent_scopes=scopes,
        revoked=revoked,
    )


def _consents(store: Store, receipts: list[str]) -> tuple[dict[str, int], int]:
    """How many receipts have each scope, and how many were taken back."""
    scopes: Counter[str] = Counter()
    revoked = 0
    for start in range(0, len(receipts), CHUNK):
        part = receipts[start : start + CHUNK]
        found = store.database.rows(
            select(consents.c.scopes, consents.c.revoked_at).where(consents.c.consent_id.in_(part))
        )
        for row in found:
            scopes.update(row["scopes"])
            revoked += row["revoked_at"] is not None
    return dict(sorted(scopes.items())), revoked
