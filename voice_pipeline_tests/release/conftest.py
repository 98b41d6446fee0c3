"""Fixtures of the release tests: a world with the repository's policy, and a small one that is quick."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from voice_pipeline.store.clock import ManualClock
from voice_pipeline_tests.release.world import World, add_suite, open_world

START = datetime(2026, 11, 2, 9, tzinfo=UTC)

SMALL_FLEET = {
    "stages": [
        {"state": "shadow", "min_minutes": 30, "min_devices": 5, "min_events": 20, "noninferiority_margin": 0.15},
        {"state": "canary_5", "min_minutes": 30, "min_devices": 2, "min_events": 8, "noninferiority_margin": 0.4},
        {"state": "canary_25", "min_minutes": 30, "min_devices": 5, "min_events": 20, "noninferiority_margin": 0.2},
        {"state": "canary_50", "min_minutes": 30, "min_devices": 10, "min_events": 40, "noninferiority_margin": 0.15},
    ]
}
"""Stages for some sixty devices; everything else is the repository's policy."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    """300 devices under the repository's policy."""
    clock = ManualClock(START)
    store = open_world(tmp_path / "home", clock)
    return World(store, clock, add_suite(store))


@pytest.fixture
def small(tmp_path: Path) -> World:
    """60 devices that dictate four times, under a policy with small stages."""
    clock = ManualClock(START)
    store = open_world(tmp_path / "home", clock, SMALL_FLEET)
    return World(store, clock, add_suite(store), devices=60, dictations=4)
