"""Fetching a bundle the way TUF prescribes (https://theupdateframework.github.io/specification/latest/#detailed-client-workflow).

The app ships with the repository's first root and nothing else. From it follow, verified step by step: newer roots, the
timestamp, the snapshot, the targets, the archive's length and hash, and (from a field of the root) the key that bundles
are signed with. Rollback, freeze, mix-and-match and tampering are refused by python-tuf; this module adds the
bundle's own signature and digests on top, and a safe unpacking.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from voice_pipeline.device.clock import Clock
from voice_pipeline.device.errors import UpdateRefusedError, UpdateUnavailableError

if TYPE_CHECKING:
    import httpx
    from tuf.ngclient import FetcherInterface, Updater

MAX_ARCHIVE_BYTES = 200_000_000
SIGNING_KEY_FIELD = "x-bundle-signing-key"


class BundleUpdater:
    """Fetches bundles into a folder of the caller.

    Args:
        home: keeps the trusted metadata; what a killed fetch leaves there is harmless.
        edge_url: the repository is at `<edge_url>/tuf/`.
        trusted_root: bytes of the root that the app ships with.
        clock: decides what has expired.
    """

    def __init__(self, home: Path, edge_url: str, http: httpx.Client, trusted_root: bytes, clock: Clock) -> None:
        self._metadata = home / "tuf"
        self._url = edge_url.rstrip("/") + "/tuf"
        self._http = http
        self._root = trusted_root
        self._clock = clock

    def signing_key(self) -> bytes:
        """PEM of the public key that bundles are signed with, as the trusted root names it.

        Raises:
            UpdateRefusedError: the root names none.
        """
        from tuf.api.exceptions import RepositoryError
        from tuf.api.metadata import Metadata, Root

        try:
            root = Metadata[Root].from_bytes(self._root)
            return str(root.signed.unrecognized_fields[SIGNING_KEY_FIELD]).encode()
        except (RepositoryError, KeyError) as error:
            raise UpdateRefusedError(
                "the app's trusted root names no bundle signing key; install the app again"
            ) from error

    def fetch(self, model_version: str, into: Path) -> Path:
        """Download and unpack the bundle of `model_version`.

        Args:
            into: an empty folder; receives `<model_version>/` and `<model_version>.sig`.

        Returns:
            The bundle folder.

        Raises:
            UpdateRefusedError: metadata or archive does not verify (tampered, rolled back, expired, wrong keys).
            UpdateUnavailableError: the repository cannot be reached or does not offer that model.
        """
        from tuf.api.exceptions import DownloadError, RepositoryError

        archive = into / "archive.tar"
        try:
            updater = self._updater()
            target = updater.get_targetinfo(f"{model_version}.tar")
            if target is None:
                raise UpdateUnavailableError(f"model {model_version} is not on offer; keeping the installed model")
            if target.length > MAX_ARCHIVE_BYTES:
                raise UpdateRefusedError(f"model {model_version} is {target.length} bytes, more than a device takes")
            updater.download_target(target, str(archive))
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
        return into / model_version

    def _updater(self) -> Updater:
        from tuf.ngclient import Updater

        self._metadata.mkdir(parents=True, exist_ok=True)
        for left_over in self._metadata.glob("tmp*"):  # python-tuf's temporary files of a killed refresh
            left_over.unlink()
        updater = Updater(
            metadata_dir=str(self._metadata),
            metadata_base_url=f"{self._url}/metadata/",
            target_base_url=f"{self._url}/targets/",
            fetcher=_http_fetcher(self._http),
            bootstrap=self._root,
        )
        _set_reference_time(updater, self._clock.now())
        return updater


def _set_reference_time(updater: Updater, now: datetime) -> None:
    """Expiry is judged by the device's clock. python-tuf fixes its reference time on construction and offers no
    argument for it (7.0, 2026-11)."""
    updater._trusted_set.reference_time = now


def _http_fetcher(http: httpx.Client) -> FetcherInterface:
    """python-tuf's downloads over the device's own HTTP client."""
    import httpx
    from tuf.api.exceptions import DownloadError, DownloadHTTPError
    from tuf.ngclient import FetcherInterface

    class HttpFetcher(FetcherInterface):
        def _fetch(self, url: str) -> Iterator[bytes]:
            try:
                with http.stream("GET", url, headers={"accept-encoding": "identity"}) as response:
                    if response.status_code != httpx.codes.OK:
                        raise DownloadHTTPError(f"{url} answered {response.status_code}", response.status_code)
                    yield from response.iter_raw()
            except httpx.HTTPError as error:
                raise DownloadError(f"{url} cannot be read: {type(error).__name__}") from error

    return HttpFetcher()


def unpack(archive: Path, into: Path, model_version: str) -> None:
    """Unpack a bundle archive: plain files below `<model_version>/` and the signature beside it, nothing else.

    Raises:
        UpdateRefusedError: the archive is damaged or holds a link, a device, an absolute or a climbing path.
    """
    try:
        with tarfile.open(archive, mode="r:") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                inside = path.parts[0] == model_version and len(path.parts) > 1 and ".." not in path.parts
                if not member.isreg() or not (inside or member.name == f"{model_version}.sig"):
                    raise UpdateRefusedError(f"archive of {model_version} holds {member.name!r}; update refused")
                handle = tar.extractfile(member)
                target = into / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as out:
                    out.write(handle.read() if handle else b"")
                    out.flush()
                    os.fsync(out.fileno())
    except (tarfile.TarError, OSError, IndexError) as error:
        raise UpdateRefusedError(f"archive of {model_version} cannot be unpacked ({error}); update refused") from error
