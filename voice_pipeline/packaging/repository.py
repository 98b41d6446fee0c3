"""The update repository that devices trust: TUF 1.0 (https://theupdateframework.github.io/specification/latest/).

Layout under `settings.tuf / "repository"`, served as plain files: `metadata/` (N.root.json, N.targets.json,
N.snapshot.json, timestamp.json; consistent snapshots) and `targets/<sha256>.<model_version>.tar`.
Root and targets are signed by the offline keys, snapshot and timestamp by the online keys. The root carries the public
key that bundles are signed with (`SIGNING_KEY_FIELD`), so a device that pins the root needs to be told nothing else.

Promise: a publication killed anywhere leaves the last one in force, because the timestamp, written last and in one
move, is the only file that names the others.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voice_pipeline.packaging.errors import RepositoryDamagedError
from voice_pipeline.packaging.signing import private_key, signing_public_key
from voice_pipeline.schema.bundle import BundleManifest
from voice_pipeline.schema.canonical import digest
from voice_pipeline.settings import Settings
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.trust import signature_path

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner
    from tuf.api.metadata import Metadata

OFFLINE_LIFETIME = timedelta(days=365)
ONLINE_LIFETIME = timedelta(days=30)
SIGNING_KEY_FIELD = "x-bundle-signing-key"
KEY_FOLDER = {"root": "offline", "targets": "offline", "snapshot": "online", "timestamp": "online"}
LIFETIME = {
    "root": OFFLINE_LIFETIME,
    "targets": OFFLINE_LIFETIME,
    "snapshot": ONLINE_LIFETIME,
    "timestamp": ONLINE_LIFETIME,
}


class UpdateRepository:
    """Reads and extends the repository of one home; made, with its keys, when first asked for anything.

    Args:
        settings: says where metadata, targets and keys lie.
        now: the instant from which expiry counts.
    """

    def __init__(self, settings: Settings, now: datetime) -> None:
        self._keys = settings.keys
        self._lock = settings.tuf / ".lock"
        self.metadata = settings.tuf / "repository" / "metadata"
        self.targets = settings.tuf / "repository" / "targets"
        self._now = now

    def trusted_root(self) -> bytes:
        """The first root's bytes: what an app ships with. All later roots follow from it.

        Raises:
            RepositoryDamagedError: there is a repository but not its first root.
        """
        with self._exclusive():
            try:
                return (self.metadata / "1.root.json").read_bytes()
            except OSError as error:
                raise RepositoryDamagedError(
                    f"{self.metadata} has lost 1.root.json, which every device starts from; restore it from a backup"
                ) from error

    def publish(self, folder: Path, manifest: BundleManifest) -> str:
        """Offer a signed bundle to devices as target `<model_version>.tar`; repeating it changes nothing.

        Returns:
            The sha256 of the archive.
        """
        from tuf.api.metadata import TargetFile

        name = target_name(manifest.model_version)
        archive = pack(folder)
        target = TargetFile.from_data(name, archive, ["sha256"])
        target.unrecognized_fields["custom"] = {
            "model_version": manifest.model_version,
            "bundle_digest": manifest.digest,
            "min_app_version": manifest.min_app_version,
        }
        sha256 = target.hashes["sha256"]
        with self._exclusive():
            targets = self._current("targets")
            if targets.signed.targets.get(name) == target:
                self._renew()
                return sha256
            write_atomically(self.targets / f"{sha256}.{name}", archive)
            targets.signed.targets[name] = target
            self._write_next(targets, "targets")
            self._advance_snapshot(targets.signed.version)
        return sha256

    def withdraw(self, model_version: str) -> bool:
        """Stop offering a bundle; True if it was on offer. Devices that hold it keep it as a fallback."""
        with self._exclusive():
            targets = self._current("targets")
            if targets.signed.targets.pop(target_name(model_version), None) is None:
                return False
            self._write_next(targets, "targets")
            self._advance_snapshot(targets.signed.version)
            return True

    def published(self) -> dict[str, dict[str, Any]]:
        """What is on offer: model version → custom metadata of its target."""
        with self._exclusive():
            files = self._current("targets").signed.targets.values()
            return {file.custom["model_version"]: dict(file.custom) for file in files if file.custom}

    def renew(self) -> bool:
        """Re-sign snapshot and timestamp if less than half their life is left; True if that was done."""
        with self._exclusive():
            return self._renew()

    def renewal_due(self) -> str | None:
        """The digest of the metadata that `renew` would replace now; None while it is fresh or nothing is on offer."""
        if not (self.metadata / "timestamp.json").exists():
            return None
        with self._exclusive():
            timestamp = self._current("timestamp").signed
            if not self._stale() or not self._current("targets").signed.targets:
                return None
            return digest({"timestamp": timestamp.version, "expires": timestamp.expires.isoformat()})

    # --- inside, all under the lock -----------------------------------------------------------------------------------

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        from filelock import FileLock

        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._lock):
            if not (self.metadata / "timestamp.json").exists():
                self._found()
            yield

    def _found(self) -> None:
        from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

        root_file = self.metadata / "1.root.json"
        if not root_file.exists():
            root = Root(consistent_snapshot=True)
            for role in KEY_FOLDER:
                root.add_key(self._signer(role).public_key, role)
            root.unrecognized_fields[SIGNING_KEY_FIELD] = signing_public_key(self._keys).decode()
            self._write(Metadata(root), "root")
        self.targets.mkdir(parents=True, exist_ok=True)
        self._write(Metadata(Targets()), "targets")
        self._write(Metadata(Snapshot()), "snapshot")
        self._write(Metadata(Timestamp()), "timestamp")

    def _key_path(self, role: str) -> Path:
        return self._keys / KEY_FOLDER[role] / f"{role}.key"

    def _signer(self, role: str) -> CryptoSigner:
        from cryptography.hazmat.primitives import serialization
        from securesystemslib.signer import CryptoSigner

        path = private_key(self._key_path(role))
        try:
            return CryptoSigner(serialization.load_pem_private_key(path.read_bytes(), password=None))  # type: ignore[arg-type]
        except ValueError as error:
            raise RepositoryDamagedError(f"key of role {role} cannot be read; restore {path.name}") from error

    def _current(self, role: str) -> Metadata[Any]:
        """The metadata of `role` that is in force."""
        from tuf.api.exceptions import RepositoryError
        from tuf.api.metadata import Metadata

        try:
            if role == "root":
                newest = max(int(path.name.split(".")[0]) for path in self.metadata.glob("*.root.json"))
                return Metadata.from_file(str(self.metadata / f"{newest}.root.json"))
            metadata: Metadata[Any] = Metadata.from_file(str(self.metadata / "timestamp.json"))
            if role != "timestamp":
                version = metadata.signed.snapshot_meta.version
                metadata = Metadata.from_file(str(self.metadata / f"{version}.snapshot.json"))
            if role == "targets":
                version = metadata.signed.meta["targets.json"].version
                metadata = Metadata.from_file(str(self.metadata / f"{version}.targets.json"))
        except (OSError, ValueError, RepositoryError) as error:
            raise RepositoryDamagedError(
                f"{role} metadata cannot be read ({error}); restore {self.metadata}"
            ) from error
        return metadata

    def _write_next(self, metadata: Metadata[Any], role: str) -> None:
        """`_write` the version after the one that `metadata` has."""
        metadata.signed.version += 1
        self._write(metadata, role)

    def _write(self, metadata: Metadata[Any], role: str) -> None:
        """Sign metadata with a fresh expiry and put it into place in one move."""
        metadata.signed.expires = (self._now + LIFETIME[role]).replace(microsecond=0)
        metadata.sign(self._signer(role))
        name = "timestamp.json" if role == "timestamp" else f"{metadata.signed.version}.{role}.json"
        write_atomically(self.metadata / name, metadata.to_bytes())

    def _advance_snapshot(self, targets_version: int) -> None:
        snapshot, timestamp = self._current("snapshot"), self._current("timestamp")
        snapshot.signed.meta["targets.json"].version = targets_version
        self._write_next(snapshot, "snapshot")
        timestamp.signed.snapshot_meta.version = snapshot.signed.version
        self._write_next(timestamp, "timestamp")

    def _stale(self) -> bool:
        expires: datetime = self._current("timestamp").signed.expires
        return expires - self._now <= ONLINE_LIFETIME / 2

    def _renew(self) -> bool:
        if not self._stale():
            return False
        targets = self._current("targets")
        if targets.signed.expires - self._now < OFFLINE_LIFETIME / 2:
            self._write_next(targets, "targets")
        self._advance_snapshot(targets.signed.version)
        return True


def target_name(model_version: str) -> str:
    """The TUF target path of a model version's bundle."""
    return f"{model_version}.tar"


def pack(folder: Path) -> bytes:
    """A bundle folder and its signature as one tar, with fixed headers and order: equal bundles give equal bytes."""
    buffer = io.BytesIO()
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in [*paths, signature_path(folder)]:
            info = tarfile.TarInfo(path.relative_to(folder.parent).as_posix())
            info.size = path.stat().st_size
            archive.addfile(info, io.BytesIO(path.read_bytes()))
    return buffer.getvalue()
