"""What is checked in seconds before minutes are spent: may this data be used, and can this machine train on it?"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError
from sqlalchemy import func, select

from voice_pipeline.schema.consent import Scope
from voice_pipeline.schema.dataset import ManifestRow, Split
from voice_pipeline.schema.policy_file import PolicyError, load_policy
from voice_pipeline.schema.release_policy import FILE_NAME, ReleasePolicy
from voice_pipeline.schema.retrain_policy import Preflight
from voice_pipeline.schema.training import TrainingSpec
from voice_pipeline.speech.errors import SpeechError
from voice_pipeline.store.errors import StoreError
from voice_pipeline.store.feast_repo import declared_features
from voice_pipeline.store.manifest import dataset_folder, manifest_rows, schema_problems
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import consents, eval_suites, noises, training_frames
from voice_pipeline.training.capacity import MEGABYTE, available_gpu_memory_mb, available_memory_mb
from voice_pipeline.training.errors import TrainingError

if TYPE_CHECKING:
    from voice_pipeline.training.data import Utterances

FRAME_KEYS = ("clip_id", "split", "event_timestamp")

FAILURES = (TrainingError, SpeechError, StoreError, RuntimeError, MemoryError)
"""RuntimeError is what PyTorch reports everything as."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Outcome:
    """A finding that has no name yet."""

    passed: bool
    detail: str


@dataclass(frozen=True)
class Load:
    """What a run's memory depends on beside its spec: lengths of the train and dev utterances in samples, seconds of
    noises and room responses, all of which the trainer holds, and the processes on this machine.
    """

    sample_counts: list[int]
    sounds_s: float
    processes: int


def check_data(store: Store, spec: TrainingSpec) -> list[Finding]:
    """Whether the dataset version may and can be trained on.

    Manifest, policy and feature frame have the columns that they must have; splits filled, no speaker in two of them,
    no clip of a frozen suite, consent to train standing for every train and dev clip, texts in the alphabet.
    """
    try:
        problems = schema_problems(dataset_folder(store, spec.dataset_version))
        rows = [] if problems else manifest_rows(store, spec.dataset_version)
    except StoreError as error:
        return [Finding("manifest", False, str(error))]
    except ValidationError as error:  # its text would quote what a person said
        fields = sorted({".".join(map(str, found["loc"])) for found in error.errors()})
        problems, rows = [f"a row's {', '.join(fields)} is no valid value"], []
    if problems:
        return [Finding("manifest", False, f"{spec.dataset_version}: {'; '.join(problems)}; snapshot a new version")]
    learnt_from = [row for row in rows if row.split is not Split.TEST]
    return [
        Finding("manifest", True, f"{len(rows)} clips of {spec.dataset_version}, all columns as they must be"),
        _policy(store),
        _splits(rows),
        _disjoint(rows),
        _suites(store, learnt_from),
        _consents(store, learnt_from),
        _alphabet(learnt_from, spec.alphabet),
        _frame(store, spec),
    ]


def check_machine(store: Store, spec: TrainingSpec, limits: Preflight) -> Iterator[Finding]:
    """Whether this machine can train the plan: the parent's checkpoint, disk, memory of host and GPUs as estimated
    from the plan.
    """
    yield _parent(store, spec)
    yield from check_room(store.settings.root, spec, limits, lambda: _load(store, spec))


def check_room(root: Path, spec: TrainingSpec, limits: Preflight, load: Callable[[], Load]) -> Iterator[Finding]:
    """Whether the disk of `root` and the memory of host and GPUs hold what training is estimated to take."""
    yield _attempt("disk", lambda: _disk(root, spec, limits))
    yield _attempt("memory", lambda: _memory(spec, limits, load()))
    yield _attempt("GPU memory", lambda: _gpu_memory(spec, load()))


def check_network(store: Store, spec: TrainingSpec, limits: Preflight) -> list[Finding]:
    """`check_learning_by_heart` on the plan's own train clips."""
    from voice_pipeline.training.data import open_utterances

    return check_learning_by_heart(lambda: open_utterances(store, spec.dataset_version, Split.TRAIN), spec, limits)


def check_learning_by_heart(
    open_train: Callable[[], Utterances], spec: TrainingSpec, limits: Preflight
) -> list[Finding]:
    """Whether the spec's own network learns a handful of real clips by heart, and is then heard to have done so."""
    from voice_pipeline.training.overfit import easiest, overfit, smoke

    try:
        clips = easiest(open_train(), spec)
        learnt = overfit(spec, clips, limits.overfit_loss_share, limits.overfit_steps)
    except FAILURES as error:
        return [Finding("one batch", False, _told(error))]
    told = f"loss {learnt.first_loss:.2f} → {learnt.last_loss:.2f} in {learnt.steps} steps, {learnt.seconds:.1f} s"
    return [
        Finding("one batch", True, f"{len(clips)} clips learnt by heart: {told}"),
        _attempt("inference", lambda: Outcome(True, f"{smoke(learnt.recogniser, clips):.0%} wrong characters in them")),
    ]


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


