"""The whole update is measured on fresh devices, with the live bundle, or not at all."""

from __future__ import annotations

import pytest

from voice_pipeline import device_bench
from voice_pipeline.device.client import DeviceClient
from voice_pipeline.device_bench import RUNS, NothingToUpdateToError, update_seconds
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.store.store import Store
from voice_pipeline_tests.fleet.field import V1, V2, move, publish


def test_it_needs_a_live_model(store: Store) -> None:
    with pytest.raises(NothingToUpdateToError, match="make demo"):
        update_seconds(store, None)


def test_each_run_is_a_new_device_that_ends_with_the_live_model_even_during_a_canary(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    move(store, V1, publish(store, V1, 0), ReleaseState.CANDIDATE, ReleaseState.PRODUCTION)
    move(store, V2, publish(store, V2, 1), ReleaseState.CANDIDATE, ReleaseState.CANARY_50)
    updated = []
    real = DeviceClient.update

    def watched(device: DeviceClient):  # type: ignore[no-untyped-def]
        assert device.slots.active() is None, "not a new device"
        done = real(device)
        updated.append((device.device_id, (done.model_version, done.activated, done.downloaded)))
        return done

    monkeypatch.setattr(DeviceClient, "update", watched)
    seconds, runs = update_seconds(store, None)
    assert runs == RUNS == len(dict(updated))
    assert set(dict(updated).values()) == {(V1, True, (V1,))}
    assert 0 < seconds < 60


def test_a_home_whose_devices_all_try_something_else_is_not_measured(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    move(store, V1, publish(store, V1, 0), ReleaseState.CANDIDATE, ReleaseState.PRODUCTION)
    monkeypatch.setattr(device_bench, "MOST_IDS", RUNS - 1)
    with pytest.raises(NothingToUpdateToError, match="after the rollout"):
        update_seconds(store, None)
