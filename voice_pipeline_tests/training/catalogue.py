"""Rows that a retrain decision looks at, without the stages that would write them."""

from __future__ import annotations

from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import batches, dataset_clips, dataset_versions, noises
from voice_pipeline_tests.transitions import take


def add_dataset(store: Store, number: int, clips: int, cause: str = "reviews") -> str:
    """Dataset version `number` (from 1) that holds all batches so far; its own batch brings `clips` train clips."""
    version, batch = f"ds-{number:012d}", f"batch-20261102-{number:03d}"
    now = store.now().isoformat()
    closed = {"batch_id": batch, "closed_at": now, "digest": batch, "clips": clips, "cause": cause}
    earlier = [row["batches"] for row in store.database.rows(dataset_versions.select())]
    older = [
        dict(row)
        for row in store.database.rows(dataset_clips.select())
        if row["dataset_version"].endswith(str(number - 1))
    ]
    own = [
        {
            "clip_id": f"{number}-{n}",
            "subject_token": f"s{n % 5}",
            "consent_id": f"c{n % 5}",
            "split": "train",
            "batch_id": batch,
        }
        for n in range(clips)
    ]
    row = {
        "dataset_version": version,
        "dvc_md5": f"{number:032d}",
        "batches": [*(earlier[-1] if earlier else []), batch],
        "clips": clips + len(older),
        "manifest_sha256": "0" * 64,
        "validation": {},
        "created_at": now,
        "sequence": number,
    }
    with store.database.write() as connection:
        connection.execute(batches.insert(), closed)
        connection.execute(dataset_versions.insert(), row)
        connection.execute(dataset_clips.insert(), [{**clip, "dataset_version": version} for clip in older + own])
    return version


def add_noise(store: Store, noise_id: str, kind: str = "noise") -> None:
    """A row of the noise catalogue whose sound nobody stored."""
    row = {"noise_id": noise_id, "kind": kind, "category": "street", "licence": "CC0", "blob_key": noise_id}
    with store.database.write() as connection:
        connection.execute(noises.insert(), {**row, "sha256": "0" * 64, "duration_s": 1.0})


def move(store: Store, model_version: str, *states: ReleaseState) -> None:
    """Append the transitions of a release as the release stage would."""
    take(store, f"{model_version}-r1", model_version, "0" * 64, *states, policy_digest="0" * 64)
