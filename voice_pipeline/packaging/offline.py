"""What a person does where the offline keys are: look at metadata that waits, and sign it. No home is needed there,
only the file and the folder of keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voice_pipeline.packaging.errors import RepositoryDamagedError, RepositoryWaitsError
from voice_pipeline.packaging.keys import OFFLINE, signers_in
from voice_pipeline.packaging.metadata_chain import read_metadata, signed_enough
from voice_pipeline.schema.canonical import sha256_bytes
from voice_pipeline.schema.delivery_policy import MetadataRole
from voice_pipeline.schema.publication import SIGNING_KEY_FIELD
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.trust import pem_blocks

if TYPE_CHECKING:
    from securesystemslib.signer import Key
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


def sign_file(path: Path, keys: Path, against: Path | None = None) -> Signed:
    """Add the signatures of all keys in `keys` that are of the metadata's role. `against` as in `describe_file`.

    Raises:
        RepositoryDamagedError: a file or a key cannot be read, or `against` is not signed by its own keys.
        RepositoryWaitsError: no key of that role lies there.
    """
    metadata, says = read_waiting(path), describe_file(path, against)
    role = MetadataRole(metadata.signed.type)
    signers = signers_in(keys, role)
    if not signers:
        raise RepositoryWaitsError(f"no key of {role} ({role}-1.key, …) is in {keys}; name its folder with --keys")
    for signer in signers:
        metadata.sign(signer, append=True)
    write_atomically(path, metadata.to_bytes())
    return Signed(tuple(says), tuple(signer.public_key.keyid for signer in signers))


def describe_file(path: Path, against: Path | None = None) -> list[str]:
    """What whoever signs the file vouches for, in words.

    Args:
        against: a copy of the metadata in force, to say what changed. A root is only taken for that if its own keys
            signed it, so nobody who holds too few of them can make up one that hides a change.

    Raises:
        RepositoryDamagedError: a file cannot be read, or `against` is not signed by its own keys.
    """
    metadata = read_waiting(path)
    role = MetadataRole(metadata.signed.type)
    former = read_metadata(against, [role], "name a copy of the one in force") if against else None
    if former is not None and role is MetadataRole.ROOT and not signed_enough(former, role, former.signed):
        raise RepositoryDamagedError(
            f"{against} is a root that too few of its own keys signed; sign {path.name} against no such thing"
        )
    return describe(metadata, former)


def describe(metadata: Metadata[Any], former: Metadata[Any] | None = None) -> list[str]:
    """What somebody who signs `metadata` vouches for, in words, and how it differs from `former`, of the same role."""
    head = f"{metadata.signed.type} {metadata.signed.version}, until {metadata.signed.expires:%Y-%m-%d}"
    says = _says(metadata)
    if former is None:
        return [head, *says, "compared with nothing: --against FILE names a copy of what is in force"]
    before = _says(former)
    changes = [f"+ {line.strip()}" for line in says if line not in before]
    changes += [f"- {line.strip()}" for line in before if line not in says]
    told = f"against {former.signed.type} {former.signed.version}"
    return [head, *says, f"changed {told}:" if changes else f"nothing changed {told} but number and expiry", *changes]


def _says(metadata: Metadata[Any]) -> list[str]:
    return _targets(metadata.signed) if metadata.signed.type == MetadataRole.TARGETS else _root(metadata.signed)


def _targets(targets: Targets) -> list[str]:
    offers = [
        f"  offers {name}, sha256 {file.hashes.get('sha256')}, bundle {(file.custom or {}).get('bundle_digest', '-')}"
        for name, file in sorted(targets.targets.items())
    ]
    return offers + (["  delegates to other keys, which this project never does"] if targets.delegations else [])


def _root(root: Root) -> list[str]:
    lines = []
    for name in MetadataRole:
        held = root.roles[name]
        lines.append(f"  {name}: {held.threshold} of {len(held.keyids)} keys")
        lines += [f"  {name} key {keyid}{_misnamed(root.keys[keyid])}" for keyid in held.keyids]
    blocks = pem_blocks(str(root.unrecognized_fields.get(SIGNING_KEY_FIELD, "")).encode())
    return lines + [f"  bundle key {sha256_bytes(block)}" for block in blocks]


def _misnamed(key: Key) -> str:
    """An id is only a name: whoever writes a root can put it on another key. Empty if it is that of its key."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    try:
        found = SSlibKey.from_crypto(load_pem_public_key(key.keyval["public"].encode())).keyid  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError, AttributeError):
        found = "unreadable"
    return "" if found == key.keyid else f" IS ANOTHER KEY: {found}"
