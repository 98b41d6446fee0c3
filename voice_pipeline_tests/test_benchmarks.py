"""A figure is held against its goal in the goal's own direction, kept as it was told, and one that fails stops none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from voice_pipeline.benchmarks import BENCHMARKS, Benchmark, BenchmarkError, Figure, run_benchmarks
from voice_pipeline.store.store import Store


def measuring(value: float, at_least: bool) -> Benchmark:
    """A benchmark in seconds with goal 1 that measures `value` three times."""
    return Benchmark("s", 1.0, lambda *_: (value, 3), at_least)


@pytest.mark.parametrize(
    ("at_least", "value", "holds"), [(False, 1.0, True), (False, 1.1, False), (True, 1.0, True), (True, 0.9, False)]
)
def test_a_goal_is_the_most_or_the_least_that_a_figure_may_be(
    store: Store, monkeypatch: pytest.MonkeyPatch, at_least: bool, value: float, holds: bool
) -> None:
    monkeypatch.setitem(BENCHMARKS, "made_up", measuring(value, at_least))
    (figure,) = run_benchmarks(store, ["made_up"], None)
    assert isinstance(figure, Figure)
    assert (figure.value, figure.goal, figure.holds, figure.n) == (value, 1.0, holds, 3)
    assert json.loads((store.settings.reports / "bench.jsonl").read_text()) == figure.model_dump()


def test_goals_are_those_that_were_promised() -> None:
    goals = {name: (bench.goal, bench.at_least) for name, bench in BENCHMARKS.items()}
    promised = {
        "code_location_load_s": (4.0, False),
        "lineage_s": (1.0, False),
        "clip_3s_p95_ms": (15.0, False),
        "bundle_mb": (1.5, False),
        "update_seconds": (2.0, False),
        "aa_false_rollback": (0.05, False),
        "false_promotion": (0.05, False),
        "power_at_margin": (0.8, True),
        "crash_x3_past_5": (0.05, False),
        "int8_wer_delta_pp": (0.3, False),
        "train_audio_s_per_s": (170.0, True),
        "train_peak_mb": (2000.0, False),
        "an4_wer_int8_greedy": (0.05, False),
        "an4_wer_int8_lm": (0.04, False),
        "confidence_ece": (0.05, False),
        "wer_cut_at_80_coverage": (0.4, True),
        "story_seconds": (300.0, False),
    }
    assert goals.items() >= promised.items()


def test_what_cannot_be_measured_says_what_it_needs_and_stops_nothing_behind_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BENCHMARKS, "made_up", measuring(0.5, at_least=False))
    recordings, model, figure = run_benchmarks(store, ["train_peak_mb", "lineage_s", "made_up"], None)
    assert recordings == "train_peak_mb: not measured: it needs recordings: make bench NAME=… CORPUS=DIR"
    assert str(model).startswith("lineage_s: not measured: home ")
    assert str(model).endswith("has no live model; run `make demo` first")
    assert isinstance(figure, Figure)
    assert (store.settings.reports / "bench.jsonl").read_text().count("\n") == 1


def test_an_unknown_benchmark_is_refused_before_anything_is_measured(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BENCHMARKS, "made_up", measuring(0.5, at_least=False))
    with pytest.raises(BenchmarkError, match="no benchmark made_upp; there are code_location_load_s, "):
        list(run_benchmarks(store, ["made_up", "made_upp"], None))
    assert not store.settings.reports.exists()
