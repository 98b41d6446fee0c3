"""What MLflow missed while it was down, of any model and of any kind, it is told later, once."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, ResourceDefinition, RunRequest, SkipReason, build_sensor_context
from sqlalchemy import update

from voice_pipeline.evaluation.artifacts import FLOAT, artifact_of
from voice_pipeline.evaluation.report import store_report
from voice_pipeline.schema.canonical import sha256_bytes
from voice_pipeline.settings import load_settings
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import alerts, eval_suites, models
from voice_pipeline.training import stages
from voice_pipeline.training.confidence import HELD_OUT, QUALITY, RELIABILITY, RISK_COVERAGE, Calibration, HeldOut
from voice_pipeline.training.environment import Compute, keep_environment
from voice_pipeline.training.planning import Plan, act, read_policy, request_retrain
from voice_pipeline.training.sensors import registry_sensor
from voice_pipeline.training.tracking import client_of
from voice_pipeline_tests.training.catalogue import add_dataset
from voice_pipeline_tests.training.test_tracking import artifacts, report_of

EPOCH = {"epoch": 1, "loss": 2.0, "dev_wer": 0.5, "seconds": 1.0, "audio_s_per_s": 9.0, "learning_rate": 1e-3}
DECODING = {"decoder": "beam", "decoder_reason": "fewer word errors", "lm_order": 3, "dev_wer_beam": 0.25}
GREEDY = '{"kind": "greedy"}'
JUDGED = {field.name: 0.75 for field in fields(HeldOut)} | {"clips": 130, "speakers": 10, "suite": "core-v1"}
CALIBRATION = {field.name: 0.5 for field in fields(Calibration)} | {"clips": 4, "fitted_on": "dev"}


@pytest.fixture(scope="module")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of an MLflow that was told nothing; it takes seconds to make."""
    made = Store.open(load_settings(tmp_path_factory.mktemp("empty")))
    client_of(made).search_experiments()
    return made.settings.root / "mlflow" / "mlflow.db"


@pytest.fixture
def finished(store: Store, empty_mlflow: Path) -> list[Plan]:
    """Two models that were trained, given a decoder and a confidence and evaluated, of which MLflow knows nothing."""
    (store.settings.root / "mlflow").mkdir(exist_ok=True)
    shutil.copy(empty_mlflow, store.settings.root / "mlflow" / "mlflow.db")
    add_dataset(store, 1, clips=300)
    request_retrain(store, "another seed", actor="ann")
    plans = sorted(act(store, read_policy(store)), key=lambda plan: plan.model_version)
    frozen = {"suite_id": "core-v1", "name": "core", "dataset_version": plans[0].spec.dataset_version}
    frozen |= {"digest": "a" * 64, "suite": {}, "created_at": store.now().isoformat()}
    with store.database.write() as connection:
        connection.execute(eval_suites.insert(), frozen)
    for plan in plans:
        finish(store, plan)
    return plans


def finish(store: Store, plan: Plan) -> None:
    workdir = store.settings.models / plan.model_version
    for name in ("checkpoint/model.pt", "checkpoint/config.json", "checkpoint/tokenizer.json", "learning_curve.png"):
        write(workdir / name, "x")
    write(workdir / "progress.jsonl", json.dumps(EPOCH) + "\n")
    write(workdir / "charts" / "wer_by_slice.png", "x")
    keep_environment(workdir, Compute("cpu", True, 1, 1, 1))
    change(store, plan, state="trained", metrics=DECODING)
    choose(store, plan, GREEDY)
    fit(store, plan, "one")
    judge(store, plan)
    hear(store, plan, 0.25)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def change(store: Store, plan: Plan, **values: Any) -> None:
    with store.database.write() as connection:
        connection.execute(update(models).where(models.c.model_version == plan.model_version).values(**values))


def choose(store: Store, plan: Plan, decoder: str) -> None:
    for name in ("decoder.json", "lm.arpa"):
        write(store.settings.models / plan.model_version / "checkpoint" / name, decoder)


