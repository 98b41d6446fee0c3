"""An attacker who holds some of the publisher's keys, and writes what those can sign into the served folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, TargetFile

from voice_pipeline.packaging.keys import key_files, signer
from voice_pipeline.packaging.metadata_chain import ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from voice_pipeline.schema.delivery_policy import MetadataRole
from voice_pipeline.settings import Settings

HUGE = 2**31


class Thief:
    """Args:
    settings: of the publisher, for its served folder and the keys that were stolen.
    """

    def __init__(self, settings: Settings) -> None:
        self._keys = {
            role: settings.offline_key_folder if role in (ROOT, TARGETS) else settings.keys / "online"
            for role in MetadataRole
        }
        self.metadata = settings.tuf / "repository" / "metadata"
        self.targets = settings.tuf / "repository" / "targets"

    def read(self, role: MetadataRole) -> Metadata[Any]:
        """What is served."""
        return Metadata.from_file(str(self.path(role)))

    def path(self, role: MetadataRole) -> Path:
        if role is TIMESTAMP:
            return self.metadata / "timestamp.json"
        versions = [int(path.name.split(".")[0]) for path in self.metadata.glob(f"*.{role}.json")]
        return self.metadata / f"{max(versions)}.{role}.json"

    def write(self, metadata: Metadata[Any], role: MetadataRole, keys: Sequence[Path] | None = None) -> None:
        """Sign with the role's stolen keys (or `keys`) and put it where it belongs."""
        metadata.signatures.clear()
        for path in key_files(self._keys[role], role) if keys is None else keys:
            metadata.sign(signer(path), append=True)
        name = "timestamp.json" if role is TIMESTAMP else f"{metadata.signed.version}.{role}.json"
        metadata.to_file(str(self.metadata / name))

    def next(self, role: MetadataRole, change: Callable[[Any], None] = lambda signed: None) -> int:
        """The next version of what is served of `role`, changed; nothing is made to name it. Its version."""
        metadata = self.read(role)
        metadata.signed.version += 1
        change(metadata.signed)
        self.write(metadata, role)
        version: int = metadata.signed.version
        return version

    def name_targets(self, version: int) -> None:
        """A snapshot and a timestamp that name targets `version`."""
        snapshot = self.next(SNAPSHOT, lambda signed: setattr(signed.meta["targets.json"], "version", version))
        self.name_snapshot(snapshot)

    def name_snapshot(self, version: int) -> None:
        """A timestamp that names snapshot `version`."""
        self.next(TIMESTAMP, lambda signed: setattr(signed.snapshot_meta, "version", version))

    def expire(self, role: MetadataRole, at: datetime) -> None:
        """The publisher's chain with one role's expiry at `at`, everything else in order."""

        def change(signed: Any) -> None:
            signed.expires = at

        if role is ROOT:
            self.next(ROOT, change)
        elif role is TARGETS:
            self.name_targets(self.next(TARGETS, change))
        elif role is SNAPSHOT:
            self.name_snapshot(self.next(SNAPSHOT, change))
        else:
            self.next(TIMESTAMP, change)

    def offer(self, model_version: str, archive: bytes, custom: Any = None) -> None:
        """Targets that vouch for `archive` as the bundle of a model, and say `custom` of it."""
        name = f"{model_version}.tar.xz"
        file = TargetFile.from_data(name, archive, ["sha256"])
        if custom is not None:
            file.unrecognized_fields["custom"] = custom
        (self.targets / f"{hashlib.sha256(archive).hexdigest()}.{name}").write_bytes(archive)
        self.name_targets(self.next(TARGETS, lambda signed: signed.targets.update({name: file})))
