"""What the device was told to run, kept as a lease.

A lease that lapses without a word from the edge falls back to the last *settled* assignment: the one that came with
reason `DEFAULT`, the model of everybody, never a candidate under trial. Flags travel as OFREP
(https://github.com/open-feature/protocol), so any OpenFeature client could ask the same question.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError

from voice_pipeline.schema.base import Record, UtcTime

SETTLED = "DEFAULT"


class DeviceAssignment(Record):
    """What the edge answered. `model_version` None: no model fits this device. Unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    model_version: str | None = None
    bundle_digest: str | None = None
    release_id: str | None = None
    shadow_model_version: str | None = None
    shadow_bundle_digest: str | None = None
    shadow_release_id: str | None = None
    lease_seconds: int = 86_400
    reason: str = SETTLED


class _Lease(Record):
    current: DeviceAssignment
    received_at: UtcTime
    settled: DeviceAssignment | None


class AssignmentFile:
    """The lease on disk; a damaged file counts as none."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def keep(self, assignment: DeviceAssignment, now: datetime) -> None:
        """Replace the lease; a `DEFAULT` assignment with a model also becomes what to fall back to."""
        known = self._read()
        settled = known.settled if known else None
        if assignment.reason == SETTLED and assignment.model_version is not None:
            settled = assignment
        elif assignment.shadow_model_version is not None:  # a shadow's primary model is that of everybody
            settled = _without_shadow(assignment)
        lease = _Lease(current=assignment, received_at=now, settled=settled)
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        with temporary.open("w") as handle:
            handle.write(lease.model_dump_json())
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(self._path)

    def effective(self, now: datetime) -> DeviceAssignment | None:
        """The assignment in force; once the lease has lapsed the settled one, without shadow; None before the first."""
        lease = self._read()
        if lease is None:
            return None
        if now <= lease.received_at + timedelta(seconds=lease.current.lease_seconds):
            return lease.current
        return lease.settled or _without_shadow(lease.current)

    def _read(self) -> _Lease | None:
        try:
            return _Lease.model_validate_json(self._path.read_bytes())
        except (OSError, ValueError):
            return None


def _without_shadow(assignment: DeviceAssignment) -> DeviceAssignment:
    nothing: dict[str, Any] = {"shadow_model_version": None, "shadow_bundle_digest": None, "shadow_release_id": None}
    return assignment.model_copy(update={**nothing, "reason": SETTLED})


def parse_flag(body: bytes) -> DeviceAssignment:
    """The assignment in an OFREP evaluation response.

    Raises:
        ValueError: the body is not such a response.
    """
    try:
        return DeviceAssignment.model_validate(json.loads(body)["value"])
    except (KeyError, TypeError, ValidationError) as error:
        raise ValueError(f"flag response is not an assignment: {error}") from error
