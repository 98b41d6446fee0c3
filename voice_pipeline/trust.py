"""The checks that make a bundle trustworthy and fit for an app, the same for whoever makes it, gates it or runs it.

Promise: `verify_bundle` returns a manifest only if every file of the folder is named in it with its length and sha256,
nothing else lies there, the folder is named for the model that the manifest is about, and an OpenSSF model-signing
signature (https://github.com/sigstore/model-transparency) made with a matching EC key covers the whole folder,
manifest included. The signature lies beside the folder, never inside it.

A device verifies with what its updater (TUF) brings along, securesystemslib and cryptography; the library that signs
would bring forty packages more. The publisher uses that library, and tests hold the two to each other's verdict.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import FormatError, UnverifiedSignatureError
from securesystemslib.signer import SSlibKey

from voice_pipeline.schema.bundle import BundleManifest

MANIFEST = "manifest.json"
STATEMENT = "application/vnd.in-toto+json"
PREDICATE = "https://model_signing/signature/v1.0"
PEM_END = b"-----END PUBLIC KEY-----\n"
MALFORMED = (
    *(FormatError, UnsupportedAlgorithm, UnverifiedSignatureError),
    *(AttributeError, KeyError, RecursionError, TypeError, ValueError),
)
"""What a signature file that somebody made up leads to."""
_LONGEST_NUMBER = 9


class TrustError(Exception):
    """A bundle is not what it claims to be. It must not be released and must not be run."""


class DamagedBundleError(TrustError):
    """A file of the bundle is missing, changed or not in its manifest, or the manifest cannot be read."""


class SignatureRefusedError(TrustError):
    """There is no signature, it is not by the expected key, or the folder is not what was signed."""


class WrongBundleError(TrustError):
    """The bundle is sound, but it is not the one that was asked for."""


def signature_path(folder: Path) -> Path:
    """Where the signature of a bundle folder lies: `<folder>.sig`, beside it."""
    return folder.with_name(folder.name + ".sig")


def download_size(folder: Path) -> int:
    """Bytes of all files of a bundle, manifest and signature included: what it takes on a device, and, uncompressed as
    before app 1.5.0, what a device fetches (but for the padding of the archive).
    """
    return sum(path.stat().st_size for path in [*folder.rglob("*"), signature_path(folder)] if path.is_file())


def read_manifest(folder: Path) -> BundleManifest:
    """The manifest of a bundle folder, checked for form only.

    Raises:
        DamagedBundleError: there is none or it cannot be read.
    """
    try:
        return BundleManifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise DamagedBundleError(
            f"bundle {folder.name} has no readable {MANIFEST} ({first}); fetch it again"
        ) from error


def verify_files(folder: Path, manifest: BundleManifest) -> None:
    """Every file named in `manifest` has its length and sha256, and no other file or link lies in `folder`.

    Raises:
        DamagedBundleError: names the first file that is wrong.
    """
    for entry in sorted(folder.rglob("*")):
        if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
            raise DamagedBundleError(f"bundle {folder.name} holds {entry.name}, which is no plain file; fetch it again")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    named = {file.path for file in manifest.files}
    if found != named:
        wrong = sorted(found ^ named)[0]
        state = "missing from the folder" if wrong in named else "not in the manifest"
        raise DamagedBundleError(f"bundle {folder.name}: {wrong} is {state}; fetch the bundle again")
    for file in manifest.files:
        data = (folder / file.path).read_bytes()
        if len(data) != file.length or hashlib.sha256(data).hexdigest() != file.sha256:
            raise DamagedBundleError(f"bundle {folder.name}: {file.path} was changed; fetch the bundle again")


def verify_signature(folder: Path, signature: Path, public_keys: bytes) -> None:
    """The signature file is by one of `public_keys` (PEM, one block after the other) and covers exactly what lies in
    `folder`.

    Raises:
        SignatureRefusedError: it is missing, unreadable, by another key, or about other files.
    """
    if not signature.is_file():
        raise SignatureRefusedError(f"bundle {folder.name} has no signature {signature.name}; it must not be used")
    try:
        signed = _signed_digests(signature.read_bytes(), public_keys)
    except MALFORMED as error:
        raise SignatureRefusedError(
            f"signature of bundle {folder.name} is refused ({type(error).__name__}: {error}); it must not be used"
        ) from error
    found = {path.relative_to(folder).as_posix(): _sha256(path) for path in folder.rglob("*") if path.is_file()}
    if found != signed:
        wrong = min(name for name in found.keys() | signed.keys() if found.get(name) != signed.get(name))
        raise SignatureRefusedError(
            f"signature of bundle {folder.name} is not about the {wrong} that lies there; it must not be used"
        )


def _signed_digests(signature: bytes, public_keys: bytes) -> dict[str, str]:
    """Names and sha256 of the files that a signature of OpenSSF model-signing 1.0 vouches for: a Sigstore bundle whose
    DSSE envelope (https://github.com/secure-systems-lab/dsse) holds an in-toto statement.

    Raises:
        one of `MALFORMED`: no holder of one of the keys signed such a statement.
    """
    content = json.loads(signature)
    hint = content["verificationMaterial"]["publicKey"]["hint"]
    pem = next((pem for pem in pem_blocks(public_keys) if hashlib.sha256(pem).hexdigest() == hint), None)
    if pem is None:
        raise ValueError("key mismatch: it was not made with a key of the publisher")
    key = SSlibKey.from_crypto(load_pem_public_key(pem))  # type: ignore[arg-type]
    key.keyid = ""  # what the signer leaves there
    envelope = Envelope.from_dict(content["dsseEnvelope"])
    envelope.verify([key], threshold=1)
    statement = json.loads(envelope.payload)
    if (envelope.payload_type, statement["predicateType"]) != (STATEMENT, PREDICATE):
        raise ValueError(f"it signs {statement['predicateType']}, not the files of a model")
    return {resource["name"]: resource["digest"] for resource in statement["predicate"]["resources"]}


def pem_blocks(public_keys: bytes) -> list[bytes]:
    """The public keys of a PEM text, one block each, in order; what follows the last one is left out."""
    return [block.lstrip() + PEM_END for block in public_keys.split(PEM_END)[:-1]]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def verify_bundle(folder: Path, public_keys: bytes, bundle_digest: str | None = None) -> BundleManifest:
    """Everything that can be said of a bundle without running it; the signature is `signature_path(folder)`.

    Args:
        folder: its name is the model version that was asked for. (A signature vouches for what is in a folder, not for
            where it lies: without this check one model's bundle could be published, or installed, as another.)
        public_keys: PEM of the signer's public keys, one or more: after a rotation the former ones may still count.
        bundle_digest: the bundle that was asked for; None accepts any bundle by that signer.

    Raises:
        TrustError: the first check that failed.
    """
    verify_signature(folder, signature_path(folder), public_keys)
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    if manifest.model_version != folder.name:
        raise WrongBundleError(
            f"bundle {folder.name} is of model {manifest.model_version}; do not use it (a bundle's folder has its name)"
        )
    if bundle_digest is not None and manifest.digest != bundle_digest:
        raise WrongBundleError(
            f"bundle {folder.name} has digest {manifest.digest[:12]}, asked for was {bundle_digest[:12]}; do not use it"
        )
    return manifest


def is_older(app_version: str, than: str) -> bool:
    """Whether an app is older than a bundle's `min_app_version`, or any version than another: by `version_numbers`."""
    return version_numbers(app_version) < version_numbers(than)


def version_numbers(version: str) -> tuple[int, ...]:
    """The first three parts of a dotted version, to compare; what is no number of at most nine digits counts as 0."""
    return tuple(int(part) if _is_number(part) else 0 for part in (*version.split("."), "0", "0"))[:3]


def _is_number(part: str) -> bool:
    return part.isascii() and part.isdecimal() and len(part) <= _LONGEST_NUMBER
