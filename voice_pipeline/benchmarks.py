"""Benchmarks: figures with goals, measured by one command, appended as JSON lines to `reports/bench.jsonl` of the home.

A benchmark tells, it never fails a build. Model figures are those of the home's live model; a home without one is
refused with the command that makes one.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from voice_pipeline.device.errors import DeviceError
from voice_pipeline.device_bench import update_seconds
from voice_pipeline.published.corpus import PublishedError
from voice_pipeline.schema.base import Record
from voice_pipeline.speech.errors import SpeechError
from voice_pipeline.store.store import Store
from voice_pipeline.training.errors import TrainingError

if TYPE_CHECKING:
    from voice_pipeline.published.judging import SeedResult
    from voice_pipeline.published.throughput import Throughput
    from voice_pipeline.rollback_bench import RollbackTimes
    from voice_pipeline.rollout_trials import Trial

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
    """`measure(store, corpus)` gives (value, n). `goal` is the most that `value` may be; with `at_least`, the least."""

    unit: str
    goal: float
    measure: Callable[[Store, Path | None], tuple[float, int]]
    at_least: bool = False


EXPECTED = (
    *(BenchmarkError, DeviceError, PublishedError, SpeechError, TrainingError),
    *(OSError, ValueError, subprocess.SubprocessError),
)
"""What stops one benchmark and not those behind it."""


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
        except EXPECTED as error:
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
        holds=value >= bench.goal if bench.at_least else value <= bench.goal,
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
    """WER (fraction) on the AN4 test clips, greedy, int8; mean of three seeds, trained now if they are not yet."""
    results = _seeds(store, corpus)
    return _mean([result.wer_int8_greedy.value for result in results]), len(results)


def an4_wer_int8_lm(store: Store, corpus: Path | None) -> tuple[float, int]:
    """The same with the on-device beam search and its n-gram model."""
    results = _seeds(store, corpus)
    return _mean([result.wer_int8_lm.value for result in results]), len(results)


def an4_training_minutes(store: Store, corpus: Path | None) -> tuple[float, int]:
    """Minutes that a seed took to train, the mean of three; other work on the machine counts."""
    results = _seeds(store, corpus)
    return _mean([result.training_minutes for result in results]), len(results)


def confidence_ece(store: Store, corpus: Path | None) -> tuple[float, int]:
    """Calibration error (sweep estimate) of the confidence on the AN4 test clips, mean of three seeds."""
    results = _seeds(store, corpus)
    return _mean([result.confidence_ece for result in results]), len(results)


def wer_cut_at_80_coverage(store: Store, corpus: Path | None) -> tuple[float, int]:
    """By what share the WER falls when only the surest 80 % of AN4 test clips are accepted, mean of three seeds."""
    results = _seeds(store, corpus)
    return _mean([result.confidence["wer_cut_at_80_coverage"] for result in results]), len(results)


def int8_wer_delta_pp(store: Store, corpus: Path | None) -> tuple[float, int]:
    """By how many points of WER int8 differs from float on the AN4 test clips, greedy; the largest of three seeds."""
    results = _seeds(store, corpus)
    apart = [abs(result.wer_int8_greedy.value - result.wer_float_greedy.value) for result in results]
    return 100 * max(apart), len(results)


def train_audio_s_per_s(store: Store, corpus: Path | None, epochs: int = 3) -> tuple[float, int]:
    """Seconds of augmented audio a second that the recipe trains on, the median of `epochs` epochs."""
    return _throughput(store.settings.policy_dir, _needed(corpus), 1, epochs).audio_s_per_s, epochs


def train_peak_mb(store: Store, corpus: Path | None, copies: int = 10) -> tuple[float, int]:
    """Peak memory (MB) of an epoch over AN4's training part `copies` times over."""
    return _throughput(store.settings.policy_dir, _needed(corpus), copies, 1).peak_mb, copies


def train_peak_growth(store: Store, corpus: Path | None, copies: int = 10) -> tuple[float, int]:
    """That peak as a multiple of the one with AN4's training part as it is."""
    peaks = [_throughput(store.settings.policy_dir, _needed(corpus), times, 1).peak_mb for times in (1, copies)]
    return peaks[1] / peaks[0], copies


def aa_false_rollback(store: Store, _corpus: Path | None) -> tuple[float, int]:
    """Share of simulated rollouts of an equal model, watched at every tick, that are rolled back (`rollout_table`)."""
    return _promised(store.settings.policy_dir, "aa_false_rollback")


def false_promotion(store: Store, _corpus: Path | None) -> tuple[float, int]:
    """Share of simulated rollouts of a model whose correction rate is 2 pp worse that reach production."""
    return _promised(store.settings.policy_dir, "false_promotion")


def power_at_margin(store: Store, _corpus: Path | None) -> tuple[float, int]:
    """Share of simulated rollouts of an equal model that reach production, with the policy's samples and margins."""
    return _promised(store.settings.policy_dir, "power_at_margin")


def crash_x3_past_5(store: Store, _corpus: Path | None) -> tuple[float, int]:
    """Share of simulated rollouts of a model that crashes three times as often that ever pass 5 % of devices."""
    return _promised(store.settings.policy_dir, "crash_x3_past_5")


