"""Bundles that came with the app, as `voice-pipeline bundle export` lays them out: `<model_version>/`,
`<model_version>.sig` and the repository's `root.json`, in a folder that the device only reads.

Having come with the app makes a bundle no more trusted than the disk it lies on: it passes the same gate.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from voice_pipeline.device.slots import InstalledBundle
from voice_pipeline.trust import MANIFEST, signature_path

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
        OSError: it cannot be read, or the disk is full.
    """
    target = into / bundle.model_version
    for source in sorted(bundle.folder.rglob("*")):
        to = target / source.relative_to(bundle.folder)
        if source.is_dir():
            to.mkdir(parents=True, exist_ok=True)
        else:
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, to)
    shutil.copyfile(signature_path(bundle.folder), signature_path(target))
    return target
