"""What a plan is said to take is what it takes, or more; and it names the part that is large."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from voice_pipeline.schema.training import Preset
from voice_pipeline.speech.encoder import AcousticModel
from voice_pipeline.speech.shape import preset
from voice_pipeline.training.estimates import (
    disk_needed,
    host_memory_needed,
    kept_for_backward,
    memory_needed,
    network_memory_needed,
    parameter_count,
)
from voice_pipeline_tests.training.speech_made_of_tones import spec_of

HOUR = [16_000 * 5] * 720


def test_parameters_are_counted_without_making_them() -> None:
    config = preset("tiny", 29)
    assert parameter_count(config) == AcousticModel(config).parameter_count


@pytest.mark.parametrize("name", ["micro", "tiny", "small", "base"])
def test_what_the_backward_pass_keeps_is_counted_stem_included(name: str) -> None:
    """The bytes of all tensors that autograd saves, but for the weights."""
    model = AcousticModel(preset(name, 29), 0.1).train()
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.encoder(torch.zeros(2, 128, 80), torch.tensor([128, 120]))
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = sum(tensor.untyped_storage().nbytes() for place, tensor in saved.items() if place not in weights)
    assert kept <= kept_for_backward(model.config, 256) <= 1.3 * kept


@pytest.mark.parametrize(
    "larger",
    [
        {"preset": Preset.SMALL},
        {"batch_size": 16},
        {"join_share": 0.5},
        {"splice_share": 0.5},
        {"speed_perturbation": True},
        {"tempo_perturbation": True},
    ],
)
def test_more_to_hold_takes_more_memory(larger: dict[str, object]) -> None:
    small: dict[str, object] = {"batch_size": 12, "join_share": 0.0, "speed_perturbation": False}
    smaller, more = memory_needed(spec_of(**small), HOUR), memory_needed(spec_of(**{**small, **larger}), HOUR)
    assert smaller.megabytes < more.megabytes


def test_noises_are_held_as_float32() -> None:
    silent, loud = (memory_needed(spec_of(), HOUR, sounds_s) for sounds_s in (0.0, 3600.0))
    assert loud.megabytes - silent.megabytes == pytest.approx(3600 * 0.064, abs=1)


def test_every_process_holds_libraries_weights_and_its_part_of_the_batch() -> None:
    spec = spec_of(preset=Preset.BASE, batch_size=8)
    one, four = (memory_needed(spec, HOUR, 600.0, processes).parts for processes in (1, 4))
    assert four["process"] == 5 * one["process"]  # and the one that starts them
    assert four["kernels"] == 4 * one["kernels"]
    assert four["weights and optimiser"] == 4 * one["weights and optimiser"]
    assert four["noises and rooms"] == 4 * one["noises and rooms"]
    assert four["one batch"] == pytest.approx(one["one batch"], rel=0.05)  # they share it
    single = spec_of(preset=Preset.BASE, batch_size=1)
    one, four = (memory_needed(single, HOUR, 0.0, processes).parts for processes in (1, 4))
    assert four["one batch"] == 4 * one["one batch"]  # nothing to share


def test_host_and_gpu_share_all_of_it() -> None:
    host, gpu = host_memory_needed(spec_of(), HOUR, 60.0), network_memory_needed(spec_of(), HOUR)
    assert {**host.parts, **gpu.parts} == memory_needed(spec_of(), HOUR, 60.0).parts
    assert set(gpu.parts) == {"weights and optimiser", "one batch"}


def test_clips_longer_than_a_batch_may_be_take_no_more() -> None:
    """Fewer of them make a batch, in training and in judging."""
    long, longer = (network_memory_needed(spec_of(), [16_000 * seconds]).parts for seconds in (16, 60))
    assert long == longer


def test_parts_add_up_and_are_named() -> None:
    estimate = disk_needed(spec_of(preset=Preset.BASE))
    assert estimate.megabytes >= 16 * 4 * parameter_count(preset("base", 4)) // 1_000_000
    assert str(estimate).startswith(f"{estimate.megabytes} MB (training state, old and new ")


def measured(folder: Path, name: str, batch: int, copies: int, epochs: int) -> dict[str, int]:
    """What a run in a process of its own took."""
    command = [sys.executable, "-m", "voice_pipeline_tests.training.measured_run", name]
    command += [str(argument) for argument in (batch, copies, epochs, folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", ["micro", "tiny"])
def test_a_real_run_stays_below_its_estimates(tmp_path: Path, name: str) -> None:
    found = measured(tmp_path, name, batch=4, copies=1, epochs=2)
    assert found["shapes"] >= 20  # each costs memory: see KERNELS
    assert found["peak_mb"] <= found["memory_estimate_mb"] <= 3 * found["peak_mb"]
    assert found["disk_mb"] <= found["disk_estimate_mb"]


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """As many steps over four times the clips, in small batches, for these leave little beside the data: holding the
    audio takes a sixth more.
    """
    one = measured(tmp_path / "one", "micro", batch=2, copies=2, epochs=4)
    four = measured(tmp_path / "four", "micro", batch=2, copies=8, epochs=1)
    assert four["audio_s"] == 4 * one["audio_s"]
    assert four["peak_mb"] == pytest.approx(one["peak_mb"], rel=0.1)
