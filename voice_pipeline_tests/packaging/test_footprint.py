"""What a bundle costs is measured in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from voice_pipeline.packaging.errors import FootprintError
from voice_pipeline.packaging.footprint import footprint
from voice_pipeline_tests.packaging.conftest import PackagedHome


def test_memory_of_the_process_that_packages_does_not_count(packaged: PackagedHome) -> None:
    folder = packaged.store.settings.bundles / packaged.manifest.model_version
    held = np.ones(60_000_000)  # 480 MB
    found = footprint(folder)
    assert held.sum() > 0
    assert 0 < found.base_memory_mb < found.peak_memory_mb < 400
    assert found.clip_3s_p95_ms > 0
    assert found.load_ms > 0


def test_a_network_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "m-20261102-0000dead"
    folder.mkdir()
    with pytest.raises(FootprintError, match=r"m-20261102-0000dead cannot be measured: .*tokenizer\.json"):
        footprint(folder)


def test_the_bundle_tells_its_cost_and_how_near_it_is_to_the_float_network(packaged: PackagedHome) -> None:
    assert packaged.manifest.footprint is not None
    assert packaged.manifest.parity is not None
    assert packaged.manifest.parity.clips > 0


def test_memory_is_that_of_the_process_and_not_of_the_one_that_started_it() -> None:
    """Linux hands `ru_maxrss` on to what a process starts; the figure must not be that."""
    program = "from voice_pipeline.packaging.footprint import peak_memory_mb; print(peak_memory_mb())"
    heavy = f"import subprocess, sys; a = bytearray(600_000_000); subprocess.run([sys.executable, '-c', {program!r}])"
    told = subprocess.run(
        [sys.executable, "-c", heavy], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert float(told.stdout) < 300
