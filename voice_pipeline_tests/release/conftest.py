"""Fixtures of the release tests: a world with the repository's policy, and a small one that is quick."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from voice_pipeline.store.clock import ManualClock
from voice_pipeline_tests.release.world import World, add_suite, open_world

START = datetime(2026, 11, 2, 9, tzinfo=UTC)

LOOSE = {"slow": 0.5, "crash": 0.3, "abandonment": 0.5, "fallback": 0.5, "failure": 0.5}
SMALL_FLEET = {
    "guardrails": LOOSE,  # a dozen dictations show no share to a hundredth
    "stages": [
        {"state": "shadow", "min_minutes": 30, "min_devices": 5, "min_events": 20, "noninferiority_margin": 0.15},
        {"state": "canary_5", "min_minutes": 30, "min_devices": 2, "min_events": 8, "noninferiority_margin": 0.4},
        {"state": "canary_25", "min_minutes": 30, "min_devices": 5, "min_events": 20, "noninferiority_margin": 0.2},
        {"state": "canary_50", "min_minutes": 30, "min_devices": 10, "min_events": 40, "noninferiority_margin": 0.15},
    ],
}
"""Stages and guardrails for some sixty devices; everything else is the repository's policy."""

FLEET = {
    "guardrails": {"slow": 0.2, "crash": 0.12, "abandonment": 0.12, "fallback": 0.12, "failure": 0.12},
    "stages": [
        {"state": "shadow", "min_minutes": 30, "min_devices": 20, "min_events": 100, "noninferiority_margin": 0.05},
        {"state": "canary_5", "min_minutes": 30, "min_devices": 8, "min_events": 40, "noninferiority_margin": 0.15},
        {"state": "canary_25", "min_minutes": 30, "min_devices": 40, "min_events": 200, "noninferiority_margin": 0.08},
        {"state": "canary_50", "min_minutes": 30, "min_devices": 80, "min_events": 400, "noninferiority_margin": 0.05},
    ],
}
"""The same for 300 devices that dictate four times a tick."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    """300 devices under a policy whose samples they make in one tick."""
    clock = ManualClock(START)
    store = open_world(tmp_path / "home", clock, FLEET)
    return World(store, clock, add_suite(store))


@pytest.fixture
def small(tmp_path: Path) -> World:
    """60 devices that dictate four times, under a policy with small stages."""
    clock = ManualClock(START)
    store = open_world(tmp_path / "home", clock, SMALL_FLEET)
    return World(store, clock, add_suite(store), devices=60, dictations=4)