def fit(store: Store, plan: Plan, fitted: str) -> None:
    folder = store.settings.models / plan.model_version / "checkpoint"
    made = {"confidence.json": fitted, QUALITY: json.dumps(CALIBRATION), RELIABILITY: "x", RISK_COVERAGE: "x"}
    for name, text in made.items():
        write(folder / name, text)
    change(store, plan, confidence_sha256=sha256_bytes(fitted.encode()))


def judge(store: Store, plan: Plan, auc: float = 0.75) -> None:
    artifact = artifact_of(store, plan.model_version, FLOAT)
    of = {"suite_digest": "a" * 64, "artifact_sha256": artifact.sha256}
    of["confidence_sha256"] = sha256_bytes((artifact.folder / "confidence.json").read_bytes())
    write(artifact.folder / HELD_OUT, json.dumps({**JUDGED, **of, "auc": auc}))


def hear(store: Store, plan: Plan, wer: float) -> None:
    report = report_of(plan.model_version)
    part = report.overall.model_copy(update={"wer": report.overall.wer.model_copy(update={"value": wer})})
    store_report(store, report.model_copy(update={"overall": part}), "b" * 64)


def told(store: Store) -> list[str]:
    """What one look told MLflow a minute later (it takes the newest figure), without how the releases stand."""
    assert isinstance(store.clock, ManualClock)
    store.clock.advance(timedelta(minutes=1))
    return stages.mirror(store).split("; ")[1:]


def everything(*plans: Plan) -> list[str]:
    kinds = ("logged", "decoder of", "confidence of", "held-out confidence of", "evaluation of")
    return [f"{kind} {plan.model_version}" for plan in plans for kind in kinds]


def run_id(store: Store, plan: Plan) -> str:
    return str(stages.mlflow_run_id(store, plan.model_version))


def test_everything_that_was_missed_follows_once(store: Store, finished: list[Plan]) -> None:
    down = Store(**{**vars(store), "settings": store.settings.model_copy(update={"mlflow_url": "http://127.0.0.1:9"})})
    assert stages.mirror(down) == "MLflow does not answer"
    assert told(store) == everything(*finished)
    assert told(store) == []
    for plan in finished:
        run = client_of(store).get_run(run_id(store, plan))
        assert run.data.metrics["loss"] == 2.0
        assert run.data.metrics["confidence/auc"] == 0.5
        assert run.data.metrics["confidence/clips"] == 4
        assert run.data.metrics["confidence_held_out/auc"] == 0.75
        assert run.data.metrics["confidence_held_out/clips"] == 130
        assert run.data.metrics["confidence_held_out/speakers"] == 10
        assert run.data.metrics["float/wer/overall"] == 0.25
        assert (run.data.metrics["lm_order"], run.data.metrics["dev_wer_beam"]) == (3, 0.25)
        tags = {
            "decoder": "beam",
            "decoder_reason": "fewer word errors",
            "suite_digest": "a" * 64,
            "env.bfloat16": "yes",
            "confidence.fitted_on": "dev",
            "confidence_held_out.suite": "core-v1",
            "confidence_held_out.suite_digest": "a" * 64,
            "confidence_held_out.confidence_sha256": sha256_bytes(b"one"),
        }
        assert tags.items() <= run.data.tags.items()
        assert {
            "checkpoint/model.pt",
            "environment.json",
            "decoder/decoder.json",
            "decoder/lm.arpa",
            f"confidence/{QUALITY}",
            f"confidence/{RELIABILITY}",
            f"confidence/{HELD_OUT}",
            "reports/float-core-v1.json",
            "charts/wer_by_slice.png",
        } <= artifacts(store, run.info.run_id)


def test_what_was_missed_before_the_first_release_does_not_wait_for_it(store: Store, finished: list[Plan]) -> None:
    context = build_sensor_context(
        instance=DagsterInstance.ephemeral(), resources={"store": ResourceDefinition.hardcoded_resource(store)}
    )
    assert [type(asked) for asked in registry_sensor(context)] == [RunRequest]  # type: ignore[union-attr]
    for plan in finished:
        change(store, plan, state="planned")
    assert [type(asked) for asked in registry_sensor(context)] == [SkipReason]  # type: ignore[union-attr]


