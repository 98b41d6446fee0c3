"""Clips of a frozen suite as a recogniser hears them: each clip once a condition, with the slices it counts in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from voice_pipeline.evaluation.errors import EmptySuiteError, MissingSuiteError, UnknownConditionError
from voice_pipeline.evaluation.noises import Noise, Samples, noise_bank, noise_stretch
from voice_pipeline.schema.dataset import EvalSuite, ManifestRow
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import dataset_versions, eval_suites

CLEAN = "clean"
NOISY = re.compile(r"^noise_(-?\d+)db$")
NOT_TOLD = ("", "unknown")
SHORT_S, MEDIUM_S = 2.0, 5.0
POOR_DB, FAIR_DB = 10.0, 20.0


@dataclass(frozen=True)
class SuiteClip:
    """One clip under one condition.

    Attributes:
        samples: float32 mono in [-1, 1] at 16 kHz, noise already mixed in.
        text: the reference, normalised.
        slices: names such as `condition:clean`, `device:phone_low`, `length:short`; what nobody told has no slice.
    """

    clip_id: str
    speaker: str
    text: str
    samples: Samples
    slices: tuple[str, ...]
    condition: str


def current_suite(store: Store) -> EvalSuite:
    """The newest frozen suite.

    Raises:
        MissingSuiteError: none was frozen yet.
    """
    suites = eval_suites.join(dataset_versions, eval_suites.c.dataset_version == dataset_versions.c.dataset_version)
    row = store.database.row(
        select(eval_suites.c.suite)
        .select_from(suites)
        .order_by(dataset_versions.c.sequence.desc(), eval_suites.c.created_at.desc())
    )
    if row is None:
        raise MissingSuiteError("no evaluation suite is frozen; materialise dataset_snapshot and eval_suites first")
    return EvalSuite.model_validate(row["suite"])


def find_suite(store: Store, suite_digest: str) -> EvalSuite:
    """The suite with that digest. Raises `MissingSuiteError` where there is none."""
    row = store.database.row(select(eval_suites.c.suite).where(eval_suites.c.digest == suite_digest))
    if row is None:
        raise MissingSuiteError(f"no evaluation suite has digest {suite_digest}; it was made in another home")
    return EvalSuite.model_validate(row["suite"])


def suite_clips(store: Store, suite: EvalSuite) -> Iterator[SuiteClip]:
    """Yield each clip of `suite` under each of its conditions. Clips of erased subjects are left out.

    Raises:
        UnknownConditionError: the suite names a condition that cannot be produced.
        EmptySuiteError: no clip of the suite is left.
    """
    from voice_pipeline.speech.audio import decode
    from voice_pipeline.store.manifest import dataset_folder, read_audio, read_manifest

    levels = {condition: snr_of(condition) for condition in suite.conditions}
    wanted = set(suite.clip_ids)
    folder = dataset_folder(store, suite.dataset_version)
    rows = [row for row in read_manifest(store, folder) if row.clip_id in wanted]
    if not rows:
        raise EmptySuiteError(f"suite {suite.name} has no clip left in {suite.dataset_version}; freeze a new one")
    bank = noise_bank(store, suite.noise_ids) if any(snr is not None for snr in levels.values()) else []
    for row, audio in read_audio(store, rows, folder):
        samples = decode(audio)
        for condition in suite.conditions:
            heard = played(samples, bank, levels[condition], suite.seed, row.clip_id, condition)
            yield SuiteClip(
                clip_id=row.clip_id,
                speaker=row.speaker,
                text=row.text,
                samples=heard,
                slices=(*slices_of(row, condition), snr_slice(heard)),
                condition=condition,
            )


def snr_of(condition: str) -> float | None:
    """SNR in dB of a condition's noise; None for `clean`. Raises `UnknownConditionError`."""
    if condition == CLEAN:
        return None
    match = NOISY.match(condition)
    if match is None:
        raise UnknownConditionError(f"condition {condition!r} is not known; use 'clean' or 'noise_<dB>db'")
    return float(match.group(1))


def played(
    samples: Samples, bank: Sequence[Noise], snr_db: float | None, seed: int, clip_id: str, condition: str
) -> Samples:
    """`samples` as they are, or mixed at `snr_db` with the stretch of noise that belongs to this clip and condition."""
    if snr_db is None:
        return samples
    from voice_pipeline.speech.audio import mix

    return mix(samples, noise_stretch(bank, len(samples), seed, clip_id, condition), snr_db)


def length_slice(seconds: float) -> str:
    """`length:short` below 2 s, `length:medium` below 5 s, else `length:long`."""
    return f"length:{'short' if seconds < SHORT_S else 'medium' if seconds < MEDIUM_S else 'long'}"


def snr_slice(samples: Samples) -> str:
    """`snr:poor` below 10 dB, `snr:fair` below 20 dB, else `snr:good`, as estimated from what is heard."""
    from voice_pipeline.speech.measures import measure

    snr_db = measure(samples).snr_db
    return f"snr:{'poor' if snr_db < POOR_DB else 'fair' if snr_db < FAIR_DB else 'good'}"


def slices_of(row: ManifestRow, condition: str) -> tuple[str, ...]:
    """The slices in which a clip counts under `condition`, so far as its manifest row tells (not `snr_slice`)."""
    told = {
        "condition": condition,
        "device": row.device_class,
        "microphone": row.microphone,
        "accent": row.accent,
        "gender": row.gender,
        "source": row.source,
    }
    return (*(f"{name}:{value}" for name, value in told.items() if value not in NOT_TOLD), length_slice(row.duration_s))
