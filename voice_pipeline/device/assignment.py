"""What the device was told to do, kept as a lease: the model to run, and where dictations are turned into text.

A lease counts from the moment it was received until it lapses; by a clock that was set back to before that moment, it
has lapsed, or nobody could tell how long it would go on. Then the last *settled* assignment is in force: the one that
came with reason `DEFAULT`, the model of everybody, never a candidate under trial; and dictation is local.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, StringConstraints

from voice_pipeline.device.files import replace
from voice_pipeline.schema.base import Record, Sha256, UtcTime
from voice_pipeline.schema.inference import InferenceMode

SETTLED = "DEFAULT"
LONGEST_LEASE = timedelta(days=31)
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]
"""Of a model, a release, a reason: what may stand in a file's name, a URL and the lease."""
Seconds = Annotated[int, Field(ge=-(2**62), le=2**62)]
"""What any reader of the lease can hold; `LONGEST_LEASE` is what counts."""


class DeviceAssignment(Record):
    """What the edge answered. `model_version` None: no model fits this device. Unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    model_version: Name | None = None
    bundle_digest: Sha256 | None = None
    release_id: Name | None = None
    shadow_model_version: Name | None = None
    shadow_bundle_digest: Sha256 | None = None
    shadow_release_id: Name | None = None
    lease_seconds: Seconds = 86_400
    reason: Name = SETTLED


@dataclass(frozen=True)
class Flags:
    """All that the edge tells a device at once; `etag` names this answer when asking again."""

    assignment: DeviceAssignment
    mode: InferenceMode = InferenceMode.LOCAL
    etag: str = ""


class _Lease(Record):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    current: DeviceAssignment
    received_at: UtcTime
    settled: DeviceAssignment | None
    mode: InferenceMode = InferenceMode.LOCAL
    etag: str = ""

    def holds(self, now: datetime) -> bool:
        seconds = min(self.current.lease_seconds, int(LONGEST_LEASE.total_seconds()))
        return self.received_at <= now and (now - self.received_at).total_seconds() <= seconds


class AssignmentFile:
    """The lease on disk; a damaged file counts as none."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def keep(self, flags: Flags, now: datetime) -> None:
        """Replace the lease; a `DEFAULT` assignment with a model also becomes what to fall back to.

        Raises:
            OSError: the disk is full; the lease before is still there.
        """
        assignment = flags.assignment
        known = self._read()
        settled = known.settled if known else None
        if assignment.reason == SETTLED and assignment.model_version is not None:
            settled = assignment
        elif assignment.shadow_model_version is not None:  # a shadow's primary model is that of everybody
            settled = _without_shadow(assignment)
        lease = _Lease(current=assignment, received_at=now, settled=settled, mode=flags.mode, etag=flags.etag)
        replace(self._path, lease.model_dump_json().encode())

    def effective(self, now: datetime) -> Flags | None:
        """What is in force; once the lease has lapsed, the settled model, local, no shadow; None before the first."""
        lease = self._read()
        if lease is None:
            return None
        if lease.holds(now):
            return Flags(lease.current, lease.mode, lease.etag)
        return Flags(lease.settled or _without_shadow(lease.current))

    def latest(self) -> Flags | None:
        """The last answer of the edge, however old."""
        lease = self._read()
        return Flags(lease.current, lease.mode, lease.etag) if lease else None

    def _read(self) -> _Lease | None:
        try:
            return _Lease.model_validate_json(self._path.read_bytes())
        except (OSError, ValueError):
            return None


def _without_shadow(assignment: DeviceAssignment) -> DeviceAssignment:
    nothing: dict[str, Any] = {"shadow_model_version": None, "shadow_bundle_digest": None, "shadow_release_id": None}
    return assignment.model_copy(update={**nothing, "reason": SETTLED})