def _promised(policy_dir: Path, name: str) -> tuple[float, int]:
    from voice_pipeline.rollout_table import PROMISES

    promise = PROMISES[name]
    found = _rollouts(policy_dir, promise.scenario)
    return promise.count(found) / len(found), len(found)


@cache  # the same rollouts of an equal model serve two figures
def _rollouts(policy_dir: Path, scenario: str) -> list[Trial]:
    from voice_pipeline.rollout_table import ROLLOUTS, SCENARIOS, trials
    from voice_pipeline.schema.policy_file import load_policy
    from voice_pipeline.schema.release_policy import FILE_NAME, ReleasePolicy

    policy = load_policy(policy_dir / FILE_NAME, ReleasePolicy)
    return trials(policy, SCENARIOS[scenario].effect, ROLLOUTS, SEED)


def rollback_p99_s(store: Store, _corpus: Path | None) -> tuple[float, int]:
    """p99 of seconds from the first harmful report to a device back on the model before (`rollback_bench`)."""
    return _p99(_rollbacks(store.settings.policy_dir).after_batch)


def rollback_after_write_p99_s(store: Store, _corpus: Path | None) -> tuple[float, int]:
    """The same from the ledger line of the rollback."""
    return _p99(_rollbacks(store.settings.policy_dir).after_write)


@cache  # the same rollbacks serve two figures
def _rollbacks(policy_dir: Path) -> RollbackTimes:
    from voice_pipeline.rollback_bench import measure_rollback

    times = measure_rollback(policy_dir)
    typer.echo(times.told(), err=True)
    return times


def _p99(seconds: Sequence[float]) -> tuple[float, int]:
    import numpy as np

    return float(np.percentile(seconds, 99)), len(seconds)


@cache  # one epoch of ten times the data serves two figures
def _throughput(policy_dir: Path, corpus: Path, copies: int, epochs: int) -> Throughput:
    """Of the recipe's first epochs, with everything that later ones do: utterances are spliced from the start."""
    from voice_pipeline.published.throughput import measure_throughput
    from voice_pipeline.schema.policy_file import load_policy
    from voice_pipeline.schema.retrain_policy import RetrainPolicy

    recipe = load_policy(policy_dir / "retrain.yaml", RetrainPolicy).profiles["full"].scratch
    return measure_throughput(corpus, copies, epochs, recipe.model_copy(update={"splice_from": 0.0}))


def _seeds(store: Store, corpus: Path | None) -> list[SeedResult]:
    from voice_pipeline.published.table import compare

    return compare(store, _needed(corpus), told=lambda line: typer.echo(line, err=True))


def _needed(corpus: Path | None) -> Path:
    if corpus is None:
        raise BenchmarkError("it needs recordings: make bench NAME=… CORPUS=DIR")
    return corpus


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def bundle_mb(store: Store, _corpus: Path | None) -> tuple[float, int]:
    """MB (10^6 bytes) of the archive in which devices fetch the live bundle."""
    from voice_pipeline.packaging.archive import pack, target_name

    version = _live_model(store)
    return len(pack(store.settings.bundles / version, target_name(version))) / 1e6, 1


def clip_3s_p95_ms(store: Store, _corpus: Path | None, runs: int = 200) -> tuple[float, int]:
    """p95 of waveform-to-text ms for 3 s of speech (the golden sounds) on one thread, live int8 bundle."""
    import numpy as np

    from voice_pipeline.device.recogniser import load_bundle
    from voice_pipeline.packaging.golden import speech
    from voice_pipeline.packaging.signing import signing_public_key

    version = _live_model(store)
    recogniser = load_bundle(store.settings.bundles / version, signing_public_key(store.settings.keys))
    samples = speech(3)
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
    "bundle_mb": Benchmark("MB", 1.5, bundle_mb),
    "update_seconds": Benchmark("s", 2.0, update_seconds),
    "rollback_p99_s": Benchmark("s", 45.0, rollback_p99_s),  # sensor every 30 s, polls every 10 s, and 5 s
    "rollback_after_write_p99_s": Benchmark("s", 15.0, rollback_after_write_p99_s),
    "aa_false_rollback": Benchmark("share", 0.05, aa_false_rollback),
    "false_promotion": Benchmark("share", 0.05, false_promotion),
    "power_at_margin": Benchmark("share", 0.8, power_at_margin, at_least=True),
    "crash_x3_past_5": Benchmark("share", 0.05, crash_x3_past_5),
    "train_audio_s_per_s": Benchmark("audio-s/s", 170.0, train_audio_s_per_s, at_least=True),
    "train_peak_mb": Benchmark("MB", 2000.0, train_peak_mb),
    "train_peak_growth": Benchmark("ratio", 1.2, train_peak_growth),
    "an4_wer_int8_greedy": Benchmark("fraction", 0.05, an4_wer_int8_greedy),
    "an4_wer_int8_lm": Benchmark("fraction", 0.04, an4_wer_int8_lm),
    "int8_wer_delta_pp": Benchmark("points", 0.3, int8_wer_delta_pp),
    "an4_training_minutes": Benchmark("min", 30.0, an4_training_minutes),
    "confidence_ece": Benchmark("probability", 0.05, confidence_ece),
    "wer_cut_at_80_coverage": Benchmark("share", 0.4, wer_cut_at_80_coverage, at_least=True),
    "story_seconds": Benchmark("s", 300.0, story_seconds),
}
