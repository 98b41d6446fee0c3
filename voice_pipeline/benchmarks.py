"""Benchmarks: figures with goals, measured by one command, appended as JSON lines to `reports/bench.jsonl` of the home.

A benchmark tells, it never fails a build. Model figures are those of the home's live model; a home without one is
refused with the command that makes one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from voice_pipeline.schema.base import Record
from voice_pipeline.store.store import Store

SEED = 1


class BenchmarkError(Exception):
    """A benchmark cannot be measured here; the message says what it needs."""


class Figure(Record):
    """One measured figure. `holds` says whether `value` meets `goal` in the benchmark's direction."""

    name: str
    value: float
    unit: str
    goal: float
    holds: bool
    n: int
    seed: int
    seconds: float


@dataclass(frozen=True)
class Benchmark:
    """`measure(store, corpus)` gives (value, n); lower is better."""

    unit: str
    goal: float
    measure: Callable[[Store, Path | None], tuple[float, int]]


def run_benchmarks(store: Store, names: list[str], corpus: Path | None) -> Iterator[Figure | str]:
    """Measure the named benchmarks (all when none is named), yielding each figure as soon as it is appended to the
    home's bench file; for one that cannot be measured here, a line that says what it needs.

    Raises:
        BenchmarkError: an unknown name.
    """
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise BenchmarkError(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    for name in names or BENCHMARKS:
        try:
            figure = _measure(name, store, corpus)
        except (BenchmarkError, OSError, ValueError, subprocess.SubprocessError) as error:
            yield f"{name}: not measured: {error}"
            continue
        store.settings.reports.mkdir(parents=True, exist_ok=True)
        with (store.settings.reports / "bench.jsonl").open("a") as handle:
            handle.write(figure.model_dump_json() + "\n")
        yield figure


def _measure(name: str, store: Store, corpus: Path | None) -> Figure:
    bench = BENCHMARKS[name]
    started = time.monotonic()
    value, n = bench.measure(store, corpus)
    return Figure(
        name=name,
        value=round(value, 5),
        unit=bench.unit,
        goal=bench.goal,
        holds=value <= bench.goal,
        n=n,
        seed=SEED,
        seconds=round(time.monotonic() - started, 2),
    )


def story_seconds(_store: Store, corpus: Path | None) -> tuple[float, int]:
    """Seconds of the quick story in an empty home, a process of its own, installation apart."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        command = [sys.executable, "-m", "voice_pipeline.cli", "demo", "--quick", "--home", str(home)]
        command += ["--seed", str(SEED)] + (["--corpus", str(corpus)] if corpus else [])
        started = time.monotonic()
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise BenchmarkError(f"the story failed: {result.stderr.strip().splitlines()[-1:]}")
        return time.monotonic() - started, 1


def code_location_load_s(_store: Store, _corpus: Path | None, runs: int = 5) -> tuple[float, int]:
    """Median seconds from a new interpreter to loaded definitions."""
    times = []
    for _ in range(runs):
        started = time.monotonic()
        subprocess.run([sys.executable, "-c", "import voice_pipeline.definitions"], check=True, capture_output=True)
        times.append(time.monotonic() - started)
    return sorted(times)[runs // 2], runs


def lineage_s(store: Store, _corpus: Path | None, runs: int = 5) -> tuple[float, int]:
    """Median seconds of `voice-pipeline lineage` on the live model, a process of its own."""
    home = str(store.settings.root)
    command = [sys.executable, "-m", "voice_pipeline.cli", "lineage", _live_model(store), "--json", "--home", home]
    times = []
    for _ in range(runs):
        started = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.monotonic() - started)
    return sorted(times)[runs // 2], runs


def an4_wer_int8_greedy(store: Store, corpus: Path | None) -> tuple[float, int]:
    """WER (fraction) of the live int8 bundle, greedy, on the corpus's AN4 test recordings."""
    from voice_pipeline.evaluation.manifest import evaluate_manifest

    if corpus is None:
        raise BenchmarkError("an4_wer_int8_greedy needs recordings: make bench NAME=an4_wer_int8_greedy CORPUS=DIR")
    rows = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()]
    chosen = [row for row in rows if row.get("corpus") == "an4" and row.get("split") == "test"]
    if not chosen:
        raise BenchmarkError(f"{corpus / 'manifest.jsonl'} lists no test clip of corpus an4")
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "an4-test.jsonl"
        lines = [json.dumps({**row, "path": str((corpus / row["path"]).resolve())}) for row in chosen]
        manifest.write_text("\n".join(lines))
        report = evaluate_manifest(store, _live_model(store), manifest)
    return report.overall.wer.value, len(chosen)


def clip_3s_p95_ms(store: Store, _corpus: Path | None, runs: int = 200) -> tuple[float, int]:
    """p95 of waveform-to-text ms for 3 s of audio on one thread, live int8 bundle."""
    import numpy as np

    from voice_pipeline.device.recogniser import load_bundle
    from voice_pipeline.packaging.signing import signing_public_key

    version = _live_model(store)
    recogniser = load_bundle(store.settings.bundles / version, signing_public_key(store.settings.keys))
    samples = np.random.default_rng(SEED).normal(0, 0.05, 3 * 16_000).astype(np.float32)
    times = []
    for _ in range(runs + 10):
        started = time.perf_counter()
        recogniser.transcribe(samples)
        times.append(1000 * (time.perf_counter() - started))
    return float(np.percentile(times[10:], 95)), runs


def _live_model(store: Store) -> str:
    from voice_pipeline.store.releases import live

    view = live(store)
    if view is None:
        raise BenchmarkError(f"home {store.settings.root} has no live model; run `make demo` first")
    return view.model_version


BENCHMARKS: dict[str, Benchmark] = {
    "code_location_load_s": Benchmark("s", 4.0, code_location_load_s),
    "lineage_s": Benchmark("s", 1.0, lineage_s),
    "clip_3s_p95_ms": Benchmark("ms", 15.0, clip_3s_p95_ms),
    "an4_wer_int8_greedy": Benchmark("fraction", 0.05, an4_wer_int8_greedy),
    "story_seconds": Benchmark("s", 300.0, story_seconds),
}
