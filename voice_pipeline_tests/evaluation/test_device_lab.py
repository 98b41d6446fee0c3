"""Device-lab reports: kept for the bundle they were measured on, refused in one line for everything else."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.evaluation.device_lab import (
    DeviceLabError,
    bundle_digest_of,
    import_lab_report,
    lab_findings,
    parse_lab_report,
)
from voice_pipeline.evaluation.errors import ForeignLabReportError, MalformedLabReportError, MistimedLabReportError
from voice_pipeline.evaluation.latency import latency_by_class, worst
from voice_pipeline.schema.clip import NAMED_CLASSES, DeviceClass
from voice_pipeline.schema.evaluation import LatencySource
from voice_pipeline.settings import Settings
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import bundles
from voice_pipeline_tests.evaluation.heard import Said, report_on

MODEL, DIGEST = "m-20261102-aaaaaaaa", "d" * 64
OTHER, OTHER_DIGEST = "m-20261102-bbbbbbbb", "e" * 64


@pytest.fixture
def home(store: Store) -> Store:
    """A store whose catalogue has the bundles of two models."""
    for model, digest in ((MODEL, DIGEST), (OTHER, OTHER_DIGEST)):
        row = {"bundle_digest": digest, "model_version": model, "uri": "bundle", "manifest": {}, "size": 1}
        with store.database.write() as connection:
            connection.execute(bundles.insert(), {**row, "created_at": store.now().isoformat()})
    return store


def measured(store: Store, **changes: object) -> dict[str, object]:
    """What a lab sends, with some fields changed; None leaves a field out."""
    report = {
        "device_class": "phone_low",
        "device_model": "Pixel 4a",
        "os": "Android 14",
        "runtime": "onnxruntime 1.20",
        "threads": 1,
        "bundle_digest": DIGEST,
        "clips": 100,
        "p50_ms": 30.0,
        "p95_ms": 60.0,
        "p99_ms": 75.5,
        "peak_memory_mb": 48.0,
        "measured_at": (store.now() + timedelta(minutes=1)).isoformat(),
    }
    return {key: value for key, value in {**report, **changes}.items() if value is not None}


def dropped(folder: Path, content: object, name: str = "lab.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_an_imported_report_is_found_for_its_bundle_and_for_no_other(home: Store, tmp_path: Path) -> None:
    kept = import_lab_report(home, dropped(tmp_path / "in", measured(home)))
    assert (kept.model_version, kept.bundle_digest) == (MODEL, DIGEST)
    assert lab_findings(home, DIGEST).reports == (kept,)
    assert lab_findings(home, OTHER_DIGEST).reports == ()
    assert lab_findings(home, None).reports == ()
    assert bundle_digest_of(home, OTHER) == OTHER_DIGEST


def test_importing_twice_keeps_one_and_a_model_version_stands_for_its_bundle(home: Store, tmp_path: Path) -> None:
    path = dropped(tmp_path / "in", measured(home, bundle_digest=None, model_version=MODEL))
    assert import_lab_report(home, path) == import_lab_report(home, path)
    assert len(list((home.settings.root / "device_lab").iterdir())) == 1
    assert lab_findings(home, DIGEST).reports[0].bundle_digest == DIGEST


@pytest.mark.parametrize(
    ("changes", "kind", "told"),
    [
        ({"bundle_digest": "f" * 64}, ForeignLabReportError, "bundle ffffffffffff, of which this home has no bundle"),
        ({"model_version": OTHER}, ForeignLabReportError, f"names model {OTHER}, but its bundle is of {MODEL}"),
        ({"bundle_digest": None, "model_version": "m-1"}, ForeignLabReportError, "model m-1"),
        ({"threads": 4}, ForeignLabReportError, "4 threads; devices run 1"),
        ({"measured_at": "2026-11-02T10:00:00+00:00"}, MistimedLabReportError, "in the future"),
        ({"measured_at": "2026-11-02T08:00:00+00:00"}, MistimedLabReportError, "before its bundle was built"),
        ({"measured_at": "2026-11-02T09:00:00"}, MalformedLabReportError, "measured_at"),
        ({"bundle_digest": None}, MalformedLabReportError, "must name what was measured"),
        ({"p95_ms": 20.0}, MalformedLabReportError, "percentiles must rise"),
        ({"p95_ms": "60"}, MalformedLabReportError, "p95_ms"),
        ({"p50_ms": 0}, MalformedLabReportError, "p50_ms"),
        ({"p99_ms": None}, MalformedLabReportError, "p99_ms"),
        ({"peak_memory_mb": -1}, MalformedLabReportError, "peak_memory_mb"),
        ({"device_class": "fridge"}, MalformedLabReportError, "device_class"),
        ({"device_class": "unknown"}, MalformedLabReportError, "device_class"),
        ({"clips": 19}, MalformedLabReportError, "clips"),
        ({"wer": 0.1}, MalformedLabReportError, "wer"),
        ({"format_version": 2}, MalformedLabReportError, "format_version"),
    ],
)
def test_a_report_that_does_not_count_is_refused_by_name_and_leaves_nothing(
    home: Store, tmp_path: Path, changes: dict[str, object], kind: type[DeviceLabError], told: str
) -> None:
    with pytest.raises(kind, match=r"lab\.json") as refused:
        import_lab_report(home, dropped(tmp_path / "in", measured(home, **changes)))
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (home.settings.root / "device_lab").exists()


@pytest.mark.parametrize("content", ["", "[]", "null", "{", '{"p50_ms": NaN}', "x" * 70_000, "\x00"])
def test_what_is_no_report_at_all_is_refused(home: Store, tmp_path: Path, content: str) -> None:
    with pytest.raises(MalformedLabReportError, match=r"lab\.json"):
        import_lab_report(home, dropped(tmp_path / "in", content))


def test_times_that_are_no_numbers_are_refused(home: Store) -> None:
    for figure in ("NaN", "Infinity", "1e999"):
        data = json.dumps(measured(home)).replace("60.0", figure).replace("75.5", figure)
        with pytest.raises(MalformedLabReportError):
            parse_lab_report(data.encode(), "lab.json")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_at_all_are_a_report_or_refused(data: bytes) -> None:
    with pytest.raises(MalformedLabReportError):
        parse_lab_report(data, "lab.json")


def test_files_that_a_lab_drops_itself_are_checked_at_every_reading(home: Store, clock: ManualClock) -> None:
    folder = home.settings.root / "device_lab"
    dropped(folder, measured(home, device_model="Pixel 4a"), "good.json")
    dropped(folder, measured(home, bundle_digest="f" * 64), "foreign.json")
    dropped(folder, '{"device_cl', "half.json")
    dropped(folder, "not a report", "readme.txt")
    dropped(folder, measured(home, measured_at=(home.now() + timedelta(hours=1)).isoformat()), "early.json")
    found = lab_findings(home, DIGEST)
    assert [report.device_model for report in found.reports] == ["Pixel 4a"]
    assert [line.split()[2] for line in found.refused] == ["early.json", "foreign.json", "half.json"]
    clock.advance(timedelta(hours=2))
    assert [line.split()[2] for line in lab_findings(home, DIGEST).refused] == ["foreign.json", "half.json"]


def test_of_one_device_the_newest_counts_of_one_class_the_slowest_device(home: Store, clock: ManualClock) -> None:
    folder = home.settings.root / "device_lab"
    for name, p95_ms in (("3.json", 70.0), ("1.json", 60.0), ("2.json", 50.0)):  # names say nothing about time
        dropped(folder, measured(home, p95_ms=p95_ms), name)
        clock.advance(timedelta(hours=1))
    dropped(folder, measured(home, device_model="Moto E", p95_ms=65.0), "4.json")
    found = lab_findings(home, DIGEST)
    assert {report.device_model: report.p95_ms for report in found.reports} == {"Pixel 4a": 50.0, "Moto E": 65.0}
    by_class = {one.device_class: one for one in latency_by_class(report_on([Said("ann", "a", "a")]), found.reports)}
    assert set(by_class) == set(NAMED_CLASSES)
    low = by_class[DeviceClass.PHONE_LOW]
    assert (low.source, low.p95_ms, low.peak_memory_mb) == (LatencySource.DEVICE_LAB, 65.0, 48.0)
    assert "Moto E" in low.measured_on
    assert worst(by_class.values()) == low


def test_a_class_without_a_lab_has_the_hosts_time_and_says_so() -> None:
    report = report_on([Said("ann", "a", "a")])
    for one in latency_by_class(report, ()):
        assert (one.source, one.p95_ms) == (LatencySource.HOST, report.latency.p95_ms)
        assert "host (float), a stand-in" in one.measured_on
        assert one.p99_ms is one.peak_memory_mb is None


def test_the_folder_may_lie_elsewhere(home: Store, tmp_path: Path) -> None:
    elsewhere = Store.open(Settings(home=home.settings.root, device_lab_url=str(tmp_path / "drop")), home.clock)
    dropped(tmp_path / "drop", measured(home))
    assert len(lab_findings(elsewhere, DIGEST).reports) == 1
    assert lab_findings(home, DIGEST).reports == ()
