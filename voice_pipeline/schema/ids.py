"""The names of things. Every identifier in tables, metadata, the UI and docs is made here."""

from __future__ import annotations

import random
import secrets
from datetime import date, datetime
from uuid import UUID


def uuid7(at: datetime, rng: random.Random | None = None) -> str:
    """A UUIDv7 (RFC 9562 §5.7) for the instant `at`.

    With `rng` the 74 random bits come from it, so a seeded story mints the same ids again.
    """
    milliseconds = int(at.timestamp() * 1000)
    bits = rng.getrandbits(74) if rng else secrets.randbits(74)
    rand_a, rand_b = bits >> 62, bits & ((1 << 62) - 1)
    value = (milliseconds & ((1 << 48) - 1)) << 80 | 0x7 << 76 | rand_a << 64 | 0b10 << 62 | rand_b
    return str(UUID(int=value))


def batch_id(day: date, number: int) -> str:
    """`batch-YYYYMMDD-NNN`: a closed set of approved labels."""
    return f"batch-{day:%Y%m%d}-{number:03d}"


def dataset_version(dvc_md5: str) -> str:
    """`ds-` + the first 12 digits of the DVC md5 of the dataset folder."""
    return f"ds-{dvc_md5[:12]}"


def model_version(day: date, spec_digest: str) -> str:
    """`m-YYYYMMDD-` + 8 hex digits of the digest of the training spec."""
    return f"m-{day:%Y%m%d}-{spec_digest[:8]}"


def release_id(model_version: str, number: int) -> str:
    """`model_version` + `-rN`."""
    return f"{model_version}-r{number}"


def incident_id(day: date, number: int) -> str:
    """`inc-YYYYMMDD-NNN`."""
    return f"inc-{day:%Y%m%d}-{number:03d}"
