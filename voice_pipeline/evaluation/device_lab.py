"""Reports that a device lab drops into a folder (`VOICE_PIPELINE_DEVICE_LAB_URL`, default `<home>/device_lab`): found,
checked against the catalogue, and bound to the bundle whose bytes were timed.

Promise: a figure counts only for the bundle it was measured on. What is malformed, of another bundle, of the future or
of another number of threads is refused with one line that names the file, at import and again at every reading: a lab
may also write into the folder itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy import select

from voice_pipeline.evaluation.errors import DeviceLabError, ForeignLabReportError, MalformedLabReportError
from voice_pipeline.evaluation.errors import MistimedLabReportError as Mistimed
from voice_pipeline.schema.canonical import canonical_json
from voice_pipeline.schema.device_lab import DeviceLabReport
from voice_pipeline.store.blobs import BlobStore
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import bundles

MOST_BYTES = 64_000
CLOCK_SKEW = timedelta(minutes=5)
THREADS = 1
"""What the updater gives the runtime on a device, and what `policy/release.yaml` limits the p95 of."""


@dataclass(frozen=True)
class LabFindings:
    """Reports on one bundle, newest of each device first in name order, and one line for each file that was refused."""

    reports: tuple[DeviceLabReport, ...]
    refused: tuple[str, ...]


def import_lab_report(store: Store, path: Path) -> DeviceLabReport:
    """Check one file and keep it in the home's device-lab folder; importing it again changes nothing.

    Returns:
        The report, bound to its bundle.

    Raises:
        DeviceLabError: one of its kinds, naming the file.
        OSError: the file cannot be read.
    """
    with path.open("rb") as handle:
        data = handle.read(MOST_BYTES + 1)
    report = _checked(store, data, path.name)
    name = f"{report.device_class.value}-{report.digest[:16]}.json"
    _folder(store).put(name, canonical_json(report))
    return report


def lab_findings(store: Store, bundle_digest: str | None) -> LabFindings:
    """What the lab's folder holds about one bundle; nothing while the model has no bundle (None)."""
    folder = _folder(store)
    kept: dict[tuple[str, ...], DeviceLabReport] = {}
    refused = []
    for name in folder.names(".json"):
        try:
            report = _checked(store, folder.get(name), name)
        except DeviceLabError as error:
            refused.append(str(error))
            continue
        device = (report.device_class.value, report.device_model, report.os, report.runtime)
        known = kept.get(device)
        if report.bundle_digest == bundle_digest and (known is None or known.measured_at < report.measured_at):
            kept[device] = report
    return LabFindings(tuple(kept[device] for device in sorted(kept)), tuple(refused))


def bundle_digest_of(store: Store, model_version: str) -> str | None:
    """The digest of a model's catalogued bundle, or None."""
    found = store.database.scalar(select(bundles.c.bundle_digest).where(bundles.c.model_version == model_version))
    return str(found) if found else None


def parse_lab_report(data: bytes, name: str) -> DeviceLabReport:
    """Raises:
    MalformedLabReportError: `data` is too large, no JSON, or not the JSON of a `DeviceLabReport`.
    """
    if len(data) > MOST_BYTES:
        raise MalformedLabReportError(f"device-lab report {name} has more than {MOST_BYTES} bytes; send one per device")
    try:
        return DeviceLabReport.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise MalformedLabReportError(
            f"device-lab report {name} is malformed: {_first(error.errors())}; correct it and import it again"
        ) from error


def _checked(store: Store, data: bytes, name: str) -> DeviceLabReport:
    """The report, bound to a bundle of this home."""
    report = parse_lab_report(data, name)
    _check_time(report, name, store.now())
    if report.threads != THREADS:
        raise ForeignLabReportError(
            f"device-lab report {name} was taken with {report.threads} threads; devices run {THREADS}, measure again"
        )
    where = (
        bundles.c.bundle_digest == report.bundle_digest
        if report.bundle_digest
        else bundles.c.model_version == report.model_version
    )
    row = store.database.row(select(bundles).where(where))
    if row is None:
        named = f"bundle {report.bundle_digest[:12]}" if report.bundle_digest else f"model {report.model_version}"
        raise ForeignLabReportError(f"device-lab report {name} is about {named}, of which this home has no bundle")
    if report.model_version not in (None, row["model_version"]):
        raise ForeignLabReportError(
            f"device-lab report {name} names model {report.model_version}, but its bundle is of {row['model_version']}"
        )
    if report.measured_at < datetime.fromisoformat(row["created_at"]) - CLOCK_SKEW:
        raise Mistimed(
            f"device-lab report {name} was measured at {report.measured_at:%Y-%m-%d %H:%M}, before its bundle was built"
        )
    return report.model_copy(update={"bundle_digest": row["bundle_digest"], "model_version": row["model_version"]})


def _check_time(report: DeviceLabReport, name: str, now: datetime) -> None:
    if report.measured_at > now + CLOCK_SKEW:
        raise Mistimed(
            f"device-lab report {name} is dated {report.measured_at:%Y-%m-%d %H:%M}, in the future; set the lab's clock"
        )


def _folder(store: Store) -> BlobStore:
    return BlobStore(store.settings.device_lab)


def _first(problems: Sequence[object]) -> str:
    problem = problems[0]
    assert isinstance(problem, dict)
    place = ".".join(str(step) for step in problem["loc"])
    return f"{place}: {problem['msg']}" if place else str(problem["msg"])
