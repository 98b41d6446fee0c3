"""What is checked in seconds before minutes are spent: may this data be used, and can this machine train on it?"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from voice_pipeline.schema.consent import Scope
from voice_pipeline.schema.dataset import ManifestRow, Split
from voice_pipeline.schema.retrain_policy import Preflight
from voice_pipeline.speech.errors import SpeechError
from voice_pipeline.store.errors import StoreError
from voice_pipeline.store.manifest import manifest_rows
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import consents, eval_suites, training_frames
from voice_pipeline.training.errors import TrainingError
from voice_pipeline.training.planning import Plan

SMOKE_UTTERANCES = 4
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    passed: bool
    detail: str


def check_data(store: Store, plan: Plan) -> list[Finding]:
    """Whether the dataset version may and can be trained on.

    Readable, splits filled, no speaker in two of them, no clip of a frozen suite, consent to train standing for every
    train and dev clip, texts in the alphabet, features joined.
    """
    try:
        rows = manifest_rows(store, plan.spec.dataset_version)
    except StoreError as error:
        return [Finding("manifest", False, str(error))]
    learnt_from = [row for row in rows if row.split is not Split.TEST]
    return [
        Finding("manifest", True, f"{len(rows)} clips of {plan.spec.dataset_version}"),
        _splits(rows),
        _disjoint(rows),
        _suites(store, learnt_from),
        _consents(store, learnt_from),
        _alphabet(learnt_from, plan.spec.alphabet),
        _frame(store, plan),
    ]


def check_machine(store: Store, plan: Plan, limits: Preflight) -> list[Finding]:
    """Whether this machine can train the plan: disk, memory, the parent's checkpoint, and one batch that learns."""
    free_disk = shutil.disk_usage(store.settings.root).free // MEGABYTE
    free_memory = available_memory_mb()
    return [
        Finding("disk", free_disk >= limits.disk_mb, f"{free_disk} MB free, {limits.disk_mb} needed"),
        Finding("memory", free_memory >= limits.memory_mb, f"{free_memory} MB free, {limits.memory_mb} needed"),
        _parent(store, plan),
        _attempt("one batch", lambda: _smoke(store, plan)),
    ]


def available_memory_mb(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Memory that can be had without swapping, in MB; where the system does not tell, more than anybody asks for."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return 1_000_000
    found = [int(line.split()[1]) * 1024 // MEGABYTE for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else 1_000_000


def _splits(rows: list[ManifestRow]) -> Finding:
    counts = {split.value: sum(row.split is split for row in rows) for split in Split}
    return Finding(
        "splits", counts["train"] > 0 and counts["dev"] > 0, ", ".join(f"{k} {v}" for k, v in counts.items())
    )


def _disjoint(rows: list[ManifestRow]) -> Finding:
    splits: dict[str, set[Split]] = {}
    for row in rows:
        splits.setdefault(row.speaker, set()).add(row.split)
    shared = sum(len(found) > 1 for found in splits.values())
    return Finding("speakers disjoint", shared == 0, f"{shared} of {len(splits)} speakers are in more than one split")


def _suites(store: Store, learnt_from: list[ManifestRow]) -> Finding:
    """No clip of any frozen suite may ever be learnt from."""
    frozen = {clip for row in store.database.rows(select(eval_suites.c.suite)) for clip in row["suite"]["clip_ids"]}
    leaked = sum(row.clip_id in frozen for row in learnt_from)
    return Finding("suites untouched", leaked == 0, f"{leaked} train or dev clips lie in a frozen suite")


def _consents(store: Store, learnt_from: list[ManifestRow]) -> Finding:
    standing = {
        row["consent_id"]
        for row in store.database.rows(select(consents).where(consents.c.revoked_at.is_(None)))
        if Scope.TRAIN.value in row["scopes"]
    }
    without = sum(row.consent_id not in standing for row in learnt_from)
    return Finding("consents", without == 0, f"{without} of {len(learnt_from)} clips lack a standing consent to train")


def _alphabet(learnt_from: list[ManifestRow], alphabet: str) -> Finding:
    allowed = set(alphabet)
    wrong = [row.clip_id for row in learnt_from if not row.text or not set(row.text) <= allowed]
    detail = f"{len(wrong)} texts are empty or leave the alphabet" + (f", first {wrong[0]}" if wrong else "")
    return Finding("texts", not wrong, detail)


def _frame(store: Store, plan: Plan) -> Finding:
    row = store.database.row(
        select(training_frames).where(
            training_frames.c.dataset_version == plan.spec.dataset_version,
            training_frames.c.feature_schema_version == plan.spec.feature_schema_version,
        )
    )
    detail = f"{row['rows']} rows" if row else "no training frame; materialise training_frame"
    return Finding("training frame", row is not None and row["rows"] > 0, detail)


def _parent(store: Store, plan: Plan) -> Finding:
    parent = plan.spec.parent_model_version
    if parent is None:
        return Finding("parent", True, "none: from scratch")
    there = (store.settings.models / parent / "checkpoint" / "model.pt").is_file()
    return Finding("parent", there, f"{parent} {'has' if there else 'has no'} checkpoint in this home")


def _smoke(store: Store, plan: Plan) -> str:
    """Train one real batch with the plan's own spec in a folder that is thrown away."""
    from voice_pipeline.training.data import open_utterances
    from voice_pipeline.training.trainer import train

    few = [
        open_utterances(store, plan.spec.dataset_version, split)[:SMOKE_UTTERANCES]
        for split in (Split.TRAIN, Split.DEV)
    ]
    short = plan.spec.hyperparameters.model_copy(update={"max_epochs": 1, "batch_size": SMOKE_UTTERANCES})
    with tempfile.TemporaryDirectory() as folder:
        result = train(
            plan.spec.model_copy(update={"hyperparameters": short}), few[0], few[1], noises=[], workdir=Path(folder)
        )
    return f"loss {result.epochs[0].loss:.2f} in {result.epochs[0].seconds:.1f} s"


def _attempt(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, look())
    except (TrainingError, SpeechError, StoreError, RuntimeError) as error:  # torch reports everything as RuntimeError
        return Finding(name, False, str(error))
