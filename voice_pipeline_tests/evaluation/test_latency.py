"""Whose time stands for a device class: the lab's of this very bundle, else this host's of what devices run."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from voice_pipeline.evaluation.artifacts import FLOAT, INT8, artifact_of
from voice_pipeline.evaluation.latency import model_latency, worst
from voice_pipeline.evaluation.report import store_report
from voice_pipeline.evaluation.tables import latency_table
from voice_pipeline.schema.canonical import canonical_json
from voice_pipeline.schema.clip import NAMED_CLASSES, DeviceClass
from voice_pipeline.schema.device_lab import DeviceLabReport
from voice_pipeline.schema.evaluation import LatencySource
from voice_pipeline.schema.training import EvaluationReport
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import bundles
from voice_pipeline_tests.evaluation.heard import Said, report_on

MODEL, DIGEST = "m-20261102-aaaaaaaa", "d" * 64


def heard(variant: str, clips: int, suite_digest: str = "a" * 64) -> EvaluationReport:
    """A report whose p50 and p95 grow with its clips."""
    return report_on([Said("ann", "a", "a")] * clips, MODEL, variant, suite_digest)


@pytest.fixture
def network(store: Store) -> Path:
    """What `artifact_of` takes for the model's int8 network."""
    path = store.settings.bundles / MODEL / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"int8")
    return path


def test_the_host_tells_the_time_of_what_devices_run(store: Store, network: Path) -> None:
    quick = heard(INT8, clips=3)
    store_report(store, quick, artifact_of(store, MODEL, INT8).sha256)
    latency, _ = model_latency(store, heard(FLOAT, clips=9))
    for one in latency:
        assert (one.source, one.p50_ms, one.p95_ms) == (LatencySource.HOST, quick.latency.p50_ms, quick.latency.p95_ms)
        assert one.measured_on.startswith("host (int8), a stand-in")


@pytest.mark.parametrize("change", ["never heard", "other bytes since", "gone", "another suite"])
def test_without_that_time_the_reports_own_stands_in_and_is_marked(store: Store, network: Path, change: str) -> None:
    quick = heard(INT8, clips=3, suite_digest=("b" if change == "another suite" else "a") * 64)
    if change != "never heard":
        store_report(store, quick, artifact_of(store, MODEL, INT8).sha256)
    if change == "other bytes since":
        network.write_bytes(b"int8, quantised anew")
    if change == "gone":
        network.unlink()
    report = heard(FLOAT, clips=9)
    latency, _ = model_latency(store, report)
    for one in latency:
        assert (one.source, one.p95_ms) == (LatencySource.HOST, report.latency.p95_ms)
        assert one.measured_on.startswith("host (float), a stand-in")
    assert latency_table(latency).count("| host | host (float), a stand-in") == len(NAMED_CLASSES)


def test_a_lab_stands_for_its_class_alone_and_only_with_a_bundle(store: Store) -> None:
    report = heard(FLOAT, clips=9)
    measured = DeviceLabReport(
        device_class=DeviceClass.LAPTOP,
        device_model="X1",
        os="Linux 6",
        runtime="onnxruntime 1.31",
        threads=1,
        bundle_digest=DIGEST,
        clips=50,
        p50_ms=50.0,
        p95_ms=90.0,
        p99_ms=120.0,
        peak_memory_mb=60.0,
        measured_at=store.now(),
    )
    folder = store.settings.root / "device_lab"
    folder.mkdir()
    (folder / f"{hashlib.sha256(b'x1').hexdigest()}.json").write_bytes(canonical_json(measured))
    before, refused = model_latency(store, report)
    assert {one.source for one in before} == {LatencySource.HOST}
    assert len(refused.refused) == 1
    row = {"bundle_digest": DIGEST, "model_version": MODEL, "uri": "bundle", "manifest": {}, "size": 1}
    with store.database.write() as connection:
        connection.execute(bundles.insert(), {**row, "created_at": store.now().isoformat()})
    latency, found = model_latency(store, report)
    assert found.refused == ()
    assert {one.device_class: one.source for one in latency} == {
        device_class: LatencySource.DEVICE_LAB if device_class is DeviceClass.LAPTOP else LatencySource.HOST
        for device_class in NAMED_CLASSES
    }
    assert (worst(latency).device_class, worst(latency).p95_ms) == (DeviceClass.LAPTOP, 90.0)
