"""The Dagster shell: the sensor asks once for a closed batch, the assets and checks tell what they did."""

from __future__ import annotations

from dagster import DagsterInstance, build_sensor_context, load_asset_checks_from_modules, materialize
from sqlalchemy import update

from voice_pipeline.dataset import assets, checks
from voice_pipeline.dataset.sensors import closed_batch_sensor
from voice_pipeline.dataset.snapshot import snapshot
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import dataset_clips
from voice_pipeline_tests.store.labelled_home import TEST_SCOPES, add_batch

PEOPLE = [f"person-{number}" for number in range(9)]


def run_keys(store: Store) -> list[str | None]:
    with DagsterInstance.ephemeral() as instance:
        context = build_sensor_context(instance=instance, resources={"store": store})
        return [request.run_key for request in closed_batch_sensor.evaluate_tick(context).run_requests or []]


def test_a_closed_batch_asks_for_one_run_until_it_is_in_a_version(store: Store) -> None:
    assert run_keys(store) == []
    add_batch(store, "batch-20260301-001", PEOPLE)
    first = run_keys(store)
    assert len(first) == 1
    assert run_keys(store) == first
    snapshot(store)
    assert run_keys(store) == []
    add_batch(store, "batch-20260302-001", ["newcomer"])
    assert run_keys(store) not in ([], first)


def test_assets_and_checks_run_and_a_speaker_in_two_splits_stops_the_run(store: Store) -> None:
    add_batch(store, "batch-20260301-001", PEOPLE)
    add_batch(store, "batch-20260301-002", ["tester"], scopes=TEST_SCOPES)
    everything = [assets.dataset_snapshot, assets.eval_suites, *load_asset_checks_from_modules([checks])]
    with DagsterInstance.ephemeral() as instance:
        result = materialize(everything, instance=instance, resources={"store": store})
        assert result.success
        outcome = {e.check_name: e.passed for e in result.get_asset_check_evaluations()}
        assert outcome.pop("suite_is_large_enough") is False
        assert outcome == dict.fromkeys(
            ("rows_meet_expectations", "rows_look_plausible", "speakers_keep_their_split", "version_is_whole"), True
        )
        with store.database.write() as connection:
            moved = (
                dataset_clips.c.clip_id
                == connection.execute(dataset_clips.select().limit(1)).mappings().one()["clip_id"]
            )
            connection.execute(update(dataset_clips).where(moved).values(split="moved"))
        result = materialize(everything, instance=instance, resources={"store": store}, raise_on_error=False)
        assert not result.success
        assert "eval_suites" not in {
            e.asset_key.to_user_string() for e in result.get_asset_materialization_events() if e.asset_key
        }
