"""Where a model was made: interpreter, libraries, processor, accelerator. Read from metadata; imports none of them.

The process that trains keeps it beside the checkpoint (`environment.json`), for whoever tells MLflow of the model may
do so later, on another machine. Of a model that has no such file it says so, and guesses nothing.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from voice_pipeline.store.blobs import write_atomically

ENVIRONMENT = "environment.json"
LIBRARIES = ("torch", "onnxruntime", "onnx", "numpy", "scipy", "feast", "dvc", "mlflow", "dagster")
ABSENT = "not installed"
UNRECORDED = "recorded"
"""The only name in the environment of a model that kept none; its value is why."""
ONE_BLAS_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
"""For processes that train, set before numpy is loaded: its matrices are small there, and a second thread would wait
for them at full speed beside the one that trains, which loses a tenth of its own. Whoever set a number keeps it.
"""


@dataclass(frozen=True)
class Compute:
    """What one training process computes with: `device` (`cpu`, or `cuda` and the GPU's name), whether it multiplies in
    bfloat16, its `threads` on the CPU, how many `processes` share every batch, the `first_epoch` that it trains (above
    1: the earlier ones were trained by a process that was interrupted).
    """

    device: str
    bfloat16: bool
    threads: int
    processes: int
    first_epoch: int


def environment() -> dict[str, str]:
    """This machine and this installation, name → value."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: _version(name) for name in LIBRARIES},
        "cpu": cpu_model(),
        "cpu_count": str(os.cpu_count()),
        "memory_mb": str(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_000_000),
        "cuda_devices": ", ".join(cuda_devices()) or "none",
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES", "all"),
    }


def keep_environment(workdir: Path, compute: Compute) -> None:
    """Write `environment.json` of the training that runs here now, in one step."""
    found = {
        **environment(),
        "device": compute.device,
        "bfloat16": "yes" if compute.bfloat16 else "no",
        "threads": str(compute.threads),
        "processes": str(compute.processes),
        "first_epoch": str(compute.first_epoch),
    }
    write_atomically(workdir / ENVIRONMENT, json.dumps(found, sort_keys=True, indent=1).encode())


def kept_environment(workdir: Path) -> dict[str, str]:
    """Where the model in `workdir` was trained; where that was not kept, only `recorded`, which says so."""
    try:
        found = json.loads((workdir / ENVIRONMENT).read_bytes())
    except FileNotFoundError:
        return {UNRECORDED: f"no: there is no {ENVIRONMENT}, it was trained before that was kept"}
    except ValueError:
        found = None
    if not isinstance(found, dict):
        return {UNRECORDED: f"no: {ENVIRONMENT} is damaged"}
    return {str(name): str(value) for name, value in found.items()}


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
