"""Keys of the publisher, and the signature over a whole bundle folder (OpenSSF model-signing, EC P-256, DSSE).

Under `settings.keys`: `bundle-signing.key` signs bundles; `bundle-signing.pub` holds the public keys whose signatures
count, the current one first, then former ones until they are revoked (`packaging.rotation`). The keys of the update
repository lie beside them: `packaging.keys`.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from voice_pipeline.packaging.errors import RepositoryDamagedError
from voice_pipeline.schema.publication import SIGNING_PUBLIC_KEY
from voice_pipeline.store.blobs import flush_folder, write_atomically
from voice_pipeline.trust import signature_path

PRIVATE_KEY = "bundle-signing.key"
NEXT_KEY = "bundle-signing.next.key"
"""Made by a rotation; it signs nothing before a root that names it is in force."""


def private_key(path: Path) -> Path:
    """An EC P-256 private key (PEM, PKCS#8, mode 0600), made the first time. Two makers at once agree on one."""
    if path.exists():
        return path
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        _create(temporary, pem)
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # FAT and exFAT, on the media where offline keys lie, have no hard links
            _create(path, pem)
    except FileExistsError:
        return path  # another process was first: then its key counts
    finally:
        temporary.unlink(missing_ok=True)
    flush_folder(path.parent)
    return path


def _create(path: Path, data: bytes) -> None:
    """A new file, mode 0600, on disk when this returns; what could not be written whole is not left there.

    Raises:
        FileExistsError: there is one.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def public_pem(private: Path) -> bytes:
    """The PEM of the public half of a private key file.

    Raises:
        RepositoryDamagedError: the file is no private key.
    """
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_private_key(private.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise RepositoryDamagedError(f"key {private.name} cannot be read; restore it from a backup") from error
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def signing_public_key(keys: Path) -> bytes:
    """PEM of the public keys whose signatures on bundles count, one block after the other, the current one first. The
    pair is made, and the public half written, on first use.
    """
    pem = public_pem(private_key(keys / PRIVATE_KEY))
    public = keys / SIGNING_PUBLIC_KEY
    trusted = public.read_bytes() if public.exists() else b""
    if pem not in trusted:
        trusted = pem
        write_atomically(public, trusted)
    return trusted


def adopt_next_key(keys: Path, trusted: str) -> None:
    """From now on bundles are signed with `NEXT_KEY`, if the root in force, whose field is `trusted`, names it first;
    and the keys that count are those of that field. A process killed in between leaves one key in use, and repeats.
    """
    current, coming, public = keys / PRIVATE_KEY, keys / NEXT_KEY, keys / SIGNING_PUBLIC_KEY
    field = trusted.encode()
    if coming.exists() and field.startswith(public_pem(coming)):
        write_atomically(public, field)
        coming.replace(current)
    elif current.exists() and public.exists() and public.read_bytes() != field and public_pem(current) in field:
        write_atomically(public, field)


def sign_folder(folder: Path, keys: Path) -> Path:
    """Sign everything in `folder`, with OpenSSF's own library, which also has to find the signature good; it appears
    whole, beside the folder. Returns its path.
    """
    from model_signing import signing, verifying

    signature = signature_path(folder)
    temporary = signature.with_name(f".{signature.name}.{secrets.token_hex(6)}.tmp")
    verifier = temporary.with_suffix(".pub")
    signing.Config().use_elliptic_key_signer(private_key=private_key(keys / PRIVATE_KEY)).sign(folder, temporary)
    signing_public_key(keys)
    try:
        verifier.write_bytes(public_pem(keys / PRIVATE_KEY))
        verifying.Config().use_elliptic_key_verifier(public_key=verifier).verify(folder, temporary)
    finally:
        verifier.unlink(missing_ok=True)
    temporary.replace(signature)
    return signature
