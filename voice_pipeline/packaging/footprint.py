"""What a bundle costs a process: memory, time to load, time to hear. Measured in a process of its own, so that nothing
of the one that packages counts.

    python -m voice_pipeline.packaging.footprint FOLDER      prints a `Footprint` as JSON
"""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

from voice_pipeline.packaging.errors import FootprintError
from voice_pipeline.schema.bundle import Footprint

SECONDS_TIMED = 3
SECONDS_HEARD = 30
RUNS = 40
WARM_UP = 5
TIMEOUT_S = 120


def footprint(folder: Path) -> Footprint:
    """Measure the int8 network, decoder and confidence in `folder`, in a new interpreter.

    Raises:
        FootprintError: that process failed.
    """
    command = [sys.executable, "-m", __name__, str(folder)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise FootprintError(f"bundle {folder.name} was not measured within {TIMEOUT_S} s; is it damaged?") from error
    except subprocess.CalledProcessError as error:
        why = error.stderr.strip().splitlines()[-1:]
        raise FootprintError(f"bundle {folder.name} cannot be measured: {''.join(why)}") from error
    return Footprint.model_validate_json(result.stdout)


def measure(folder: Path) -> Footprint:
    """Measure in this process, which should have done nothing else before."""
    import numpy as np
    import onnxruntime  # noqa: F401 part of the base, not of the bundle

    from voice_pipeline.packaging.golden import speech
    from voice_pipeline.speech.recogniser import OnnxRecogniser

    timed, heard = speech(SECONDS_TIMED), speech(SECONDS_HEARD)
    base = peak_memory_mb()
    started = time.perf_counter()
    recogniser = OnnxRecogniser.load(folder)
    load_ms = (time.perf_counter() - started) * 1000
    times = []
    for _ in range(WARM_UP + RUNS):
        started = time.perf_counter()
        recogniser.transcribe(timed)
        times.append((time.perf_counter() - started) * 1000)
    recogniser.transcribe(heard)
    return Footprint(
        load_ms=round(load_ms, 2),
        clip_3s_p95_ms=round(float(np.percentile(times[WARM_UP:], 95)), 2),
        peak_memory_mb=round(peak_memory_mb(), 1),
        base_memory_mb=round(base, 1),
        measured_on=f"{platform.system()} {platform.machine()}",
    )


def peak_memory_mb(status: Path = Path("/proc/self/status")) -> float:
    """The most memory that this process held at once, in MB. `getrusage` would tell the parent's where that was more:
    Linux hands it on to what a process starts.
    """
    if not status.exists():
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    sys.stdout.write(measure(Path(sys.argv[1])).model_dump_json())
