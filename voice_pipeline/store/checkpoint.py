"""A signed note of how long the ledger is and how it ends, kept beside the catalogue as `<home>/ledger.checkpoint`.

A hash chain shows what was changed inside it. It does not show that its last lines are gone, nor that it was written
anew from some line on: both are whole chains. The note does, for it is signed with a key that the database does not
hold (after the signed tree heads of RFC 9162, Certificate Transparency).

The form is a signed note (https://c2sp.org/signed-note) with the three lines of a checkpoint
(https://c2sp.org/tlog-checkpoint): origin, number of lines, hash of the last line in base64 (here the head of a linear
chain, not the root of a tree); then an empty line and the Ed25519 signature (RFC 8032).

Promises: the note is replaced in one move and never goes backwards; a kill at any instant leaves the former note or the
new one, and a home founded or not. What it cannot show: a home put back as a whole to an earlier day, and lines that
somebody with the home's keys appended by the rules (without them nobody makes a line: `store.line_key`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from filelock import FileLock

from voice_pipeline.store.blobs import flush_folder
from voice_pipeline.store.errors import LedgerBrokenError

ORIGIN = "voice-pipeline/ledger"
CHECKPOINT = "ledger.checkpoint"
KEY = "ledger-checkpoint.key"
ED25519 = b"\x01"
"""The signature type of the signed-note specification."""
KEY_ID_BYTES = 4
PATIENCE_S = 10.0
"""How long a writer waits for another one's note; the note then stays behind until the next `Ledger.verify`."""
FOUND = (
    "or, where one is lost, move what is left of note and key to the evidence and run "
    "`voice-pipeline release verify --found-checkpoint`"
)
RESTORE = "stop everything, keep this home as evidence, restore the whole home from a backup (docs/runbook.md)"


@dataclass(frozen=True)
class Checkpoint:
    """A ledger of `size` lines whose last one has the hash `head` (64 hex digits)."""

    size: int
    head: str


class CheckpointFile:
    """The note of one home, and the key that signs it (`keys/ledger-checkpoint.key`, mode 0600, made on first use)."""

    def __init__(self, home: Path, keys: Path) -> None:
        self._path = home / CHECKPOINT
        self._lock = home / f".{CHECKPOINT}.lock"
        self._key = keys / KEY
        self._unborn = keys / f".{KEY}.founding"

    def read(self) -> Checkpoint | None:
        """The note; None in a home that has made none yet (from before there were notes, or empty).

        Raises:
            LedgerBrokenError: note or key is missing, or the note is not one that the key signed.
        """
        if not self._key.exists():
            if self._unborn.exists() or not self._path.exists():
                return None
            raise LedgerBrokenError(f"keys/{KEY} is missing, {CHECKPOINT} cannot be checked; {RESTORE}, {FOUND}")
        try:
            note = self._path.read_bytes()
        except FileNotFoundError as error:
            raise LedgerBrokenError(
                f"{CHECKPOINT} is missing, removed lines would not be noticed; {RESTORE}, {FOUND}"
            ) from error
        return opened(note, _load(self._key).public_key())

    def advance(self, to: Checkpoint, extends: Callable[[Checkpoint], bool]) -> None:
        """Sign `to` unless the note is as far already.

        Args:
            extends: whether the ledger of `to` has, at the line of an earlier note, the hash that is noted.

        Raises:
            LedgerBrokenError: there is no note, it does not fit this ledger, or see `read`; it is left as it is.
            OSError: the note cannot be written, or another writer holds it for longer than `PATIENCE_S`.
        """
        with FileLock(self._lock, timeout=PATIENCE_S):
            stored = self.read()
            if stored is None:
                raise LedgerBrokenError(unnoted())
            if stored.size < to.size:
                if not extends(stored):
                    raise LedgerBrokenError(rewritten(stored.size))
                replace_file(self._path, signed(to, _load(self._key)))

    def found(self, to: Checkpoint) -> None:
        """Make key and note, with `to` in it, in a home that has neither; whoever asks knows that it may have none.

        Raises:
            LedgerBrokenError: one of the two is there already, and does not open.
            OSError: they cannot be written, or another writer holds them for longer than `PATIENCE_S`.
        """
        with FileLock(self._lock, timeout=PATIENCE_S):
            if self.read() is None:
                self._found(to)

    def _found(self, to: Checkpoint) -> None:
        """The key comes last, so where there is a key there is a note; a kill on the way leaves a home not founded."""
        if not self._unborn.exists():
            self._unborn.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            key = Ed25519PrivateKey.generate()
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            replace_file(self._unborn, pem)
        replace_file(self._path, signed(to, _load(self._unborn)))
        flush_folder(self._path.parent)
        self._unborn.replace(self._key)
        flush_folder(self._key.parent)


def unnoted() -> str:
    return f"{CHECKPOINT} and keys/{KEY} are missing, removed lines would not be noticed; {RESTORE}, {FOUND}"


def rewritten(line: int) -> str:
    return f"ledger line {line} is not the one that {CHECKPOINT} names: the chain was written anew; {RESTORE}"


def signed(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> bytes:
    """`checkpoint` as a signed note."""
    text = f"{ORIGIN}\n{checkpoint.size}\n{base64.b64encode(bytes.fromhex(checkpoint.head)).decode()}\n"
    return text.encode() + b"\n" + _signature_line(_key_id(key.public_key()) + key.sign(text.encode()))


def opened(note: bytes, key: Ed25519PublicKey) -> Checkpoint:
    """The checkpoint that a signed note holds. Only what `signed` makes is read: no other lines, no other spelling.

    Raises:
        LedgerBrokenError: it is no such note, or `key` did not sign it.
    """
    text, _, signatures = note.partition(b"\n\n")
    prefix = _signature_line(b"")[:-1]
    try:
        signature = base64.b64decode(signatures[len(prefix) : -1])
        if signatures != _signature_line(signature) or signature[:KEY_ID_BYTES] != _key_id(key):
            raise ValueError("no signature of this key, or spelt otherwise")
        key.verify(signature[KEY_ID_BYTES:], text + b"\n")
        origin, size, head = text.decode().split("\n")
        checkpoint = Checkpoint(int(size), base64.b64decode(head, validate=True).hex())
        if origin != ORIGIN or len(checkpoint.head) != hashlib.sha256().digest_size * 2:
            raise ValueError("no checkpoint of a ledger")
    except (ValueError, binascii.Error, InvalidSignature) as error:
        raise LedgerBrokenError(
            f"{CHECKPOINT} is not a note that keys/{KEY} signed: it was changed, or is another home's; {RESTORE}"
        ) from error
    return checkpoint


def _signature_line(signature: bytes) -> bytes:
    return f"\u2014 {ORIGIN} {base64.b64encode(signature).decode()}\n".encode()


def _key_id(key: Ed25519PublicKey) -> bytes:
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return hashlib.sha256(ORIGIN.encode() + b"\n" + ED25519 + raw).digest()[:KEY_ID_BYTES]


def _load(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise LedgerBrokenError(f"keys/{KEY} cannot be read, {CHECKPOINT} cannot be checked; {RESTORE}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise LedgerBrokenError(f"keys/{KEY} is no Ed25519 key, {CHECKPOINT} cannot be checked; {RESTORE}")
    return key


def replace_file(path: Path, data: bytes) -> None:
    """In one move, mode 0600; not flushed to the folder: after a power cut an earlier note is as good."""
    temporary = path.with_name(f".{path.name}.tmp")  # one name is enough: the lock is held
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)
