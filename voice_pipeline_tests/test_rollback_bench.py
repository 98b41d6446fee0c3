"""The rollback is measured on real devices that really change their model, by the real sensor, or not at all."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from voice_pipeline import rollback_bench, rollback_home
from voice_pipeline.benchmarks import BENCHMARKS
from voice_pipeline.device.client import DeviceClient
from voice_pipeline.release.sensors import rollout_sensor
from voice_pipeline.rollback_bench import POLL_S, RollbackBenchError, RollbackTimes, measure_rollback
from voice_pipeline.rollback_home import CANARY, LIVE, found_home
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.telemetry import TelemetryEvent
from voice_pipeline.settings import PROJECT_ROOT
from voice_pipeline.store.releases import live, rolling_out

POLICY = PROJECT_ROOT / "policy"
FEW = {"devices": 44, "rounds": 1, "poll_s": 2.0, "sensor_s": 1.0}
"""Half of them try the canary: some twenty are needed for harm to be certain."""
SLACK_S = 5.0


def test_goals_are_an_interval_of_the_sensor_and_one_of_the_devices_and_five_seconds() -> None:
    sensor_s = float(rollout_sensor.minimum_interval_seconds or 0)
    assert BENCHMARKS["rollback_p99_s"].goal == sensor_s + POLL_S + SLACK_S
    assert BENCHMARKS["rollback_after_write_p99_s"].goal == POLL_S + SLACK_S


@pytest.mark.slow
def test_each_exposed_device_swaps_to_the_model_before_from_its_own_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    swaps: list[tuple[str, str | None, tuple[str, ...]]] = []
    real, lock = DeviceClient.update, threading.Lock()

    def watched(device: DeviceClient):  # type: ignore[no-untyped-def]
        done = real(device)
        if done.activated:
            with lock:
                swaps.append((device.device_id, device.recogniser.model_version, done.downloaded))
        return done

    monkeypatch.setattr(DeviceClient, "update", watched)
    times = measure_rollback(POLICY, **FEW)  # type: ignore[arg-type]
    tried = {device for device, model, fetched in swaps if (model, fetched) == (CANARY, (CANARY,))}
    back = [device for device, model, fetched in swaps if (model, fetched) == (LIVE, ())]
    assert sorted(back) == sorted(tried)
    assert len(times.after_batch) == len(times.after_write) == len(tried) >= 5
    assert all(0 < write < batch for write, batch in zip(times.after_write, times.after_batch, strict=True))


@pytest.mark.slow
def test_a_canary_that_is_not_rolled_back_is_an_error_and_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    told = rollback_bench._dictation

    def harmless(*about: Any) -> TelemetryEvent:
        return told(*about).model_copy(update={"corrected_words": 0, "latency_ms": 20.0})

    monkeypatch.setattr(rollback_bench, "_dictation", harmless)
    monkeypatch.setattr(rollback_bench, "PATIENCE_S", 20.0)
    with pytest.raises(RollbackBenchError, match="for all devices to be back"):
        measure_rollback(POLICY, **FEW)  # type: ignore[arg-type]


def test_the_benchmark_writes_into_its_own_home_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOICE_PIPELINE_DATABASE_URL", f"sqlite:///{tmp_path / 'theirs.db'}")
    monkeypatch.setenv("VOICE_PIPELINE_ALERT_URLS", '["json://127.0.0.1:1"]')
    monkeypatch.setenv("VOICE_PIPELINE_HOME", str(tmp_path / "theirs"))
    store = found_home(tmp_path / "own", POLICY)
    canary = rollback_home.start_canary(store)
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
    assert store.settings.alert_urls == ()
    now_live, trying = live(store), rolling_out(store)
    assert now_live is not None
    assert trying is not None
    assert now_live.model_version == LIVE
    assert (trying.release_id, trying.state, trying.exposure_percent) == (canary.release_id, S.CANARY_50, 50)


def test_what_is_told_has_the_middle_the_p99_and_the_last_of_both_spans() -> None:
    times = RollbackTimes(after_batch=(1.0, 2.0, 40.0), after_write=(0.5, 1.0, 9.0), poll_s=10, sensor_s=30)
    assert "2.0 / 39.2 / 40.0 s after the first harmful batch; 1.0 / 8.8 / 9.0 s after the ledger line" in times.told()
    assert "of 3 devices" in times.told()
