"""The keys that sign the update repository's metadata, as files: `<role>-<number>.key`, PEM, one private key each.

Keys of root and targets lie in `settings.offline_key_folder`, those of snapshot and timestamp in
`settings.keys / "online"`. An installation that matters takes the offline folder off the machine
(https://theupdateframework.github.io/specification/latest/#role-and-key-management); what needs it then waits, see
`packaging.metadata_chain`. Which of the files count, the root says: a key file that no root names is a spare one.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from voice_pipeline.packaging.errors import RepositoryDamagedError, RepositoryWaitsError
from voice_pipeline.packaging.signing import private_key, public_pem
from voice_pipeline.schema.delivery_policy import MetadataRole
from voice_pipeline.settings import Settings

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, Key

OFFLINE = (MetadataRole.ROOT, MetadataRole.TARGETS)
_NUMBERED = re.compile(r"(?P<role>[a-z]+)(?:-(?P<number>[0-9]{1,6}))?\.key")


class KeyFolders:
    """Where the private keys of a home lie, as far as they are on this machine."""

    def __init__(self, settings: Settings) -> None:
        self._online = settings.keys / "online"
        self._offline = settings.offline_key_folder

    def folder(self, role: MetadataRole) -> Path:
        return self._offline if role in OFFLINE else self._online

    def signers(self, role: MetadataRole) -> list[CryptoSigner]:
        """The keys of `role` that are here, oldest first; none is made."""
        return signers_in(self.folder(role), role)

    def files(self, role: MetadataRole) -> dict[str, str]:
        """Key id → name of its file, of the keys of `role` that are here."""
        return {signer(path).public_key.keyid: path.name for path in key_files(self.folder(role), role)}

    def found(self, role: MetadataRole, count: int) -> list[CryptoSigner]:
        """The first `count` keys of a role, for the first root. Repeating it gives the same ones."""
        files = key_files(self.folder(role), role)
        while len(files) < count:
            private_key(_next_file(self.folder(role), role))
            files = key_files(self.folder(role), role)
        return [signer(path) for path in files[:count]]

    def spare(self, role: MetadataRole, named: Collection[str], current: Collection[str]) -> Key:
        """The public half of a key of `role` whose id is not `named` in any root: one that lies here, or a new one.

        Args:
            current: ids of the keys of `role` that count now. An offline role's key is new only where one of them lies.

        Raises:
            RepositoryWaitsError: none of them is on this machine, so a new one belongs elsewhere, too.
        """
        here = self.signers(role)
        if role in OFFLINE and not any(found.public_key.keyid in current for found in here):
            raise RepositoryWaitsError(
                f"no private key of {role} that counts now is in {self.folder(role)}; where the others lie, run "
                f"`voice-pipeline repository key {role} --keys DIR` and give the .pub file here with --public-key"
            )
        unused = [found.public_key for found in here if found.public_key.keyid not in named]
        return unused[0] if unused else signer(make_key(self.folder(role), role)).public_key


def key_files(folder: Path, role: MetadataRole) -> list[Path]:
    """The private key files of `role` in a folder, by number."""
    found = []
    for path in folder.glob("*.key"):
        match = _NUMBERED.fullmatch(path.name)
        if match and match["role"] == role:
            found.append((int(match["number"] or 0), path))
    return [path for _, path in sorted(found)]


def signers_in(folder: Path, role: MetadataRole) -> list[CryptoSigner]:
    """What signs for `role` with the keys of a folder, oldest first."""
    return [signer(path) for path in key_files(folder, role)]


def make_key(folder: Path, role: MetadataRole) -> Path:
    """A new key of `role` in `folder`, its public half beside it as `.pub`. Returns the private key's path."""
    path = private_key(_next_file(folder, role))
    path.with_suffix(".pub").write_bytes(public_pem(path))
    return path


def _next_file(folder: Path, role: MetadataRole) -> Path:
    files = key_files(folder, role)
    match = _NUMBERED.fullmatch(files[-1].name) if files else None
    return folder / f"{role}-{int(match['number'] or 1) + 1 if match else 1}.key"


def signer(path: Path) -> CryptoSigner:
    """A private key file as something that signs.

    Raises:
        RepositoryDamagedError: the file is no private key.
    """
    from cryptography.hazmat.primitives import serialization
    from securesystemslib.signer import CryptoSigner

    try:
        return CryptoSigner(serialization.load_pem_private_key(path.read_bytes(), password=None))  # type: ignore[arg-type]
    except (OSError, ValueError, TypeError) as error:
        raise RepositoryDamagedError(f"key {path.name} cannot be read; restore it from a backup") from error


def public_key(path: Path) -> Key:
    """A public key file (PEM).

    Raises:
        RepositoryDamagedError: the file is no public key.
    """
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    try:
        return SSlibKey.from_crypto(load_pem_public_key(path.read_bytes()))  # type: ignore[arg-type]
    except (OSError, ValueError, TypeError) as error:
        raise RepositoryDamagedError(
            f"{path.name} is no public key (PEM); `repository key` writes one as .pub"
        ) from error
