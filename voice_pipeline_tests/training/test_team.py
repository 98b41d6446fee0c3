"""Two processes under `torchrun` learn what one learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from voice_pipeline.training.batches import Epoch
from voice_pipeline.training.team import SharedBatchNorm, Team
from voice_pipeline_tests.training.test_batches import augmenter

PROGRAM = "voice_pipeline_tests.training.train_once"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone"]


def losses(folder: Path, clips: int, *launcher: str) -> np.ndarray:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONFAULTHANDLER": "1"}
    command = [sys.executable, *launcher, "-m", PROGRAM, str(folder), str(clips)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(("processes", "clips"), [(2, 31), (3, 32)])  # 32 leave a batch of two: one of three is idle
def test_several_processes_reach_the_loss_of_one(tmp_path: Path, processes: int, clips: int) -> None:
    alone = losses(tmp_path / "one", clips)
    together = losses(tmp_path / "team", clips, *TORCHRUN, f"--nproc-per-node={processes}")
    assert alone[-1, 0] < alone[0, 0]
    assert np.abs(alone[:, 0] - together[:, 0]).max() < 1e-3


@pytest.mark.parametrize("processes", [2, 3, 20])
def test_the_parts_of_a_batch_are_the_batch(processes: int) -> None:
    whole = list(Epoch(augmenter(), 1, 1))
    parts = [list(Epoch(augmenter(), 1, 1, rank, processes)) for rank in range(processes)]
    for number, batch in enumerate(whole):
        shares = [part[number].share for part in parts]
        assert sum(shares) == pytest.approx(1.0)
        rows = [part[number] for part in parts if part[number].share > 0]
        assert sum(len(part.lengths) for part in rows) == len(batch.lengths)
        assert sum(len(part.targets) for part in rows) == len(batch.targets)
        assert sum(part[number].audio_s for part in parts) == pytest.approx(batch.audio_s)
        assert {part.features.shape[1:] for part in rows} == {batch.features.shape[1:]}
        for rank, part in enumerate(rows):
            assert torch.equal(part.features, batch.features[rank::processes])


def test_a_team_of_one_changes_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    Team().prepare(model)
    assert not any(isinstance(module, SharedBatchNorm) for module in model.modules())
    assert Team().sum(1.5) == 1.5
    assert Team().from_leader("x") == "x"


def test_shared_normalisation_keeps_names_and_statistics() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, momentum=0.3))
    model(torch.randn(4, 2, 1, 5))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Team(0, 2).prepare(model)
    assert isinstance(model[1], SharedBatchNorm)
    assert model[1].momentum == 0.3
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
