"""Assets of the labeling stage: triaged_clips[day] → label_tasks → reviewed_labels → labeled_batch."""

from dagster import AssetExecutionContext, BackfillPolicy, MaterializeResult, ResourceParam, asset

from voice_pipeline.labeling.batches import close_batch
from voice_pipeline.labeling.labels import resolve
from voice_pipeline.labeling.tasks import open_tasks
from voice_pipeline.labeling.triage import triage_day
from voice_pipeline.partitions import capture_date
from voice_pipeline.schema.labeling_policy import load_labeling_policy
from voice_pipeline.store.incidents import open_incidents
from voice_pipeline.store.store import Store

OWNERS = ["team:speech"]


@asset(
    group_name="labeling",
    owners=OWNERS,
    kinds={"python", "sql"},
    partitions_def=capture_date,
    backfill_policy=BackfillPolicy.single_run(),
    deps=["captured_clips", "feature_store"],
    description="Route, priority and recorded inclusion probability of every clip of the day, within the budget.",
)
def triaged_clips(context: AssetExecutionContext, store: ResourceParam[Store]) -> MaterializeResult:
    policy, incidents = load_labeling_policy(store.settings.policy_dir), open_incidents(store)
    days = [triage_day(store, policy, day, incidents) for day in context.partition_keys]
    return MaterializeResult(
        metadata={
            "clips": sum(day.clips for day in days),
            "selected": sum(day.selected for day in days),
            "newly_selected": sum(day.newly_selected for day in days),
            "audit_stream": sum(day.audited for day in days),
            "routes": {day.day: day.routes for day in days},
            "incidents": sorted({day.incident_id for day in days if day.incident_id}),
        }
    )


@asset(
    group_name="labeling",
    owners=OWNERS,
    kinds={"python", "sql"},
    deps=["triaged_clips"],
    description="One review task for every selected clip, gold items mixed in; answered on the review page.",
)
def label_tasks(store: ResourceParam[Store]) -> MaterializeResult:
    summary = open_tasks(store, load_labeling_policy(store.settings.policy_dir))
    return MaterializeResult(
        metadata={
            "opened": summary.opened,
            "gold_items": summary.gold,
            "withdrawn": summary.withdrawn,
            "escalated": summary.escalated,
            "states": summary.states,
        }
    )


@asset(
    group_name="labeling",
    owners=OWNERS,
    kinds={"python", "sql"},
    deps=["label_tasks"],
    description="Answers that agree or were adjudicated, normalised into labels.",
)
def reviewed_labels(store: ResourceParam[Store]) -> MaterializeResult:
    summary = resolve(store, load_labeling_policy(store.settings.policy_dir))
    return MaterializeResult(
        metadata={
            "labelled": summary.labelled,
            "methods": summary.methods,
            "unintelligible": summary.unintelligible,
            "second_pass_agreement": summary.agreement if summary.agreement is not None else "no second passes",
        }
    )


@asset(
    group_name="labeling",
    owners=OWNERS,
    kinds={"python", "sql"},
    deps=["reviewed_labels"],
    description="Approved labels closed into one batch that never changes.",
)
def labeled_batch(store: ResourceParam[Store]) -> MaterializeResult:
    batch = close_batch(store, load_labeling_policy(store.settings.policy_dir))
    return MaterializeResult(metadata={"batch_id": batch or "none: too few labels wait"})
