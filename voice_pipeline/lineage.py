"""The one-lookup answers, both ways: from a model to the clips and consents it learnt from, the release that carries it
and the devices that run it; and from a person to every dataset, model and release that learnt from them.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from pydantic import Field
from sqlalchemy import func, select

from voice_pipeline.packaging.platforms import EXPORTED
from voice_pipeline.schema.base import Record
from voice_pipeline.store import tables as t
from voice_pipeline.store.learning import learnt_from
from voice_pipeline.store.releases import release_views
from voice_pipeline.store.store import Store


class UnknownModelError(Exception):
    """No model of that version is in the catalogue."""


class ReleaseLine(Record):
    """One release of the model and how far it came."""

    release_id: str
    state: str
    transitions: tuple[dict[str, Any], ...]


class Lineage(Record):
    """Everything that led to one model, and everywhere it went.

    `clips` counts the dataset's clips by split, `consents` the receipts they stand under by scope; `clip_ids` and
    `consent_ids` are the full lists. `apps` are the platforms whose builds it was exported for, `devices` those whose
    last report named this model.
    """

    model_version: str
    state: str
    dataset_version: str
    dvc_md5: str
    batches: tuple[str, ...]
    clips: dict[str, int]
    clip_ids: tuple[str, ...] = Field(repr=False)
    consents: dict[str, int]
    consent_ids: tuple[str, ...] = Field(repr=False)
    erased_clips: int
    code_commit: str
    lock_digest: str
    feature_schema_version: str
    parent_model_version: str | None
    cause: dict[str, Any]
    mlflow_run_id: str | None
    evaluations: tuple[dict[str, Any], ...]
    bundle_digest: str | None
    verdicts: tuple[dict[str, Any], ...]
    releases: tuple[ReleaseLine, ...]
    apps: tuple[str, ...]
    devices: tuple[str, ...]


class SubjectLineage(Record):
    """Where one person's clips went. The token is a pseudonym; the vault alone knows whether its key still exists."""

    subject_token: str
    clip_ids: tuple[str, ...]
    dataset_versions: tuple[str, ...]
    model_versions: tuple[str, ...]
    release_ids: tuple[str, ...]


def lineage(store: Store, model_version: str) -> Lineage:
    """Raises:
    UnknownModelError: no such model.
    """
    database = store.database
    model = database.row(select(t.models).where(t.models.c.model_version == model_version))
    if model is None:
        raise UnknownModelError(f"model {model_version} is not in this home; `voice-pipeline training list` shows all")
    dataset = database.row(
        select(t.dataset_versions).where(t.dataset_versions.c.dataset_version == model["dataset_version"])
    )
    members = database.rows(
        select(t.dataset_clips.c.clip_id, t.dataset_clips.c.split, t.dataset_clips.c.consent_id, t.clips.c.erased_at)
        .join(t.clips, t.clips.c.clip_id == t.dataset_clips.c.clip_id, isouter=True)
        .where(t.dataset_clips.c.dataset_version == model["dataset_version"])
        .order_by(t.dataset_clips.c.clip_id)
    )
    consent_ids = sorted({row["consent_id"] for row in members})
    bundle = database.row(select(t.bundles).where(t.bundles.c.model_version == model_version))
    bundle_digest = bundle["bundle_digest"] if bundle else None
    spec = model["spec"]
    return Lineage(
        model_version=model_version,
        state=model["state"],
        dataset_version=model["dataset_version"],
        dvc_md5=dataset["dvc_md5"] if dataset else "",
        batches=tuple(dataset["batches"]) if dataset else (),
        clips=dict(Counter(row["split"] for row in members)),
        clip_ids=tuple(row["clip_id"] for row in members),
        consents=_scopes(store, consent_ids),
        consent_ids=tuple(consent_ids),
        erased_clips=sum(row["erased_at"] is not None for row in members),
        code_commit=spec["code_commit"],
        lock_digest=spec["lock_digest"],
        feature_schema_version=spec["feature_schema_version"],
        parent_model_version=model["parent_model_version"],
        cause=model["cause"],
        mlflow_run_id=model["mlflow_run_id"],
        evaluations=_evaluations(store, model_version),
        bundle_digest=bundle_digest,
        verdicts=_verdicts(store, bundle_digest),
        releases=_releases(store, model_version),
        apps=_apps(store, bundle_digest),
        devices=tuple(
            row["device_id"]
            for row in database.rows(
                select(t.devices.c.device_id)
                .where(t.devices.c.model_version == model_version)
                .order_by(t.devices.c.device_id)
            )
        ),
    )