def test_what_is_made_anew_is_told_anew_and_nothing_else(store: Store, finished: list[Plan]) -> None:
    first = finished[0]
    told(store)
    choose(store, first, GREEDY + "\n")
    assert told(store) == [f"decoder of {first.model_version}"]
    change(store, first, metrics={**DECODING, "dev_wer_beam": 0.2})
    assert told(store) == [f"decoder of {first.model_version}"]
    fit(store, first, "two")
    assert told(store) == [f"confidence of {first.model_version}"]  # and not what was found of the former one
    judge(store, first, auc=0.875)
    assert told(store) == [f"held-out confidence of {first.model_version}"]
    hear(store, first, 0.125)  # on the same suite, after the decoder changed
    assert told(store) == [f"evaluation of {first.model_version}"]
    metrics = client_of(store).get_run(run_id(store, first)).data.metrics
    assert (metrics["dev_wer_beam"], metrics["float/wer/overall"]) == (0.2, 0.125)
    assert (metrics["confidence/auc"], metrics["confidence_held_out/auc"]) == (0.5, 0.875)
    assert told(store) == []


@pytest.mark.parametrize("kind", ["decoder", "confidence", "charts"])
def test_a_telling_that_broke_off_is_told_again(
    store: Store, finished: list[Plan], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    honest = MlflowClient.log_artifact

    def full(self: MlflowClient, run: str, path: str, folder: str | None = None) -> None:
        if folder == kind:
            raise OSError("no space left")
        honest(self, run, path, folder)

    monkeypatch.setattr(MlflowClient, "log_artifact", full)
    told(store)
    monkeypatch.undo()
    assert told(store)[0].split(" of ")[0] == {"charts": "evaluation"}.get(kind, kind)
    assert told(store) == []


def test_a_model_whose_files_are_gone_is_an_alert_and_holds_up_no_other(store: Store, finished: list[Plan]) -> None:
    broken, sound = finished
    (store.settings.models / broken.model_version / "learning_curve.png").unlink()
    assert told(store) == everything(sound)
    (alert,) = store.database.rows(alerts.select())
    assert broken.model_version in alert["body"]


def test_a_run_that_mlflow_lost_is_told_anew(store: Store, finished: list[Plan]) -> None:
    told(store)
    client_of(store).delete_run(run_id(store, finished[1]))
    assert told(store) == everything(finished[1])


def test_a_confidence_that_is_just_being_fitted_is_left_for_the_next_look(store: Store, finished: list[Plan]) -> None:
    folder = store.settings.models / finished[0].model_version / "checkpoint"
    write(folder / "confidence.json", "two")  # the catalogue is told last
    assert everything(finished[0])[2] not in told(store)
    fit(store, finished[0], "two")
    assert told(store) == everything(finished[0])[2:3]  # judged on the suite it was before


def test_a_model_that_was_only_trained_is_told_as_far_as_it_got(store: Store, finished: list[Plan]) -> None:
    first, folder = finished[0], store.settings.models / finished[0].model_version / "checkpoint"
    (folder / "decoder.json").unlink()
    change(store, first, confidence_sha256=None)
    (folder / "confidence.json").unlink()
    assert told(store)[:2] == [f"logged {first.model_version}", f"evaluation of {first.model_version}"]


def test_a_card_that_was_written_anew_is_told_anew(store: Store, finished: list[Plan]) -> None:
    told(store)
    card = store.settings.models / finished[0].model_version / "model_card.md"
    for text in ("# card", "# card, after another evaluation"):
        write(card, text)
        assert told(store) == [f"{finished[0].model_version} is version 1"]
        assert told(store) == []
    there = client_of(store).download_artifacts(run_id(store, finished[0]), card.name)
    assert Path(there).read_text() == text
