"""Windows: complete, bounded, replaced as a whole."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import update

from voice_pipeline.monitoring.errors import DamagedWindowError
from voice_pipeline.monitoring.windows import EVERYONE, WINDOW_FEATURES, build_windows, read_window
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import telemetry_windows
from voice_pipeline_tests.monitoring.world import MODEL, report, speech


def test_every_event_of_the_day_is_in_the_window_of_everyone_and_of_its_cohorts(store: Store) -> None:
    rng = np.random.default_rng(0)
    day = report(store, speech(rng, 100))
    report(store, speech(rng, 50), at=store.now() + timedelta(days=1))
    summary = build_windows(store, day)
    window = read_window(store, day, MODEL)
    assert summary.events == 100
    assert {window[EVERYONE, feature].n for feature in WINDOW_FEATURES} == {100}
    classes = [key for key in window if key[0].startswith("device_class=") and key[1] == "snr_db"]
    assert sum(window[key].n for key in classes) == 100


def test_computing_a_day_again_replaces_its_windows(store: Store) -> None:
    rng = np.random.default_rng(0)
    day = report(store, speech(rng, 100))
    first = build_windows(store, day)
    assert build_windows(store, day) == first
    report(store, speech(rng, 30), seed=1)
    build_windows(store, day)
    assert read_window(store, day, MODEL)[EVERYONE, "snr_db"].n == 130


def test_models_are_kept_apart(store: Store) -> None:
    rng = np.random.default_rng(0)
    day = report(store, speech(rng, 40))
    report(store, speech(rng, 60), model_version="m-20261102-bbbbbbbb")
    assert build_windows(store, day).models == (MODEL, "m-20261102-bbbbbbbb")
    assert read_window(store, day, MODEL)[EVERYONE, "snr_db"].n == 40


def test_a_day_without_telemetry_has_no_windows(store: Store) -> None:
    assert build_windows(store, "2026-11-02").windows == 0


def test_a_window_damaged_on_disk_is_refused_by_name(store: Store) -> None:
    day = report(store, speech(np.random.default_rng(0), 20))
    build_windows(store, day)
    with store.database.write() as connection:
        connection.execute(update(telemetry_windows).values(sketch=b"damaged"))
    with pytest.raises(DamagedWindowError, match=day):
        read_window(store, day, MODEL)
