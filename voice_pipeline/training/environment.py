"""Where a model was made: interpreter, libraries, processor, accelerator. Read from metadata; imports none of them."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("torch", "onnxruntime", "onnx", "numpy", "scipy", "feast", "dvc", "mlflow", "dagster")
ABSENT = "not installed"


def environment(processes: int = 1) -> dict[str, str]:
    """Name → value. `processes` is how many share a training run."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: _version(name) for name in LIBRARIES},
        "cpu": cpu_model(),
        "cpu_count": str(os.cpu_count()),
        "memory_mb": str(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_000_000),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "processes": str(processes),
        "cuda_devices": ", ".join(cuda_devices()) or "none",
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES", "all"),
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, or its architecture where the system does not tell."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def cuda_devices(driver: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """Names of the NVIDIA devices that the driver shows, in order of their bus ids."""
    names = []
    for path in sorted(driver.glob("*/information")):
        found = [line.split(":", 1)[1].strip() for line in path.read_text().splitlines() if line.startswith("Model")]
        names += found[:1]
    return names


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ABSENT
