"""What a machine can give is what its tightest limit leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from voice_pipeline.training.capacity import available_gpu_memory_mb, available_memory_mb

MEBIBYTE = 2**20


@pytest.fixture
def machine(tmp_path: Path) -> tuple[Path, Path, Path]:
    """2048 MB free, and this process in a control group without limits; the three arguments."""
    meminfo, membership = tmp_path / "meminfo", tmp_path / "cgroup"
    meminfo.write_text("MemTotal: 16000000 kB\nMemAvailable:    2000000 kB\n")
    membership.write_text("4:memory:/elsewhere\n0::/pod/container\n")
    return meminfo, tmp_path / "groups", membership


def limit(group: Path, most: str, used: int, idle_cache: int = 0) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.max").write_text(f"{most}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon {used - idle_cache}\ninactive_file {idle_cache}\n")


def test_memory_is_read_in_megabytes_and_unknown_is_no_obstacle(machine: tuple[Path, Path, Path]) -> None:
    meminfo, groups, _ = machine
    assert available_memory_mb(*machine) == 2048
    limit(groups / "pod" / "container", "max", 5 * MEBIBYTE)
    assert available_memory_mb(*machine) == 2048
    nowhere = meminfo.parent / "nowhere"
    assert available_memory_mb(nowhere, nowhere, nowhere) == 1_000_000


@pytest.mark.parametrize("group", ["", "pod", "pod/container"])  # a container sees its own group as the root
def test_a_container_has_what_its_limit_leaves(machine: tuple[Path, Path, Path], group: str) -> None:
    limit(machine[1] / group, "800000000", 300_000_000)
    assert available_memory_mb(*machine) == 500


def test_the_tightest_limit_counts_and_none_gives_less_than_nothing(machine: tuple[Path, Path, Path]) -> None:
    _, groups, _ = machine
    limit(groups / "pod", "900000000", 100_000_000)
    limit(groups / "pod" / "container", "9000000000", 100_000_000)
    assert available_memory_mb(*machine) == 800
    limit(groups / "pod", "900000000", 950_000_000)
    assert available_memory_mb(*machine) == 0


def test_files_that_were_read_and_lie_idle_in_the_cache_take_nothing(machine: tuple[Path, Path, Path]) -> None:
    limit(machine[1] / "pod", "800000000", 790_000_000, idle_cache=600_000_000)
    assert available_memory_mb(*machine) == 610


def test_of_several_gpus_the_fullest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [24_000_000_000, 3_000_000_000]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (free[gpu], 80_000_000_000))
    assert [available_gpu_memory_mb(gpus) for gpus in (1, 2, 3)] == [24_000, 3_000, 0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert available_gpu_memory_mb(1) is None
