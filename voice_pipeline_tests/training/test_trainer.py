"""The trainer learns, repeats itself bit for bit, and survives being killed after any epoch or in the middle of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from voice_pipeline.schema.training import Preset, TrainingSpec
from voice_pipeline.speech.encoder import Encoder
from voice_pipeline.speech.shape import PRESETS
from voice_pipeline.training import trainer
from voice_pipeline.training.batches import MOST_FRAMES
from voice_pipeline.training.checkpoints import STATE, checkpoint_digest, load_state
from voice_pipeline.training.data import Utterance, Utterances
from voice_pipeline.training.errors import (
    CheckpointMismatchError,
    DamagedCheckpointError,
    DivergedError,
    ErasedClipError,
    NoTrainingDataError,
)
from voice_pipeline.training.trainer import EpochReport, _rate, train
from voice_pipeline_tests.training.speech_made_of_tones import language, say, spec_of

TRAIN, DEV = language(32), language(8, seed=1)


class KilledError(Exception):
    pass


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    result = train(spec_of(), TRAIN, DEV, [], tmp_path_factory.mktemp("reference"))
    return result.checkpoint, result.sha256


def test_it_learns_a_language_of_two_tones(tmp_path: Path) -> None:
    seen: list[EpochReport] = []
    spec = spec_of(max_epochs=14, dropout=0.0, join_share=0.2, time_mask_frames=4, frequency_mask_bins=4)
    result = train(spec, language(64), DEV, [], tmp_path, progress=seen.append)
    assert seen == list(result.epochs)
    assert seen[-1].loss < seen[0].loss / 3
    assert min(report.dev_wer for report in seen) < 0.4
    assert seen[result.best_epoch - 1].dev_wer == min(report.dev_wer for report in seen)


def test_the_same_spec_and_data_give_the_same_bytes(reference: tuple[Path, str], tmp_path: Path) -> None:
    again = train(spec_of(), TRAIN, DEV, [], tmp_path)
    assert again.sha256 == reference[1] == checkpoint_digest(again.checkpoint)
    assert (again.checkpoint / "model.pt").read_bytes() == (reference[0] / "model.pt").read_bytes()


@pytest.mark.parametrize("finished", [1, 2])
def test_a_run_killed_after_an_epoch_ends_with_the_same_bytes(
    reference: tuple[Path, str], tmp_path: Path, finished: int
) -> None:
    def kill(report: EpochReport) -> None:
        if report.epoch == finished:
            raise KilledError

    with pytest.raises(KilledError):
        train(spec_of(), TRAIN, DEV, [], tmp_path, progress=kill)
    resumed: list[int] = []
    result = train(spec_of(), TRAIN, DEV, [], tmp_path, progress=lambda report: resumed.append(report.epoch))
    assert resumed == list(range(finished + 1, 4))
    assert [report.epoch for report in result.epochs] == [1, 2, 3]
    assert result.sha256 == reference[1]


def test_a_run_killed_after_its_cuts_were_found_splices_at_the_same_places(tmp_path: Path) -> None:
    spec = spec_of(max_epochs=4, splice_share=0.8, splice_from=0.4)

    def kill(report: EpochReport) -> None:
        if report.epoch == 3:
            raise KilledError

    whole = train(spec, TRAIN, DEV, [], tmp_path / "whole")
    with pytest.raises(KilledError):
        train(spec, TRAIN, DEV, [], tmp_path / "killed", progress=kill)
    assert train(spec, TRAIN, DEV, [], tmp_path / "killed").sha256 == whole.sha256
    plain = train(spec_of(max_epochs=4), TRAIN, DEV, [], tmp_path / "plain")
    losses = [[epoch.loss for epoch in result.epochs] for result in (whole, plain)]
    assert losses[0][:1] == losses[1][:1]
    assert losses[0][1:] != losses[1][1:]


def test_a_person_erased_during_a_run_is_learnt_from_no_more(tmp_path: Path) -> None:
    erased: list[object] = []

    def hear(utterance: Utterance) -> Utterance:
        if erased:
            raise ErasedClipError(f"clip {utterance.clip_id} was erased while it was in use")
        return utterance

    with pytest.raises(ErasedClipError):
        train(spec_of(), Utterances(language(16), hear), DEV, [], tmp_path, progress=erased.append)


def test_what_is_left_after_an_erasure_is_cut_where_it_was(tmp_path: Path) -> None:
    """A run that starts again without an erased person's clips: places by position would be another clip's."""
    spec, train_clips = spec_of(max_epochs=2, splice_share=1.0), language(16)

    def kill(_: EpochReport) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        train(spec, train_clips, DEV, [], tmp_path, progress=kill)
    before = kept_cuts(tmp_path, spec)
    train(spec, train_clips[5:], DEV, [], tmp_path)
    left = {clip.clip_id: clip.text.count(" ") for clip in train_clips[5:]}
    assert kept_cuts(tmp_path, spec) == {clip_id: before[clip_id] for clip_id in left}
    assert {clip_id: len(before[clip_id]) for clip_id in left} == left


def kept_cuts(workdir: Path, spec: TrainingSpec) -> dict[str, tuple[int, ...]]:
    state = load_state(workdir, spec.digest)
    assert state is not None
    assert state.cuts is not None
    return state.cuts


def test_a_finished_run_called_again_trains_nothing(tmp_path: Path) -> None:
    first = train(spec_of(max_epochs=1), TRAIN, DEV, [], tmp_path)
    epochs: list[EpochReport] = []
    assert train(spec_of(max_epochs=1), TRAIN, DEV, [], tmp_path, progress=epochs.append).sha256 == first.sha256
    assert epochs == []


def test_another_seed_gives_other_weights(reference: tuple[Path, str], tmp_path: Path) -> None:
    other = spec_of().model_copy(update={"seed": 4})
    made = train(other, TRAIN, DEV, [], tmp_path).checkpoint / "model.pt"  # the digest would differ by the spec alone
    assert made.read_bytes() != (reference[0] / "model.pt").read_bytes()


def test_a_warm_start_begins_where_its_parent_stood(reference: tuple[Path, str], tmp_path: Path) -> None:
    warm = train(spec_of(max_epochs=1), TRAIN, DEV, [], tmp_path / "warm", parent=reference[0])
    cold = train(spec_of(max_epochs=1), TRAIN, DEV, [], tmp_path / "cold")
    assert warm.epochs[0].loss < cold.epochs[0].loss


def test_a_parent_of_another_shape_is_refused(reference: tuple[Path, str], tmp_path: Path) -> None:
    with pytest.raises(CheckpointMismatchError, match="shape"):
        train(spec_of(preset=Preset.TINY), TRAIN, DEV, [], tmp_path, parent=reference[0])


def test_a_parent_of_another_alphabet_is_refused(reference: tuple[Path, str], tmp_path: Path) -> None:
    with pytest.raises(CheckpointMismatchError, match="shape"):
        train(spec_of().model_copy(update={"alphabet": " ba"}), TRAIN, DEV, [], tmp_path, parent=reference[0])


def test_a_folder_of_another_spec_is_refused(tmp_path: Path) -> None:
    train(spec_of(max_epochs=1), TRAIN, DEV, [], tmp_path)
    with pytest.raises(CheckpointMismatchError, match="belongs to spec"):
        train(spec_of(max_epochs=2), TRAIN, DEV, [], tmp_path)


def test_the_state_of_another_network_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    def kill(report: EpochReport) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        train(spec_of(), TRAIN, DEV, [], tmp_path, progress=kill)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "micro", replace(PRESETS["micro"], channels=48))
        with pytest.raises(CheckpointMismatchError, match="delete it"):
            train(spec_of(), TRAIN, DEV, [], tmp_path)


def test_a_torn_state_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    train(spec_of(max_epochs=1), TRAIN, DEV, [], tmp_path)
    state = tmp_path / STATE
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(DamagedCheckpointError, match="delete it"):
        train(spec_of(max_epochs=1), TRAIN, DEV, [], tmp_path)


def test_without_usable_utterances_nothing_is_trained(tmp_path: Path) -> None:
    sound = say("a", "s", 1).samples
    too_fast, foreign = [Utterance("c", "s", "ab" * 20, sound)], [Utterance("c", "s", "xyz", sound)]
    for unusable in ([], too_fast, foreign):
        with pytest.raises(NoTrainingDataError, match="0 train"):
            train(spec_of(), unusable, DEV, [], tmp_path)
    with pytest.raises(NoTrainingDataError, match="0 dev"):
        train(spec_of(), TRAIN, [], [], tmp_path)


def test_patience_ends_a_run_that_no_longer_improves_with_the_weights_of_its_best_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dev_wer = [0.9, 0.5, 0.6, 0.4, 0.5, 0.45, 0.41, 0.1]  # the last one is never reached
    monkeypatch.setattr(trainer._Run, "_dev_wer", lambda run: dev_wer[run.state.epoch])
    averages: list[dict[str, torch.Tensor]] = []

    def keep(report: EpochReport) -> None:
        averages.append(torch.load(tmp_path / STATE, weights_only=True)["average"])

    spec = spec_of(max_epochs=8, patience_epochs=3)
    result = train(spec, TRAIN[:8], DEV, [], tmp_path, progress=keep)
    assert [report.dev_wer for report in result.epochs] == dev_wer[:7]
    assert result.best_epoch == 4
    kept = torch.load(result.checkpoint / "model.pt", weights_only=True)
    same = [all(torch.equal(kept[name], average[name]) for name in kept) for average in averages]
    assert same == [epoch == 4 for epoch in range(1, 8)]
    assert train(spec, TRAIN[:8], DEV, [], tmp_path, progress=keep).sha256 == result.sha256
    assert len(averages) == 7  # stopped is stopped, also when called again


def test_long_dev_clips_are_judged_a_few_at_a_time(tmp_path: Path) -> None:
    """At most MOST_FRAMES at once, padding included; a longer one by itself; every one once."""
    dev = [
        replace(clip, samples=np.resize(clip.samples, 16_000 * s))
        for clip, s in zip(DEV, [20] * 7 + [130], strict=True)
    ]
    heard: list[torch.Size] = []

    def note(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, Encoder) and not module.training:
            heard.append(inputs[0].shape)

    with register_module_forward_pre_hook(note):
        train(spec_of(max_epochs=1), TRAIN[:8], dev, [], tmp_path)
    assert sum(shape[0] for shape in heard) == len(dev)
    assert [tuple(shape[:2]) for shape in heard] == [(6, 2048), (1, 2048), (1, 13056)]
    assert 6 * 2048 <= MOST_FRAMES < 7 * 2048


def test_a_loss_that_is_no_number_ends_the_run(reference: tuple[Path, str], tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="learning_rate"):
        train(spec_of(learning_rate=1e30, warmup_fraction=0.0), TRAIN, DEV, [], tmp_path)


def test_what_is_judged_and_kept_is_the_average_of_the_weights(tmp_path: Path) -> None:
    result = train(spec_of(max_epochs=1), TRAIN, DEV, [], tmp_path)
    state = torch.load(tmp_path / STATE, weights_only=True)
    kept = torch.load(result.checkpoint / "model.pt", weights_only=True)
    assert all(torch.equal(kept[name], state["average"][name]) for name in kept)
    assert not torch.equal(state["average"]["encoder.head.weight"], state["model"]["encoder.head.weight"])


def test_the_rate_warms_up_in_a_line_and_falls_as_a_cosine() -> None:
    chosen = spec_of(learning_rate=1.0, warmup_fraction=0.2).hyperparameters
    assert [_rate(p, chosen) for p in (0.1, 0.2, 0.6, 1.0)] == pytest.approx([0.5, 1.0, 0.505, 0.01])
