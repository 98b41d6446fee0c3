"""Bundles that came with the app, as `voice-pipeline bundle export` lays them out: `<model_version>/`,
`<model_version>.sig` and the repository's `root.json`, in a folder that the device only reads.

Having come with the app makes a bundle no more trusted than the disk it lies on: it passes the same gate.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from voice_pipeline.device.slots import InstalledBundle
from voice_pipeline.trust import MANIFEST, DamagedBundleError, signature_path

ROOT = "root.json"
SLOT = "shipped"


class ShippedBundles:
    """Args:
    folder: read-only; None where the app ships no model.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def all(self) -> list[InstalledBundle]:
        """What lies there, the newest model version first."""
        found = sorted(self._folder.glob(f"*/{MANIFEST}"), reverse=True) if self._folder else []
        return [InstalledBundle(SLOT, manifest.parent) for manifest in found]

    def find(self, model_version: str) -> InstalledBundle | None:
        return next((bundle for bundle in self.all() if bundle.model_version == model_version), None)


def copy_bundle(bundle: InstalledBundle, into: Path) -> Path:
    """Copy a bundle and its signature into an empty folder; returns the bundle folder there.

    Raises:
        DamagedBundleError: something of it is missing or cannot be read.
        OSError: it cannot be written: the disk is full.
    """
    target = into / bundle.model_version
    for name, content in _read(bundle):
        to = into / name
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(content)
    return target


def _read(bundle: InstalledBundle) -> Iterator[tuple[Path, bytes]]:
    """Every file of a bundle, one after the other, and its signature: name from the folder it lies in, content."""
    try:
        files = [path for path in sorted(bundle.folder.rglob("*")) if not path.is_dir()]
        for path in [*files, signature_path(bundle.folder)]:
            content = path.read_bytes()
            yield path.relative_to(bundle.folder.parent), content
    except OSError as error:
        raise DamagedBundleError(f"bundle {bundle.model_version} of the app cannot be read ({error})") from error
