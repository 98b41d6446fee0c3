"""What a plan is said to take is what it takes, or more; and it names the part that is large."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from voice_pipeline.schema.training import Preset
from voice_pipeline.speech.encoder import AcousticModel
from voice_pipeline.speech.shape import preset
from voice_pipeline.training.estimates import disk_needed, memory_needed, parameter_count
from voice_pipeline_tests.training.speech_made_of_tones import spec_of

HOUR = [16_000 * 5] * 720


def test_parameters_are_counted_without_making_them() -> None:
    config = preset("tiny", 29)
    assert parameter_count(config) == AcousticModel(config).parameter_count


@pytest.mark.parametrize(
    "larger", [{"preset": Preset.SMALL}, {"batch_size": 16}, {"join_share": 0.5}, {"consistency": 0.2}]
)
def test_more_to_hold_takes_more_memory(larger: dict[str, object]) -> None:
    small = memory_needed(spec_of(batch_size=2, join_share=0.0), HOUR)
    assert memory_needed(spec_of(**{"batch_size": 2, "join_share": 0.0, **larger}), HOUR).megabytes > small.megabytes


def test_memory_does_not_grow_with_the_data() -> None:
    ten, hundred = (memory_needed(spec_of(), HOUR * hours).megabytes for hours in (10, 100))
    assert ten == hundred


def test_parts_add_up_and_are_named() -> None:
    estimate = disk_needed(spec_of(preset=Preset.BASE))
    assert estimate.megabytes >= 16 * 4 * parameter_count(preset("base", 4)) // 1_000_000
    assert str(estimate).startswith(f"{estimate.megabytes} MB (training state, old and new ")


@pytest.mark.parametrize("name", ["micro", "tiny"])
def test_a_real_run_stays_below_its_estimates(tmp_path: Path, name: str) -> None:
    """Two epochs in a process of its own: its peak and what it leaves on disk."""
    command = [sys.executable, "-m", "voice_pipeline_tests.training.measured_run", name, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    found = json.loads(told.splitlines()[-1])
    assert found["peak_mb"] <= found["memory_estimate_mb"] <= 3 * found["peak_mb"]
    assert found["disk_mb"] <= found["disk_estimate_mb"]
