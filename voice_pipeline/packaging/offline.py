"""What a person does where the offline keys are: look at metadata that waits, and sign it. No home is needed there,
only the file and the folder of keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voice_pipeline.packaging.errors import RepositoryWaitsError
from voice_pipeline.packaging.keys import OFFLINE, signers_in
from voice_pipeline.packaging.metadata_chain import read_metadata
from voice_pipeline.schema.delivery_policy import MetadataRole
from voice_pipeline.store.blobs import write_atomically

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata, Root, Targets


@dataclass(frozen=True)
class Signed:
    """A file that was signed: what it says, in words, and the ids of the keys that signed it now."""

    says: tuple[str, ...]
    key_ids: tuple[str, ...]


def read_waiting(path: Path) -> Metadata[Any]:
    """Root or targets metadata from a file.

    Raises:
        RepositoryDamagedError: it is something else.
    """
    return read_metadata(path, OFFLINE, "name a copy of a file of tuf/pending, which offline keys sign")


def sign_file(path: Path, keys: Path) -> Signed:
    """Add the signatures of all keys in `keys` that are of the metadata's role.

    Raises:
        RepositoryDamagedError: the file or a key cannot be read.
        RepositoryWaitsError: no key of that role lies there.
    """
    metadata = read_waiting(path)
    role = MetadataRole(metadata.signed.type)
    signers = signers_in(keys, role)
    if not signers:
        raise RepositoryWaitsError(f"no key of {role} ({role}-1.key, …) is in {keys}; name its folder with --keys")
    for signer in signers:
        metadata.sign(signer, append=True)
    write_atomically(path, metadata.to_bytes())
    return Signed(tuple(describe(metadata)), tuple(signer.public_key.keyid for signer in signers))


def describe(metadata: Metadata[Any]) -> list[str]:
    """What somebody who signs `metadata` vouches for, in words."""
    head = f"{metadata.signed.type} {metadata.signed.version}, until {metadata.signed.expires:%Y-%m-%d}"
    parts = _targets(metadata.signed) if metadata.signed.type == MetadataRole.TARGETS else _roles(metadata.signed)
    return [head, *parts]


def _targets(targets: Targets) -> list[str]:
    return [
        f"  offers {name}, sha256 {file.hashes['sha256']}, bundle {(file.custom or {}).get('bundle_digest', '-')}"
        for name, file in sorted(targets.targets.items())
    ]


def _roles(root: Root) -> list[str]:
    return [
        f"  {name}: {root.roles[name].threshold} of {', '.join(keyid[:12] for keyid in root.roles[name].keyids)}"
        for name in MetadataRole
    ]
