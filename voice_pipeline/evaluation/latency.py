"""Latency by device class: what a device lab measured where it did, this host's own time elsewhere, each marked.

Of several devices of a class the slowest (by p95) stands for it: a class is as fast as its slowest device.
"""

from __future__ import annotations

from collections.abc import Iterable

from voice_pipeline.evaluation.artifacts import INT8, artifact_of
from voice_pipeline.evaluation.device_lab import LabFindings, bundle_digest_of, lab_findings
from voice_pipeline.evaluation.errors import UnknownArtifactError
from voice_pipeline.evaluation.report import find_report, reported_artifact
from voice_pipeline.schema.clip import NAMED_CLASSES, DeviceClass
from voice_pipeline.schema.device_lab import DeviceLabReport
from voice_pipeline.schema.evaluation import ClassLatency, LatencySource
from voice_pipeline.schema.training import EvaluationReport
from voice_pipeline.store.store import Store


def latency_by_class(report: EvaluationReport, lab: Iterable[DeviceLabReport]) -> tuple[ClassLatency, ...]:
    """One line a device class, in order: the lab's where it has one, else `report`'s host time."""
    slowest: dict[DeviceClass, DeviceLabReport] = {}
    for measured in lab:
        known = slowest.get(measured.device_class)
        if known is None or measured.p95_ms > known.p95_ms:
            slowest[measured.device_class] = measured
    return tuple(
        _of_lab(slowest[device_class]) if device_class in slowest else _of_host(device_class, report)
        for device_class in NAMED_CLASSES
    )


def model_latency(store: Store, report: EvaluationReport) -> tuple[tuple[ClassLatency, ...], LabFindings]:
    """Latency of `report`'s model by device class, and what the device lab sent about its bundle.

    The host's time is that of the int8 network if that was heard on the same suite (and still lies there), since
    this is what devices run; else that of `report`.
    """
    findings = lab_findings(store, bundle_digest_of(store, report.model_version))
    return latency_by_class(_int8_report(store, report) or report, findings.reports), findings


def worst(latency: Iterable[ClassLatency]) -> ClassLatency:
    """The class with the highest p95."""
    return max(latency, key=lambda one: one.p95_ms)


def _int8_report(store: Store, report: EvaluationReport) -> EvaluationReport | None:
    try:
        artifact = artifact_of(store, report.model_version, INT8)
    except UnknownArtifactError:
        return None
    if reported_artifact(store, report.model_version, INT8, report.suite_digest) != artifact.sha256:
        return None
    return find_report(store, report.model_version, INT8, report.suite_digest)


def _of_lab(measured: DeviceLabReport) -> ClassLatency:
    return ClassLatency(
        device_class=measured.device_class,
        p50_ms=measured.p50_ms,
        p95_ms=measured.p95_ms,
        p99_ms=measured.p99_ms,
        peak_memory_mb=measured.peak_memory_mb,
        clips=measured.clips,
        source=LatencySource.DEVICE_LAB,
        measured_on=f"{measured.device_model}, {measured.os}, {measured.runtime}, {measured.measured_at:%Y-%m-%d}",
    )


def _of_host(device_class: DeviceClass, report: EvaluationReport) -> ClassLatency:
    return ClassLatency(
        device_class=device_class,
        p50_ms=report.latency.p50_ms,
        p95_ms=report.latency.p95_ms,
        clips=report.latency.clips,
        source=LatencySource.HOST,
        measured_on=f"{report.latency.measured_on} ({report.variant}), a stand-in: no device-lab report of this class",
    )
