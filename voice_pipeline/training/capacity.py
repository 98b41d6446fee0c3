"""How much memory this machine can still give: to the host, to this container, on its GPUs."""

from __future__ import annotations

from pathlib import Path

MEGABYTE = 1_000_000
UNKNOWN_MB = 1_000_000
"""More than anybody asks for: a system that does not tell is no obstacle."""


def available_memory_mb(
    meminfo: Path = Path("/proc/meminfo"),
    cgroups: Path = Path("/sys/fs/cgroup"),
    membership: Path = Path("/proc/self/cgroup"),
) -> int:
    """Memory that can be had without swapping, in MB: the machine's, or what this process's control groups (cgroup v2,
    so that of a container) leave of their limits where that is less. UNKNOWN_MB where the system does not tell.
    """
    told = [line.split() for line in _lines(meminfo)]
    free = [int(words[1]) * 1024 for words in told if words[0] == "MemAvailable:"]
    return min([*free, *_left_in_cgroups(cgroups, membership), UNKNOWN_MB * MEGABYTE]) // MEGABYTE


def available_gpu_memory_mb(gpus: int) -> int | None:
    """Free memory in MB of the fullest of the first `gpus` GPUs, 0 where there are fewer; None without CUDA."""
    import torch

    if not torch.cuda.is_available():
        return None
    if torch.cuda.device_count() < gpus:
        return 0
    return min(int(torch.cuda.mem_get_info(gpu)[0]) for gpu in range(gpus)) // MEGABYTE


def _left_in_cgroups(root: Path, membership: Path) -> list[int]:
    """Bytes left in the group and in every one above it, for those that have a limit. The page cache that nobody uses
    is not counted as taken: it is given back when memory is asked for.
    """
    paths = [line.removeprefix("0::/") for line in _lines(membership) if line.startswith("0::/")]
    left = []
    for group in [root, *(root / parent for path in paths for parent in [Path(path), *Path(path).parents])]:
        limit, used = _lines(group / "memory.max"), _lines(group / "memory.current")
        if limit and used and limit[0] != "max":
            statistics = dict(line.split() for line in _lines(group / "memory.stat"))
            left.append(max(0, int(limit[0]) - int(used[0]) + int(statistics.get("inactive_file", 0))))
    return left


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
