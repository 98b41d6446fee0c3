"""Fetching a bundle the way TUF prescribes (https://theupdateframework.github.io/specification/latest/#detailed-client-workflow).

The app ships with the repository's first root and nothing else. From it follow, verified step by step: newer roots, the
timestamp, the snapshot, the targets, the archive's length and hash, and (from a field of the root) the keys that
bundles are signed with. Rollback, freeze, mix-and-match and tampering are refused by python-tuf; this module adds a
memory of time against a clock set back (`device.clock`), a deadline (`device.fetching`), a safe unpacking
(`device.archive`) and what the bundle itself has to say: signature by a key that the newest root
names (`device.root`), files, model version and digest.

Promise: a fetch only ever adds to a folder of the caller's and to the trusted metadata; whatever it ends with, and if
it is killed, what is installed stays as it is. Expired metadata ends fetches, and nothing else.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from voice_pipeline.device.archive import unpack
from voice_pipeline.device.clock import Clock, HeldTimestamp, TimeMemory
from voice_pipeline.device.errors import UpdateRefusedError, UpdateUnavailableError
from voice_pipeline.device.files import flush
from voice_pipeline.device.root import RootChain
from voice_pipeline.trust import TrustError, verify_bundle

if TYPE_CHECKING:
    import httpx
    from tuf.api.metadata import TargetFile
    from tuf.ngclient import Updater

MAX_ARCHIVE_BYTES = 200_000_000
FETCH_SECONDS = 900.0
"""For all of one fetch: 20 MB at 200 kbit/s."""
ARCHIVES = (".tar.xz", ".tar")
"""Ends of target names, the preferred one first; the second was the only one before app 1.5.0."""


BUNDLE_DIGEST = "bundle_digest"
"""Custom field of a target: which bundle its archive holds."""


class BundleUpdater:
    """Fetches bundles into a folder of the caller.

    Args:
        home: keeps the trusted metadata; what a killed fetch leaves there is harmless.
        edge_url: the repository is at `<edge_url>/tuf/`.
        trusted_root: bytes of the root that the app ships with.
        clock: decides what has expired.
        fetch_seconds: after which a fetch is given up, however it goes on.
    """

    def __init__(
        self,
        home: Path,
        edge_url: str,
        http: httpx.Client,
        trusted_root: bytes,
        clock: Clock,
        fetch_seconds: float = FETCH_SECONDS,
    ) -> None:
        self._metadata = home / "tuf"
        self._url = edge_url.rstrip("/") + "/tuf"
        self._http = http
        self._shipped = trusted_root
        self._roots = RootChain(trusted_root, self._metadata)
        self._clock = clock
        self._time = TimeMemory(self._metadata / "time.json")
        self._seconds = fetch_seconds

    def signing_key(self) -> bytes:
        """PEM of the public keys that an installed bundle may be signed with, the current one first.

        Raises:
            UpdateRefusedError: a root names none.
        """
        return self._roots.all_keys()

    def look_at_the_clock(self) -> datetime:
        """Remember what time it is, so that the clock cannot be set back unnoticed. The time to judge expiry by."""
        return self._time.look(self._clock.now(), self._held())

    def fetch(self, model_version: str, into: Path) -> Path:
        """Download and unpack the bundle of `model_version`.

        Args:
            into: an empty folder; receives `<model_version>/` and `<model_version>.sig`.

        Returns:
            The bundle folder.

        Raises:
            UpdateRefusedError: metadata, archive or bundle does not verify (tampered, rolled back, expired, by wrong or
                revoked keys, another model's, or not the bundle that the targets metadata names).
            UpdateUnavailableError: the repository cannot be reached, is too slow or does not offer that model.
            OSError: this device cannot store it.
        """
        from tuf.api.exceptions import DownloadError, RepositoryError

        try:
            archive, bundle_digest = self._download(model_version, into)
        except RepositoryError as error:
            raise UpdateRefusedError(
                f"update to {model_version} is refused ({type(error).__name__}: {error}); keeping the installed model"
            ) from error
        except DownloadError as error:
            raise UpdateUnavailableError(
                f"update to {model_version} cannot be fetched ({error}); keeping the installed model"
            ) from error
        unpack(archive, into, model_version)
        archive.unlink()
        folder = into / model_version
        try:
            verify_bundle(folder, self._roots.current_keys(), bundle_digest)
        except TrustError as error:
            raise UpdateRefusedError(f"{error}; keeping the installed model") from error
        return folder

    def _download(self, model_version: str, into: Path) -> tuple[Path, str | None]:
        """The archive, as the metadata that is in force describes it, and its bundle's digest, if it tells one."""
        updater = self._updater()
        updater.refresh()
        self._flush()
        for end in ARCHIVES:
            target: TargetFile | None = updater.get_targetinfo(model_version + end)
            if target is None:
                continue
            if target.length > MAX_ARCHIVE_BYTES:
                raise UpdateRefusedError(f"model {model_version} is {target.length} bytes, more than a device takes")
            archive = updater.download_target(target, str(into / f"archive{end}"))
            told = target.custom.get(BUNDLE_DIGEST) if isinstance(target.custom, dict) else None
            return Path(archive), None if told is None else str(told)
        raise UpdateUnavailableError(f"model {model_version} is not on offer; keeping the installed model")

    def _updater(self) -> Updater:
        from tuf.ngclient import Updater

        from voice_pipeline.device.fetching import LIMITS, DeadlineFetcher

        self._metadata.mkdir(parents=True, exist_ok=True)
        for left_over in [*self._metadata.glob("tmp*"), *self._metadata.glob(".*.tmp")]:  # of a killed refresh
            left_over.unlink()
        updater = Updater(
            metadata_dir=str(self._metadata),
            metadata_base_url=f"{self._url}/metadata/",
            target_base_url=f"{self._url}/targets/",
            fetcher=DeadlineFetcher(self._http, self._seconds),
            config=LIMITS,
            bootstrap=self._shipped,
        )
        _set_reference_time(updater, self.look_at_the_clock())
        return updater

    def _held(self) -> HeldTimestamp | None:
        """The timestamp that this device took last, if the newest root still stands for it."""
        from tuf.api.exceptions import RepositoryError
        from tuf.api.metadata import Metadata, Timestamp

        try:
            held = Metadata[Timestamp].from_bytes((self._metadata / "timestamp.json").read_bytes())
            self._roots.newest().verify_delegate(Timestamp.type, held.signed_bytes, held.signatures)
        except (OSError, RepositoryError, ValueError, UpdateRefusedError):
            return None
        return HeldTimestamp(held.signed.version, held.signed.expires.astimezone(UTC))

    def _flush(self) -> None:
        """Force the metadata to the disk: python-tuf (7.0, 2026-11) replaces files whole, but leaves that out."""
        for path in [*self._metadata.rglob("*.json"), self._metadata / "root_history", self._metadata]:
            flush(path)


def _set_reference_time(updater: Updater, now: datetime) -> None:
    """Expiry is judged by the device's clock. python-tuf fixes its reference time on construction and offers no
    argument for it (7.0, 2026-11)."""
    updater._trusted_set.reference_time = now
