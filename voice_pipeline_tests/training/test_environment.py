"""The environment of a model is that of the process that trained it; where nobody kept it, that is said."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest
import torch

from voice_pipeline.training import trainer
from voice_pipeline.training.environment import (
    ENVIRONMENT,
    Compute,
    cpu_model,
    cuda_devices,
    environment,
    keep_environment,
    kept_environment,
)
from voice_pipeline_tests.training.speech_made_of_tones import language, spec_of


def test_the_environment_names_what_matters_and_no_person_or_place(tmp_path: Path) -> None:
    keep_environment(tmp_path, Compute("cpu", False, 1, 2, 5))
    found = kept_environment(tmp_path)
    assert environment().items() <= found.items()
    assert {"python", "platform", "torch", "onnxruntime", "cpu", "cuda_devices"} <= found.keys()
    told = ("device", "bfloat16", "threads", "processes", "first_epoch")
    assert [found[name] for name in told] == ["cpu", "no", "1", "2", "5"]
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "not installed" not in (found["torch"], found["onnxruntime"])
    assert not any(str(Path.home()) in value or socket.gethostname() in value for value in found.values())


def test_of_a_model_that_kept_none_nothing_is_guessed(tmp_path: Path) -> None:
    assert kept_environment(tmp_path) == {
        "recorded": "no: there is no environment.json, it was trained before that was kept"
    }
    for damaged in ("{", "[]", "\udcff"):
        (tmp_path / ENVIRONMENT).write_bytes(damaged.encode(errors="surrogateescape"))
        assert kept_environment(tmp_path) == {"recorded": "no: environment.json is damaged"}


@pytest.mark.parametrize("bfloat16", [True, False])
def test_it_is_what_the_training_used_and_not_what_was_asked_for(
    tmp_path: Path, bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(trainer, "uses_bfloat16", lambda device: bfloat16)
    before, begun = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        for _ in range(2):  # the second finds nothing left to train
            trainer.train(spec_of(max_epochs=1), language(9), language(4, 1), [], tmp_path, begun=begun.append)
    finally:
        torch.set_num_threads(before)
    assert begun == [Compute("cpu", bfloat16, 1, 1, 1)]  # micro trains on one thread


def test_who_takes_up_an_interrupted_run_says_from_which_epoch(tmp_path: Path) -> None:
    begun: list[Compute] = []

    def stop(report: trainer.EpochReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.train(spec_of(max_epochs=2), language(9), language(4, 1), [], tmp_path, None, stop, begun=begun.append)
    trainer.train(spec_of(max_epochs=2), language(9), language(4, 1), [], tmp_path, begun=begun.append)
    assert [compute.first_epoch for compute in begun] == [1, 2]


def test_a_kept_environment_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / ENVIRONMENT).write_text(json.dumps({"device": "cuda", "gone": "x"}))
    keep_environment(tmp_path, Compute("cpu", False, 1, 1, 1))
    assert kept_environment(tmp_path)["device"] == "cpu"
    assert "gone" not in kept_environment(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [ENVIRONMENT]


def test_cpu_and_devices_are_read_from_what_the_system_tells(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Fast CPU @ 3 GHz\nmodel name\t: Fast CPU @ 3 GHz\n")
    assert cpu_model(tmp_path / "cpuinfo") == "Fast CPU @ 3 GHz"
    assert cpu_model(tmp_path / "nowhere")
    for bus in ("01", "02"):
        (tmp_path / "gpus" / bus).mkdir(parents=True)
        (tmp_path / "gpus" / bus / "information").write_text(f"Model: \t H{bus}\nIRQ: 1\n")
    assert cuda_devices(tmp_path / "gpus") == ["H01", "H02"]
    assert cuda_devices(tmp_path / "none") == []