def subject_lineage(store: Store, subject_token: str) -> SubjectLineage:
    """Every dataset version and model that learnt from one person (heirs by warm start included), and its releases."""
    database = store.database
    clips = database.rows(select(t.clips.c.clip_id).where(t.clips.c.subject_token == subject_token))
    with database.read() as connection:
        learnt = learnt_from(connection, subject_token)
    return SubjectLineage(
        subject_token=subject_token,
        clip_ids=tuple(sorted(row["clip_id"] for row in clips)),
        dataset_versions=learnt.dataset_versions,
        model_versions=learnt.model_versions,
        release_ids=tuple(v.release_id for v in release_views(store) if v.model_version in learnt.model_versions),
    )


def _scopes(store: Store, consent_ids: list[str]) -> dict[str, int]:
    scopes: Counter[str] = Counter()
    for start in range(0, len(consent_ids), 500):
        rows = store.database.rows(
            select(t.consents.c.scopes).where(t.consents.c.consent_id.in_(consent_ids[start : start + 500]))
        )
        for row in rows:
            scopes.update(row["scopes"])
    return dict(scopes)


def _evaluations(store: Store, model_version: str) -> tuple[dict[str, Any], ...]:
    overall = t.evaluations.c.report
    rows = store.database.rows(
        select(
            t.evaluations.c.variant,
            t.evaluations.c.suite_id,
            t.evaluations.c.suite_digest,
            overall["overall"]["wer"]["value"].as_float().label("wer"),
        )
        .where(t.evaluations.c.model_version == model_version)
        .order_by(t.evaluations.c.created_at)
    )
    return tuple(dict(row) for row in rows)


def _verdicts(store: Store, bundle_digest: str | None) -> tuple[dict[str, Any], ...]:
    if bundle_digest is None:
        return ()
    rows = store.database.rows(
        select(t.verdicts.c.verdict).where(t.verdicts.c.bundle_digest == bundle_digest).order_by(t.verdicts.c.gate)
    )
    return tuple(row["verdict"] for row in rows)


def _releases(store: Store, model_version: str) -> tuple[ReleaseLine, ...]:
    return tuple(
        ReleaseLine(
            release_id=view.release_id,
            state=view.state.value,
            transitions=tuple(
                {"at": str(step.at), "from": step.from_state, "to": step.to_state, "reason": step.reason}
                for step in view.transitions
            ),
        )
        for view in release_views(store)
        if view.model_version == model_version
    )


def _apps(store: Store, bundle_digest: str | None) -> tuple[str, ...]:
    lines = store.ledger.lines(kind=EXPORTED, subject=bundle_digest) if bundle_digest else []
    return tuple(sorted({line.payload["platform"] for line in lines}))


def device_counts(store: Store) -> dict[str, int]:
    """How many devices last reported each model version."""
    rows = store.database.rows(
        select(t.devices.c.model_version, func.count().label("n")).group_by(t.devices.c.model_version)
    )
    return {str(row["model_version"]): row["n"] for row in rows}


def lineage_lines(found: Lineage) -> list[str]:
    """A lineage in plain lines."""
    releases = ", ".join(f"{r.release_id} {r.state}" for r in found.releases) or "none"
    clips = ", ".join(f"{count} {split}" for split, count in sorted(found.clips.items()))
    scopes = ", ".join(f"{count} {scope}" for scope, count in sorted(found.consents.items()))
    evaluations = "; ".join(f"{e['variant']} on {e['suite_id']} WER {100 * e['wer']:.1f} %" for e in found.evaluations)
    gates = ", ".join(f"{v['gate']} {v['outcome']}" for v in found.verdicts) or "none"
    return [
        f"model      {found.model_version} ({found.state}), parent {found.parent_model_version or 'none'}",
        f"cause      {found.cause}",
        f"data       {found.dataset_version} = DVC md5 {found.dvc_md5}, batches {', '.join(found.batches)}",
        f"clips      {clips}; {found.erased_clips} erased since",
        f"consents   {len(found.consent_ids)} receipts: {scopes}",
        f"code       commit {found.code_commit}, lock {found.lock_digest[:12]}",
        f"features   {found.feature_schema_version}",
        f"evaluation {evaluations or 'none'}",
        f"bundle     {found.bundle_digest or 'none'}",
        f"verdicts   {gates}",
        f"releases   {releases}",
        f"apps       {', '.join(found.apps) or 'none'}",
        f"devices    {len(found.devices)} run it",
    ]
