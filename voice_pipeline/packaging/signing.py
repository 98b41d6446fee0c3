"""Keys of the publisher, and the signature over a whole bundle folder (OpenSSF model-signing, EC P-256, DSSE).

Under `settings.keys`: `bundle-signing.key` and `.pub` sign bundles; `online/` holds the update repository's snapshot
and timestamp keys; `offline/` its root and targets keys, which an installation that matters moves to a machine that
is not on the network (https://theupdateframework.github.io/specification/latest/#role-and-key-management).
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from voice_pipeline.packaging.errors import RepositoryDamagedError
from voice_pipeline.trust import signature_path

PRIVATE_KEY = "bundle-signing.key"
PUBLIC_KEY = "bundle-signing.pub"


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
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(pem)
        handle.flush()
        os.fsync(handle.fileno())
    try:
        os.link(temporary, path)  # fails if another process was first: then its key counts
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    return path


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
    """PEM of the key that bundles are signed with; the pair is made, and the public half written, on first use."""
    pem = public_pem(private_key(keys / PRIVATE_KEY))
    public = keys / PUBLIC_KEY
    if not public.exists() or public.read_bytes() != pem:
        temporary = public.with_name(f".{public.name}.{secrets.token_hex(6)}.tmp")
        temporary.write_bytes(pem)
        temporary.replace(public)
    return pem


def sign_folder(folder: Path, keys: Path) -> Path:
    """Sign everything in `folder`, with OpenSSF's own library, which also has to find the signature good; it appears
    whole, beside the folder. Returns its path.
    """
    from model_signing import signing, verifying

    signature = signature_path(folder)
    temporary = signature.with_name(f".{signature.name}.{secrets.token_hex(6)}.tmp")
    signing.Config().use_elliptic_key_signer(private_key=private_key(keys / PRIVATE_KEY)).sign(folder, temporary)
    signing_public_key(keys)
    verifying.Config().use_elliptic_key_verifier(public_key=keys / PUBLIC_KEY).verify(folder, temporary)
    temporary.replace(signature)
    return signature
