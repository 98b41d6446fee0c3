"""Rows of the next dataset version: approved labels of closed batches, where person and consent still allow it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import RowMapping, select

from voice_pipeline.dataset.splits import allows, assign
from voice_pipeline.schema.consent import Scope
from voice_pipeline.schema.dataset import ManifestRow, Split
from voice_pipeline.speech.normalise import label_form
from voice_pipeline.store.manifest import shard_name
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import batches, clips, consents, labels, speaker_splits

COPIED = (
    *("clip_id", "content_sha256", "consent_id", "text", "batch_id", "duration_s", "device_class"),
    *("microphone", "locale", "accent", "gender", "source", "captured_at"),
)


@dataclass(frozen=True)
class Candidates:
    """What a snapshot would hold.

    Attributes:
        rows: plain manifest rows (fields of `ManifestRow`), not yet validated.
        shards: batch id → clip id → key of its encrypted audio; with clips that wait (an empty transcript may be
            corrected, the first copy of a recording be erased, labels be asked for in another alphabet), since a shard
            is never rewritten.
        splits: every speaker's split, old ones and new ones.
        skipped: why labelled clips stay out, with counts.
        batches: all closed batches that were looked at.
    """

    rows: tuple[dict[str, Any], ...]
    shards: Mapping[str, Mapping[str, str]]
    splits: Mapping[str, Split]
    skipped: Mapping[str, int]
    batches: tuple[str, ...]


def gather(store: Store, alphabet: str) -> Candidates:
    """Read the catalogue in one go; erased people, revoked consents, empty transcripts and labels that are not written
    in `alphabet` by the rules of today stay out: a version never mixes two ways of writing.
    """
    found = _labelled(store)
    erased = store.vault.erased()
    skipped: Counter[str] = Counter()
    usable = []
    for row in found:
        reason = _unusable(row, erased)
        if reason:
            skipped[reason] += 1
        else:
            usable.append(row)
    splits = assign(_scopes_by_speaker(usable), _known_splits(store))
    rows: list[dict[str, Any]] = []
    heard: set[str] = set()
    form = label_form(alphabet)
    shards: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for row in sorted(usable, key=lambda row: _precedence(row, splits)):
        split = splits[row["subject_token"]]
        if not allows(_scopes(row), split):
            skipped[f"consent_does_not_allow_{split}"] += 1
            continue
        shards[row["batch_id"]][row["clip_id"]] = row["blob_key"]
        if row["normaliser_version"] != form:
            skipped["written_in_another_alphabet"] += 1
        elif not row["text"].strip():
            skipped["empty_transcript"] += 1
        elif row["content_sha256"] in heard:
            skipped["same_recording"] += 1
        else:
            heard.add(row["content_sha256"])
            rows.append(_manifest_fields(row, split))
    closed = store.database.rows(select(batches.c.batch_id).order_by(batches.c.batch_id))
    return Candidates(
        rows=tuple(rows),
        shards=shards,
        splits=splits,
        skipped=dict(skipped),
        batches=tuple(row["batch_id"] for row in closed),
    )


def manifest_rows(candidates: Candidates) -> list[ManifestRow]:
    """The rows as typed records. Call it after the gate: it raises `ValidationError` on what the gate refuses."""
    return [ManifestRow.model_validate(row) for row in candidates.rows]


def _labelled(store: Store) -> Sequence[RowMapping]:
    joined = labels.join(clips, labels.c.clip_id == clips.c.clip_id).outerjoin(
        consents, clips.c.consent_id == consents.c.consent_id
    )
    closed = select(batches.c.batch_id)
    return store.database.rows(
        select(
            clips,
            labels.c.text,
            labels.c.normaliser_version,
            labels.c.batch_id,
            consents.c.scopes,
            consents.c.revoked_at,
        )
        .select_from(joined)
        .where(labels.c.batch_id.in_(closed))
        .order_by(clips.c.clip_id)
    )


def _precedence(row: RowMapping, splits: Mapping[str, Split]) -> tuple[str, int, str]:
    """Of the same recording the copy of the first batch counts, in one batch a test copy before a training copy: so
    no recording ever moves from one split to another.
    """
    order = (Split.TEST, Split.DEV, Split.TRAIN)
    return row["batch_id"], order.index(splits[row["subject_token"]]), row["clip_id"]


def _unusable(row: RowMapping, erased: set[str]) -> str | None:
    if row["erased_at"] is not None or row["subject_token"] in erased:
        return "erased"
    if row["scopes"] is None or Scope.TRANSCRIBE_REVIEW not in _scopes(row):
        return "no_consent"
    if row["revoked_at"] is not None:
        return "consent_revoked"
    return None


def _scopes(row: RowMapping) -> frozenset[Scope]:
    return frozenset(Scope(scope) for scope in row["scopes"] or ())


def _scopes_by_speaker(rows: Iterable[RowMapping]) -> dict[str, set[Scope]]:
    scopes: defaultdict[str, set[Scope]] = defaultdict(set)
    for row in rows:
        scopes[row["subject_token"]] |= _scopes(row)
    return dict(scopes)


def _known_splits(store: Store) -> dict[str, Split]:
    rows = store.database.rows(select(speaker_splits.c.subject_token, speaker_splits.c.split))
    return {row["subject_token"]: Split(row["split"]) for row in rows}


def _manifest_fields(row: RowMapping, split: Split) -> dict[str, Any]:
    fields = {name: row[name] for name in COPIED}
    return {**fields, "speaker": row["subject_token"], "split": split.value, "shard": shard_name(row["batch_id"])}
