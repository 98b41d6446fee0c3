"""`voice-pipeline evaluate`: any list of recordings, judged by any model version or bundle folder.

The manifest is JSON Lines, one recording a line: `path` (relative to the manifest), `text`, and optionally `speaker`,
`accent`, `gender`, `corpus`; more is ignored. Case and punctuation of a text count for punctuation figures only. The
whole list is checked before a model is loaded, so a bad line costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from voice_pipeline.evaluation.artifacts import FLOAT, INT8, Artifact, artifact_of, bundle_artifact, open_recogniser
from voice_pipeline.evaluation.errors import (
    BadManifestLineError,
    EmptyManifestError,
    EvaluationError,
    MissingManifestError,
    MissingRecordingError,
    RecordingSampleRateError,
    UnknownArtifactError,
    UnreadableRecordingError,
)
from voice_pipeline.evaluation.noises import SAMPLE_RATE, Noise, Samples
from voice_pipeline.evaluation.report import Subject, evaluate
from voice_pipeline.evaluation.suites import CLEAN, SuiteClip, length_slice, played, snr_slice
from voice_pipeline.schema.alphabet import CASED_PUNCTUATED
from voice_pipeline.schema.canonical import digest, sha256_bytes
from voice_pipeline.schema.training import EvaluationReport
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import models

NOISE_SEED = 7
TOLD = ("accent", "gender", "corpus")


@dataclass(frozen=True)
class Recording:
    """One line of a manifest, `line` from 1; `name` and `text` as written, `told` (field, value) pairs name slices."""

    line: int
    name: str
    path: Path
    text: str
    speaker: str
    told: tuple[tuple[str, str], ...]
    split: str = ""


@dataclass(frozen=True)
class NoiseUnder:
    """Noise recordings to play the clips in, at `snr_db`."""

    manifest: Path
    snr_db: float


def evaluate_manifest(
    store: Store, model: str, manifest: Path, noise: NoiseUnder | None = None, limit: int | None = None
) -> EvaluationReport:
    """Evaluate `model` on the recordings of `manifest`; nothing is stored.

    Args:
        model: a model version of this home (its bundle if packaged, else its checkpoint) or a bundle folder.
        noise: where given, each recording is also heard with noise under it; both conditions are slices.
        limit: only the first so many recordings.

    Raises:
        EvaluationError: one of its kinds, naming the file and line that is wrong.
    """
    recordings = read_recordings(manifest)[:limit]
    bank = [Noise(str(r.path), samples_of(r, noise.manifest)) for r in read_noises(noise.manifest)] if noise else []
    artifact = find_artifact(store, model)
    recogniser = open_recogniser(artifact)
    subject = Subject(
        model_version=artifact.model_version,
        variant=artifact.variant,
        suite_id=f"manifest:{manifest.name}",
        suite_digest=digest(
            {"manifest": sha256_bytes(manifest.read_bytes()), "limit": limit, "noise": _noise_key(noise)}
        ),
    )
    clips = _clips(recordings, manifest, bank, noise)
    return evaluate(recogniser, clips, subject, store.now(), word_speakers=1)  # the caller's own recordings


def find_artifact(store: Store, model: str) -> Artifact:
    """A model version's int8 bundle, else its float checkpoint, else the bundle folder at that path.

    Raises:
        UnknownArtifactError: `model` is none of these.
    """
    if store.database.row(select(models).where(models.c.model_version == model)) is None:
        return bundle_artifact(Path(model))
    try:
        return artifact_of(store, model, INT8)
    except UnknownArtifactError:
        return artifact_of(store, model, FLOAT)


def read_recordings(manifest: Path) -> list[Recording]:
    """All lines of a speech manifest, checked: JSON, fields, files present, readable headers, 16 kHz.

    Raises:
        EvaluationError: MissingManifestError, EmptyManifestError, BadManifestLineError, MissingRecordingError,
            UnreadableRecordingError or RecordingSampleRateError.
    """
    recordings = [_recording(manifest, number, fields, text_field="text") for number, fields in _lines(manifest)]
    for recording in recordings:
        _check_header(recording, manifest)
    return recordings


def read_noises(manifest: Path) -> list[Recording]:
    """All noises of a noise manifest; room responses (`kind` `rir`) are left out. Raises as `read_recordings`."""
    kept = [
        _recording(manifest, number, fields, text_field=None)
        for number, fields in _lines(manifest)
        if fields.get("kind", "noise") == "noise"
    ]
    if not kept:
        raise EmptyManifestError(f"noise manifest {manifest} lists no noise; give recordings of kind 'noise'")
    return kept


def read_negatives(manifest: Path) -> list[Recording]:
    """All recordings of a speech or noise manifest, without room responses; a missing `text` says that nobody speaks.

    Raises as `read_recordings`.
    """
    kept = [
        _recording(manifest, number, fields, text_field="text" if fields.get("text") else None)
        for number, fields in _lines(manifest)
        if fields.get("kind") != "rir"
    ]
    for recording in kept:
        _check_header(recording, manifest)
    return kept


def _lines(manifest: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, fields) of each line that is not blank."""
    try:
        content = manifest.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingManifestError(f"manifest {manifest} does not exist; give the path of a JSON Lines file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise MissingManifestError(f"manifest {manifest} cannot be read: {error}") from error
    found = False
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        found = True
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise BadManifestLineError(f"{manifest} line {number} is no JSON: {error}; correct that line") from error
        if not isinstance(fields, dict):
            raise BadManifestLineError(f'{manifest} line {number} is no JSON object; write {{"path": …, "text": …}}')
        yield number, fields
    if not found:
        raise EmptyManifestError(f"manifest {manifest} lists no recording; add a line a recording")


def _recording(manifest: Path, number: int, fields: dict[str, Any], text_field: str | None) -> Recording:
    needed = ("path",) if text_field is None else ("path", text_field)
    for name in needed:
        if not isinstance(fields.get(name), str) or not fields[name].strip():
            raise BadManifestLineError(f"{manifest} line {number} has no {name!r}; add it as a string")
    path = manifest.parent / fields["path"]
    if not path.is_file():
        raise MissingRecordingError(
            f"{manifest} line {number} names {fields['path']}, which does not exist; restore it"
        )
    return Recording(
        line=number,
        name=fields["path"],
        path=path,
        text=fields[text_field] if text_field else "",
        speaker=str(fields.get("speaker") or fields["path"]),
        told=tuple((name, str(fields[name])) for name in TOLD if fields.get(name)),
        split=str(fields.get("split") or ""),
    )


def _check_header(recording: Recording, manifest: Path) -> None:
    """Refuse a file whose header is not that of 16 kHz audio, without decoding it."""
    import soundfile

    try:
        rate = soundfile.info(str(recording.path)).samplerate
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise UnreadableRecordingError(
            f"{manifest} line {recording.line}: {recording.name} cannot be read as audio; give WAV, FLAC or Opus"
        ) from error
    if rate != SAMPLE_RATE:
        raise RecordingSampleRateError(
            f"{manifest} line {recording.line}: {recording.name} has {rate} Hz; resample it to {SAMPLE_RATE} Hz"
        )


def _clips(
    recordings: Sequence[Recording], manifest: Path, bank: Sequence[Noise], noise: NoiseUnder | None
) -> Iterator[SuiteClip]:
    from voice_pipeline.speech.normalise import normalise

    levels: dict[str, float | None] = {CLEAN: None}
    if noise is not None:
        levels[f"noise_{noise.snr_db:g}db"] = noise.snr_db
    for recording in recordings:
        samples = samples_of(recording, manifest)
        told = tuple(f"{field}:{value}" for field, value in recording.told)
        length = length_slice(len(samples) / SAMPLE_RATE)
        for condition, snr_db in levels.items():
            heard = played(samples, bank, snr_db, NOISE_SEED, recording.name, condition)
            yield SuiteClip(
                clip_id=recording.name,
                speaker=recording.speaker,
                text=normalise(recording.text, CASED_PUNCTUATED),
                samples=heard,
                slices=(f"condition:{condition}", *told, length, snr_slice(heard)),
                condition=condition,
            )


def samples_of(recording: Recording, manifest: Path) -> Samples:
    """The recording's audio. Raises an `EvaluationError` that names the manifest line."""
    from voice_pipeline.speech.audio import load
    from voice_pipeline.speech.errors import AudioError, WrongSampleRateError

    try:
        return load(recording.path)
    except AudioError as error:
        kind: type[EvaluationError] = (
            RecordingSampleRateError if isinstance(error, WrongSampleRateError) else UnreadableRecordingError
        )
        raise kind(f"{manifest} line {recording.line}: {error}") from error


def _noise_key(noise: NoiseUnder | None) -> dict[str, Any] | None:
    return {"sha256": sha256_bytes(noise.manifest.read_bytes()), "snr_db": noise.snr_db} if noise else None