def _policy(store: Store) -> Finding:
    """The rules by which the trained model will be judged can be read; those of the retrain are read already."""
    try:
        load_policy(store.settings.policy_dir / FILE_NAME, ReleasePolicy)
    except PolicyError as error:
        return Finding("policy", False, str(error))
    return Finding("policy", True, f"{FILE_NAME} is valid")


def _frame(store: Store, spec: TrainingSpec) -> Finding:
    """The training frame is the one that was built, and has exactly the columns that the feature service declares."""
    row = store.database.row(
        select(training_frames).where(
            training_frames.c.dataset_version == spec.dataset_version,
            training_frames.c.feature_schema_version == spec.feature_schema_version,
        )
    )
    if row is None or row["rows"] == 0:
        return Finding("training frame", False, "no training frame; materialise training_frame")
    problems = _frame_problems(store.settings.root / row["uri"])
    detail = "; ".join(problems) + "; materialise training_frame" if problems else f"{row['rows']} rows, as declared"
    return Finding("training frame", not problems, detail)


def _frame_problems(path: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException):
        return [f"file {path.name} is missing or no parquet file"]
    wanted = {*FRAME_KEYS, *declared_features()}
    numeric = {field.name for field in schema if pa.types.is_floating(field.type) or pa.types.is_integer(field.type)}
    return [
        *(f"column {name} is missing" for name in sorted(wanted - set(schema.names))),
        *(f"column {name} is not in the feature service" for name in sorted(set(schema.names) - wanted)),
        *(f"column {name} is no number" for name in sorted((set(schema.names) & declared_features().keys()) - numeric)),
    ]


def _parent(store: Store, spec: TrainingSpec) -> Finding:
    parent = spec.parent_model_version
    if parent is None:
        return Finding("parent", True, "none: from scratch")
    there = (store.settings.models / parent / "checkpoint" / "model.pt").is_file()
    return Finding("parent", there, f"{parent} {'has' if there else 'has no'} checkpoint in this home")


def _disk(root: Path, spec: TrainingSpec, limits: Preflight) -> Outcome:
    from voice_pipeline.training.estimates import disk_needed

    estimate = disk_needed(spec)
    free = shutil.disk_usage(root).free // MEGABYTE
    return _enough(free, str(estimate), max(estimate.megabytes, limits.disk_mb))


def _memory(spec: TrainingSpec, limits: Preflight, load: Load) -> Outcome:
    """Without GPU the host holds everything."""
    from voice_pipeline.training.estimates import host_memory_needed, memory_needed

    needed = memory_needed if available_gpu_memory_mb(load.processes) is None else host_memory_needed
    estimate = needed(spec, load.sample_counts, load.sounds_s, load.processes)
    return _enough(available_memory_mb(), str(estimate), max(estimate.megabytes, limits.memory_mb))


def _gpu_memory(spec: TrainingSpec, load: Load) -> Outcome:
    from voice_pipeline.training.estimates import network_memory_needed

    free = available_gpu_memory_mb(load.processes)
    if free is None:
        return Outcome(True, "none here: the host computes")
    estimate = network_memory_needed(spec, load.sample_counts, load.processes)
    return _enough(free, str(estimate), estimate.megabytes)


def _load(store: Store, spec: TrainingSpec) -> Load:
    from voice_pipeline.training.data import open_utterances

    splits = [open_utterances(store, spec.dataset_version, split) for split in (Split.TRAIN, Split.DEV)]
    counts = [count for split in splits for count in split.sample_counts]
    sounds_s = float(store.database.scalar(select(func.sum(noises.c.duration_s))) or 0.0)
    return Load(counts, sounds_s, store.settings.training_processes)


def _enough(free: int, estimate: str, needed: int) -> Outcome:
    return Outcome(free >= needed, f"{free} MB free, {needed} MB needed; estimated {estimate}")


def _attempt(name: str, look: Callable[[], Outcome]) -> Finding:
    try:
        outcome = look()
    except FAILURES as error:
        return Finding(name, False, _told(error))
    return Finding(name, outcome.passed, outcome.detail)


def _told(error: BaseException) -> str:
    return str(error) or type(error).__name__
