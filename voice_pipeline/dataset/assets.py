"""Dagster shell of the dataset stage."""

from dagster import MaterializeResult, ResourceParam, asset

from voice_pipeline.dataset import snapshot as snapshots
from voice_pipeline.dataset.suites import freeze_suites
from voice_pipeline.store.store import Store

OWNERS = ["team:speech"]


@asset(group_name="dataset", owners=OWNERS, kinds={"dvc", "greatexpectations"}, deps=["labeled_batch"])
def dataset_snapshot(store: ResourceParam[Store]) -> MaterializeResult:
    """A gated, versioned, speaker-disjoint dataset version of all closed batches."""
    made = snapshots.snapshot(store)
    return MaterializeResult(
        metadata={
            "dataset_version": made.dataset_version,
            "dvc_md5": made.dvc_md5,
            "parent": made.parent or "none",
            "created": made.created,
            "clips": made.clips,
            "splits": made.splits,
            "batches": list(made.batches),
            "left_out": made.skipped,
        }
    )


@asset(group_name="dataset", owners=OWNERS, kinds={"parquet"}, deps=["dataset_snapshot"])
def eval_suites(store: ResourceParam[Store]) -> MaterializeResult:
    """The frozen suite of test clips that every model is judged on."""
    suite = freeze_suites(store, snapshots.latest_version(store))
    return MaterializeResult(
        metadata={
            "suite": suite.suite_id,
            "digest": suite.digest,
            "clips": len(suite.clip_ids),
            "conditions": list(suite.conditions),
            "noises": len(suite.noise_ids),
            "frozen_from": suite.dataset_version,
        }
    )
