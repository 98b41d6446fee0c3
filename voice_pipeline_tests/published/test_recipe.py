"""A seed is trained once, judged once, and what is told is what was heard; the benchmark's process tells the truth."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from voice_pipeline.published import judging
from voice_pipeline.published.corpus import PublishedError, read_splits
from voice_pipeline.published.judging import RESULT, SeedResult, _choose_decoder, _fit_confidence, _quantise, judge_seed
from voice_pipeline.published.recipe import COMMITS, CURVE, commits_of, train_seed
from voice_pipeline.published.table import as_markdown, compare
from voice_pipeline.published.throughput import measure_throughput
from voice_pipeline.schema.decoding import Decoding
from voice_pipeline.schema.training import Hyperparameters, Preset
from voice_pipeline.store import blobs
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.store import Store
from voice_pipeline.training import preflight, provenance, trainer
from voice_pipeline.training.trainer import (
    KERNEL_CACHE,
    KERNELS_KEPT,
    EpochReport,
)  # here, so that no module is first imported under a patch
from voice_pipeline_tests.packaging.small_models import searching_decoder

QUICK = Hyperparameters(preset=Preset.MICRO, max_epochs=3, batch_size=4, learning_rate=6e-3, ema_decay=0.9)
FIRST, CHANGED = "a" * 40, f"{'b' * 40}-dirty-0123456789ab"


@pytest.fixture
def trained(store: Store, spoken_corpus: Path) -> Path:
    return train_seed(store, spoken_corpus, 1, QUICK)


def test_a_trained_seed_is_not_trained_again(
    store: Store, spoken_corpus: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs: list[object] = []
    monkeypatch.delenv(KERNEL_CACHE)
    assert train_seed(store, spoken_corpus, 1, QUICK, epochs.append) == trained
    assert epochs == []
    assert int(os.environ[KERNEL_CACHE]) == KERNELS_KEPT, (
        "the next seed is trained in a process that has judged this one"
    )
    assert train_seed(store, spoken_corpus, 2, QUICK, epochs.append) != trained
    assert len(epochs) == 3


def test_a_seed_killed_before_its_curve_is_written_gets_one_and_keeps_its_weights(
    store: Store, spoken_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(path: Path, data: bytes) -> None:
        if path.name == CURVE:
            raise KeyboardInterrupt
        write_atomically(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(provenance, "code_commit", lambda: FIRST)
        patch.setattr(blobs, "write_atomically", kill)
        with pytest.raises(KeyboardInterrupt):
            train_seed(store, spoken_corpus, 1, QUICK)
    (weights,) = store.settings.root.glob("published/*/checkpoint/model.pt")
    before = weights.read_bytes()
    epochs: list[EpochReport] = []
    monkeypatch.setattr(provenance, "code_commit", lambda: "of code that trained nothing")
    folder = train_seed(store, spoken_corpus, 1, QUICK, epochs.append)
    assert (epochs, weights.read_bytes()) == ([], before)
    assert commits_in(folder) == (FIRST,)
    assert [epoch["epoch"] for epoch in json.loads((folder / CURVE).read_bytes())["epochs"]] == [1, 2, 3]


def test_a_judged_seed_tells_what_was_heard(store: Store, spoken_corpus: Path, trained: Path) -> None:
    result = judge_seed(store, spoken_corpus, trained, Decoding())
    assert result.seed == 1
    assert result.epochs == 3
    assert result.int8_bytes == (trained / "int8" / "model.onnx").stat().st_size
    for interval in (result.wer_float_greedy, result.wer_int8_greedy, result.wer_int8_lm):
        assert 0 <= interval.low <= interval.value <= interval.high
    assert result.confidence["wer"] == pytest.approx(result.wer_int8_lm.value)
    assert 0 <= result.confidence_ece <= 1
    before = (trained / RESULT).stat().st_mtime_ns
    assert judge_seed(store, spoken_corpus, trained, Decoding()) == result
    assert (trained / RESULT).stat().st_mtime_ns == before
    table = as_markdown([result, result])
    assert table.count("\n| 1 | ") == 2
    (mean,) = (line for line in table.splitlines() if line.startswith("| mean "))
    assert f"**{result.wer_int8_greedy.value:.1%}**" in mean
    assert table.count(f"judged at {result.judged_by[:12]}") == 2
    assert SeedResult.model_validate_json(result.model_dump_json()) == result


def test_other_code_judges_anew(
    store: Store, spoken_corpus: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = provenance.code_commit()
    first = judge_seed(store, spoken_corpus, trained, Decoding())
    monkeypatch.setattr(provenance, "code_commit", lambda: "another")
    again = judge_seed(store, spoken_corpus, trained, Decoding())
    assert (first.judged_by, again.judged_by) == (commit, "another")
    assert again.wer_int8_lm == first.wer_int8_lm
    assert again.code_commits == first.code_commits


def commits_in(folder: Path) -> tuple[str, ...]:
    return commits_of(json.loads((folder / CURVE).read_bytes()))


def train_and_kill(store: Store, corpus: Path, commit: str, epochs: int) -> None:
    """Let code of `commit` train seed 1 for so many epochs, and kill it in its next one."""
    whole, left = trainer._Run.epoch, [None] * epochs

    def killed(run: trainer._Run) -> EpochReport:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return whole(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "code_commit", lambda: commit)
        patch.setattr(trainer._Run, "epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            train_seed(store, corpus, 1, QUICK)


def test_all_code_that_trained_a_part_of_a_seed_is_named_in_turn(
    store: Store, spoken_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_and_kill(store, spoken_corpus, "nothing of it was kept", 0)
    train_and_kill(store, spoken_corpus, FIRST, 1)
    train_and_kill(store, spoken_corpus, FIRST, 1)
    monkeypatch.setattr(provenance, "code_commit", lambda: CHANGED)
    folder = train_seed(store, spoken_corpus, 1, QUICK)
    assert commits_in(folder) == (FIRST, CHANGED)
    result = judge_seed(store, spoken_corpus, folder, Decoding())
    assert result.code_commits == (FIRST, CHANGED)
    told = as_markdown([result]).splitlines()[-1]
    assert f"; trained at {FIRST[:12]}, {CHANGED[:12]}-dirty-0123456789ab, judged at {CHANGED[:12]}-dirty-" in told


def test_who_began_a_seed_before_commits_were_kept_is_unknown(
    store: Store, spoken_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_and_kill(store, spoken_corpus, FIRST, 1)
    (kept,) = store.settings.root.glob(f"published/*/{COMMITS}")
    kept.unlink()
    monkeypatch.setattr(provenance, "code_commit", lambda: CHANGED)
    assert commits_in(train_seed(store, spoken_corpus, 1, QUICK)) == ("unknown", CHANGED)


def test_a_curve_and_a_result_that_name_one_commit_are_still_read(
    store: Store, spoken_corpus: Path, trained: Path
) -> None:
    curve = json.loads((trained / CURVE).read_bytes())
    del curve["code_commits"]
    (trained / CURVE).write_text(json.dumps({**curve, "code_commit": FIRST}))
    result = judge_seed(store, spoken_corpus, trained, Decoding())
    assert result.code_commits == (FIRST,)
    older = {**json.loads((trained / RESULT).read_bytes()), "code_commit": FIRST}
    del older["code_commits"]
    (trained / RESULT).write_text(json.dumps(older))
    assert judge_seed(store, spoken_corpus, trained, Decoding()) == result


def test_a_machine_that_is_too_small_is_refused_before_training(
    store: Store, spoken_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "available_memory_mb", lambda: 12)
    epochs: list[object] = []
    with pytest.raises(PublishedError, match=r"seed 1 is not trained: memory: 12 MB free, \d+ MB needed"):
        train_seed(store, spoken_corpus, 1, QUICK, epochs.append)
    assert epochs == []


def test_greedy_figures_are_not_those_of_the_search(
    store: Store, spoken_corpus: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose_a_search(checkpoint: Path, *_: object) -> None:
        for name, content in searching_decoder(unknown_penalty=100).items():  # it answers in letters only
            (checkpoint / name).write_bytes(content)

    monkeypatch.setattr(judging, "_choose_decoder", choose_a_search)
    result = judge_seed(store, spoken_corpus, trained, Decoding())
    assert result.decoder == "beam"
    assert result.wer_int8_greedy != result.wer_int8_lm


def test_nothing_is_chosen_on_the_test_split(spoken_corpus: Path, trained: Path) -> None:
    closed = replace(read_splits(spoken_corpus), test=None)  # type: ignore[arg-type]  # whoever looks at it fails
    _choose_decoder(trained / "checkpoint", closed, Decoding(order=2))
    _quantise(trained, closed)
    _fit_confidence(trained, closed, spoken_corpus)
    assert {"model.onnx", "decoder.json", "confidence.json"} <= {path.name for path in (trained / "int8").iterdir()}


def test_no_seed_is_refused(store: Store, spoken_corpus: Path) -> None:
    with pytest.raises(PublishedError, match="at least one"):
        compare(store, spoken_corpus, ())


def test_the_benchmarks_process_trains_what_it_is_told(spoken_corpus: Path, tmp_path: Path) -> None:
    once, thrice = (measure_throughput(spoken_corpus, copies, 1, QUICK) for copies in (1, 3))
    assert thrice.audio_s == pytest.approx(3 * once.audio_s)
    assert once.epochs == 1
    assert once.audio_s_per_s > 0
    assert once.peak_mb > 100
    with pytest.raises(PublishedError, match=r"manifest\.jsonl"):
        measure_throughput(tmp_path, 1, 1, QUICK)
