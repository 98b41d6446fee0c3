"""Keys of people: public ones in one form and with a fingerprint, private ones that are made here, and signing.

Statements are signed as DSSE envelopes (https://github.com/secure-systems-lab/dsse) with the library that the update
repository is signed with.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey

from voice_pipeline.release.errors import KeyRefusedError
from voice_pipeline.store.blobs import flush_folder

PublicKey = Ed25519PublicKey | EllipticCurvePublicKey
UNREADABLE = (OSError, ValueError, TypeError, UnsupportedAlgorithm)


@dataclass(frozen=True)
class PersonKey:
    """A person who is here and can sign."""

    name: str
    signer: CryptoSigner

    def sign(self, payload: bytes, payload_type: str) -> dict[str, Any]:
        """A DSSE envelope of `payload` as plain JSON."""
        envelope = Envelope(payload, payload_type, {})
        envelope.sign(self.signer)
        plain: dict[str, Any] = envelope.to_dict()
        return plain


def read_private(path: Path) -> tuple[CryptoSigner, str]:
    """What signs with the private key (PEM, no password) at `path`, and its fingerprint. Raises one of `UNREADABLE`."""
    private: Any = load_pem_private_key(path.read_bytes(), password=None)
    return CryptoSigner(private), as_stored(private.public_key())[1]


def held_at(path: Path) -> str | None:
    """The fingerprint of the private key at `path`; "" where that cannot be read (it may have a password, or be a link
    to where it is not now), None where nothing lies there.
    """
    if not os.path.lexists(path):
        return None
    try:
        return read_private(path)[1]
    except UNREADABLE:
        return ""


def plainly(error: Exception) -> str:
    """Why something is one of `UNREADABLE`, without the system's number for it."""
    said = error.strerror if isinstance(error, OSError) else None
    return said.lower() if said else type(error).__name__


def read_public(pem: bytes) -> PublicKey:
    """Raises `KeyRefusedError`: that is no Ed25519 or ECDSA public key (PEM)."""
    try:
        key = load_pem_public_key(pem)
        if not isinstance(key, PublicKey):
            raise TypeError(f"{type(key).__name__} is neither Ed25519 nor ECDSA")
        SSlibKey.from_crypto(key)  # refuses a curve that it cannot verify
    except UNREADABLE as error:
        raise KeyRefusedError(f"that is no public key (PEM, Ed25519 or ECDSA): {error}") from error
    return key


def as_stored(key: PublicKey) -> tuple[str, str]:
    """A public key in the one form in which it is stored, and its fingerprint: the sha256 of its DER."""
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(), hashlib.sha256(der).hexdigest()


def check_signed(public_key: str, envelope: Envelope) -> None:
    """Raises one of `voice_pipeline.trust.MALFORMED` or `VerificationError` unless that key signed `envelope`."""
    key = SSlibKey.from_crypto(load_pem_public_key(public_key.encode()))  # type: ignore[arg-type]
    envelope.verify([key], threshold=1)


def write_private(path: Path, private: Ed25519PrivateKey) -> None:
    """A private key as a new file that only its owner reads, durable on return.

    Raises:
        FileExistsError: something lies at `path`; it is left as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        handle.flush()
        os.fsync(handle.fileno())
    flush_folder(path.parent)
