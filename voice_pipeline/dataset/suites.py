"""Evaluation suites: named, frozen sets of test clips. A suite never changes; another set of clips is another suite."""

from __future__ import annotations

from sqlalchemy import func, select

from voice_pipeline.dataset.errors import EmptySuiteError
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.dataset import EvalSuite, Split
from voice_pipeline.store.manifest import manifest_rows
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import eval_suites, noises

CONDITIONS = ("clean", "noise_10db")
SEED = 7


def freeze_suites(store: Store, dataset_version: str) -> EvalSuite:
    """The suite `core-vN` of all test clips of `dataset_version`; the one frozen before if the clips are the same.

    The digest covers transcripts, audio digests and noises too, so a corrected label makes a new suite.

    Raises:
        EmptySuiteError: the version has no test clip.
    """
    tests = [row for row in manifest_rows(store, dataset_version) if row.split is Split.TEST]
    if not tests:
        raise EmptySuiteError(
            f"dataset version {dataset_version} has no test clip; label four speakers at least who allow evaluation"
        )
    content = [(row.clip_id, row.content_sha256, row.text) for row in tests]
    noise_ids = _noise_ids(store)
    suite_digest = digest({"clips": content, "conditions": CONDITIONS, "noises": noise_ids, "seed": SEED})
    with store.database.write() as connection:
        known = connection.execute(select(eval_suites.c.suite).where(eval_suites.c.digest == suite_digest)).scalar()
        if known is not None:
            return EvalSuite.model_validate(known)
        number = (connection.execute(select(func.count()).select_from(eval_suites)).scalar() or 0) + 1
        suite = EvalSuite(
            suite_id=f"core-v{number}",
            name=f"core-v{number}",
            dataset_version=dataset_version,
            clip_ids=tuple(row.clip_id for row in tests),
            conditions=CONDITIONS,
            noise_ids=noise_ids,
            seed=SEED,
            digest=suite_digest,
        )
        connection.execute(
            eval_suites.insert(),
            {
                "suite_id": suite.suite_id,
                "name": suite.name,
                "dataset_version": dataset_version,
                "digest": suite_digest,
                "suite": suite.model_dump(mode="json"),
                "created_at": store.now().isoformat(),
            },
        )
    return suite


def _noise_ids(store: Store) -> tuple[str, ...]:
    """The noises of this home at the time of freezing, pinned: noise imported later changes no frozen suite."""
    found = store.database.rows(select(noises.c.noise_id).where(noises.c.kind == "noise").order_by(noises.c.noise_id))
    return tuple(row["noise_id"] for row in found)
