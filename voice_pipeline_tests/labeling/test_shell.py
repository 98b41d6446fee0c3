"""The Dagster shell of the stage: assets run in order, checks see what is wrong, sensors fire once a cause."""

from __future__ import annotations

from typing import Any

import pytest
from dagster import (
    AssetKey,
    AssetSelection,
    AssetSpec,
    DagsterInstance,
    Definitions,
    SensorDefinition,
    build_sensor_context,
    load_asset_checks_from_modules,
    load_assets_from_modules,
)
from sqlalchemy import insert, select, update

from voice_pipeline.fleet.reviewers import SimulatedReviewers
from voice_pipeline.labeling import assets, audit, checks
from voice_pipeline.labeling.sensors import finished_reviews_sensor, jobs, labeling_incident_sensor, sensors
from voice_pipeline.labeling.tasks import open_tasks
from voice_pipeline.labeling.triage import triage_day
from voice_pipeline.partitions import capture_date
from voice_pipeline.schema.labeling_policy import load_labeling_policy
from voice_pipeline.schema.monitoring import Action, IncidentKind
from voice_pipeline.store.incidents import close_incident, open_incident
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import batches, consents, label_tasks, labels, triage
from voice_pipeline_tests.labeling.catalogue import add_captures, add_clips

DAY = "2026-11-02"


@pytest.fixture(scope="module")
def instance() -> DagsterInstance:
    return DagsterInstance.ephemeral()


def definitions(store: Store) -> Definitions:
    upstream = [AssetSpec("captured_clips", partitions_def=capture_date), AssetSpec("feature_store")]
    return Definitions(
        assets=[*load_assets_from_modules([assets]), *upstream],
        asset_checks=load_asset_checks_from_modules([checks]),
        sensors=sensors,
        jobs=jobs,
        resources={"store": store},
    )


def run(store: Store, instance: DagsterInstance, job: str, day: str | None = None) -> Any:
    return definitions(store).resolve_job_def(job).execute_in_process(instance=instance, partition_key=day)


def tick(sensor: SensorDefinition, store: Store) -> list[tuple[str | None, str | None, dict[str, str]]]:
    repository = definitions(store).get_repository_def()
    context = build_sensor_context(
        instance=DagsterInstance.ephemeral(), resources={"store": store}, repository_def=repository
    )
    requests = sensor.evaluate_tick(context).run_requests or []
    return [(r.run_key, r.partition_key, dict(r.tags)) for r in requests]


def test_clips_become_a_batch_through_the_assets_and_sensors(store: Store, instance: DagsterInstance) -> None:
    truth = add_clips(store, 40, DAY)
    result = run(store, instance, "triage_job", DAY)
    assert result.success
    assert len(store.database.rows(select(label_tasks))) == 40
    assert tick(finished_reviews_sensor, store) == []
    SimulatedReviewers(truth).answer_open_tasks(store)
    (request,) = tick(finished_reviews_sensor, store)
    assert request[2]["cause"] == "reviews"
    assert [request] == tick(finished_reviews_sensor, store), "a repeated tick asks for the very same run"
    assert run(store, instance, "labeling_job").success
    assert store.database.scalar(select(batches.c.clips)) == 40
    assert tick(finished_reviews_sensor, store) == []


def test_an_incident_triages_its_days_again_and_then_rests(store: Store, instance: DagsterInstance) -> None:
    add_captures(store, 150, DAY)
    assert run(store, instance, "triage_job", DAY).success
    assert tick(labeling_incident_sensor, store) == []
    incident = open_incident(store, IncidentKind.INPUT_DRIFT, {"day": DAY}, "m-1", Action.RETRAIN, "drift", {})
    ((key, day, tags),) = tick(labeling_incident_sensor, store)
    assert (day, tags["incident"]) == (DAY, incident.incident_id)
    assert tick(labeling_incident_sensor, store)[0][0] == key
    assert run(store, instance, "triage_job", day).success
    assert tick(labeling_incident_sensor, store) == []
    assert store.database.rows(select(triage).where(triage.c.selected.is_(False))) == []


def test_more_captures_after_the_incident_ask_for_another_run_and_a_closed_incident_for_none(store: Store) -> None:
    policy = load_labeling_policy(store.settings.policy_dir)
    incident = open_incident(store, IncidentKind.INPUT_DRIFT, {"day": DAY}, "m-1", Action.RETRAIN, "drift", {})

    add_captures(store, 100, DAY, seed=1)
    triage_day(store, policy, DAY, [])
    first = tick(labeling_incident_sensor, store)
    add_captures(store, 50, DAY, seed=2)
    triage_day(store, policy, DAY, [])
    second = tick(labeling_incident_sensor, store)
    assert first[0][0] != second[0][0]
    close_incident(store, incident.incident_id, "test")
    assert tick(labeling_incident_sensor, store) == []


def test_the_stage_has_the_edges_of_the_asset_graph(store: Store) -> None:
    graph = definitions(store).resolve_asset_graph()
    edges = {key.to_user_string(): set(graph.get(key).parent_keys) for key in AssetSelection.all().resolve(graph)}
    assert edges["triaged_clips"] == {AssetKey("captured_clips"), AssetKey("feature_store")}
    assert edges["label_tasks"] == {AssetKey("triaged_clips")}
    assert edges["reviewed_labels"] == {AssetKey("label_tasks")}
    assert edges["labeled_batch"] == {AssetKey("reviewed_labels")}


def test_a_range_of_days_is_triaged_in_one_run(store: Store, instance: DagsterInstance) -> None:
    add_clips(store, 5, "2026-11-01")
    add_clips(store, 5, DAY)
    job = definitions(store).resolve_job_def("triage_job")
    tags = {"dagster/asset_partition_range_start": "2026-11-01", "dagster/asset_partition_range_end": DAY}
    assert job.execute_in_process(instance=instance, tags=tags).success
    assert len(store.database.rows(select(triage).where(triage.c.selected))) == 10


def test_a_task_without_consent_blocks(store: Store) -> None:
    add_clips(store, 3, DAY)
    policy = load_labeling_policy(store.settings.policy_dir)

    triage_day(store, policy, DAY, [])
    open_tasks(store, policy)
    assert audit.nobody_asked_without_consent(store).holds
    with store.database.write() as connection:
        connection.execute(update(consents).values(revoked_at="2026-11-02"))
    assert audit.nobody_asked_without_consent(store).figures["forbidden"] == 3


def test_a_clip_without_route_an_empty_label_and_a_lost_audit_stream_are_seen(store: Store) -> None:
    policy = load_labeling_policy(store.settings.policy_dir)

    truth = add_clips(store, 1000, DAY)
    triage_day(store, policy, DAY, [])
    assert audit.triage_complete(store).holds
    assert audit.audit_stream_kept(store, policy).holds
    assert audit.labels_have_words(store).holds
    add_clips(store, 1, DAY, seed=9)
    with store.database.write() as connection:
        connection.execute(update(triage).values(audit=False))
        connection.execute(
            insert(labels).values(
                clip_id=next(iter(truth)),
                text="",
                raw_text="?",
                normaliser_version="x",
                method="single",
                reviewers=[],
                approved_at="2026-11-02",
                batch_id="batch-20261102-001",
            )
        )
        connection.execute(update(consents).values(scopes=["transcribe_review"]))
    assert not audit.triage_complete(store).holds
    assert not audit.audit_stream_kept(store, policy).holds
    assert not audit.labels_have_words(store).holds
    assert not audit.batches_are_consented(store).holds
