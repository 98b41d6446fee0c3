"""The Dagster shell: what is published stays fetchable without anyone doing anything."""

from __future__ import annotations

from datetime import timedelta

from dagster import DagsterInstance, RunRequest, SkipReason, build_sensor_context

from voice_pipeline.packaging.metadata_chain import TIMESTAMP
from voice_pipeline.packaging.repository import UpdateRepository
from voice_pipeline.packaging.sensors import renewal_job, repository_renewal_sensor
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline_tests.packaging.small_models import sign_small_bundle

ONLINE_LIFETIME = timedelta(days=30)
MODEL = "m-20261102-000000b1"


def tick(store: Store) -> list[RunRequest]:
    context = build_sensor_context(instance=DagsterInstance.ephemeral(), resources={"store": store})
    found = list(repository_renewal_sensor(context))  # type: ignore[call-overload]
    return [item for item in found if not isinstance(item, SkipReason)]


def publish(store: Store) -> None:
    manifest = sign_small_bundle(store.settings, MODEL, 0)
    UpdateRepository(store.settings, store.now()).publish(store.settings.bundles / MODEL, manifest)


def test_metadata_is_renewed_by_itself_so_that_it_never_expires(store: Store, clock: ManualClock) -> None:
    publish(store)
    keys = set()
    for _ in range(10):
        clock.advance(ONLINE_LIFETIME / 4)
        for request in tick(store):
            assert tick(store)[0].run_key == request.run_key, "one renewal a version"
            keys.add(request.run_key)
            assert renewal_job.execute_in_process(resources={"store": store}).success
            assert tick(store) == []
        timestamp = UpdateRepository(store.settings, store.now()).chain.current(TIMESTAMP).signed
        assert timestamp.expires > store.now() + timedelta(days=7)
    assert len(keys) == 5


def test_a_home_that_publishes_nothing_is_left_alone(store: Store, clock: ManualClock) -> None:
    clock.advance(ONLINE_LIFETIME)
    assert tick(store) == []
    assert not store.settings.tuf.exists()
    UpdateRepository(store.settings, store.now()).trusted_root()
    clock.advance(ONLINE_LIFETIME)
    assert tick(store) == []
