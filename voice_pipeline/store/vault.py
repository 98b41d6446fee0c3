"""Keys of subjects. Every clip is AES-256-GCM encrypted under its subject's own data key (NIST SP 800-38D), and that
key lies wrapped under the installation's master key (RFC 3394 AES key wrap). Destroying the data key erases the
person's audio everywhere at once: in blobs, in shards, in every dataset version, while all stored digests stay valid
("crypto-shredding").
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap, aes_key_wrap
from sqlalchemy import select, update

from voice_pipeline.store.clock import Clock
from voice_pipeline.store.database import Database, insert_new
from voice_pipeline.store.errors import BlobDigestError, ErasedSubjectError, UnknownSubjectError
from voice_pipeline.store.vault_tables import subject_keys

NONCE_BYTES = 12
SALT = "subject-salt.key"


def subject_token(salt: str, installation: str) -> str:
    """HMAC-SHA256 pseudonym (32 hex digits) of an installation; without `salt` it leads nowhere."""
    return hmac.new(salt.encode(), installation.encode(), hashlib.sha256).hexdigest()[:32]


def home_salt(keys: Path) -> str:
    """The salt of a home that was given none: random, made the first time, and kept beside the master key."""
    return _secret(keys / SALT).hex()


class Vault:
    """Encrypts and decrypts under subjects' keys, and destroys keys."""

    def __init__(self, database: Database, keys: Path, clock: Clock) -> None:
        self._database = database
        self._master = _secret(keys / "vault-master.key")
        self._clock = clock
        self._cache: dict[str, bytes] = {}

    def ensure_subjects(self, tokens: Sequence[str]) -> None:
        """Make a data key for each subject that has none. A destroyed subject stays destroyed."""
        missing = [t for t in dict.fromkeys(tokens) if t not in self._cache]
        if not missing:
            return
        now = self._clock.now().isoformat()
        with self._database.write() as connection:
            insert_new(
                connection,
                subject_keys,
                [
                    {
                        "subject_token": token,
                        "wrapped_key": aes_key_wrap(self._master, secrets.token_bytes(32)),
                        "created_at": now,
                    }
                    for token in missing
                ],
            )

    def encrypt(self, token: str, plaintext: bytes, context: str) -> bytes:
        """Ciphertext bound to `context` (the clip id): it decrypts for no other clip. The subject gets a key if new."""
        self.ensure_subjects([token])
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + AESGCM(self._key(token)).encrypt(nonce, plaintext, context.encode())

    def decrypt(self, token: str, ciphertext: bytes, context: str) -> bytes:
        """Raises:
        ErasedSubjectError: the key was destroyed.
        UnknownSubjectError: there never was a key.
        BlobDigestError: the bytes were changed or belong to another clip.
        """
        key = self._key(token)
        try:
            return AESGCM(key).decrypt(ciphertext[:NONCE_BYTES], ciphertext[NONCE_BYTES:], context.encode())
        except InvalidTag as error:
            raise BlobDigestError(f"encrypted audio of {context} was changed or belongs to another clip") from error

    def seal(self, items: Sequence[tuple[str, bytes, str]]) -> list[bytes]:
        """Encrypt each (token, plaintext, context) deterministically (AES-SIV, RFC 5297): equal items, equal bytes.

        For what lies inside versioned files, where a fresh nonce would make every version a new one.
        """
        self.ensure_subjects([token for token, _, _ in items])
        keys = self._text_keys([token for token, _, _ in items])
        sealed = []
        for token, plaintext, context in items:
            key = keys[token]
            if key is None:
                raise ErasedSubjectError(f"subject {token} was erased; nothing can be sealed for {context}")
            sealed.append(AESSIV(key).encrypt(plaintext, [context.encode()]))
        return sealed

    def unseal(self, items: Sequence[tuple[str, bytes, str]]) -> list[bytes | None]:
        """Open what `seal` made; None in the place of each item whose subject was erased.

        Raises:
            UnknownSubjectError: there never was a key.
            BlobDigestError: the bytes were changed or belong to another context.
        """
        keys = self._text_keys([token for token, _, _ in items])
        opened: list[bytes | None] = []
        for token, sealed, context in items:
            key = keys[token]
            try:
                opened.append(None if key is None else AESSIV(key).decrypt(sealed, [context.encode()]))
            except InvalidTag as error:
                raise BlobDigestError(f"sealed text of {context} was changed or belongs to another clip") from error
        return opened

    def _text_keys(self, tokens: Sequence[str]) -> dict[str, bytes | None]:
        """Sealing key of each subject, derived from its data key (RFC 5869 HKDF); None where it was destroyed."""
        wanted = set(tokens)
        rows = self._database.rows(select(subject_keys.c.subject_token, subject_keys.c.wrapped_key))
        wrapped = {row["subject_token"]: row["wrapped_key"] for row in rows if row["subject_token"] in wanted}
        if missing := wanted - wrapped.keys():
            raise UnknownSubjectError(f"subject {min(missing)} has no key in the vault; was it restored without it?")
        return {
            token: None if key is None else _derive(aes_key_unwrap(self._master, key)) for token, key in wrapped.items()
        }

    def destroy(self, token: str) -> bool:
        """Destroy a subject's key for good; True if there was one to destroy."""
        self._cache.pop(token, None)
        with self._database.write() as connection:
            result = connection.execute(
                update(subject_keys)
                .where(subject_keys.c.subject_token == token, subject_keys.c.wrapped_key.is_not(None))
                .values(wrapped_key=None, destroyed_at=self._clock.now().isoformat())
            )
        self._database.scrub()
        return result.rowcount > 0

    def scrub(self) -> bool:
        """Drop destroyed keys from the database's log; see `Database.scrub`."""
        return self._database.scrub()

    def erased(self) -> set[str]:
        """Tokens of all erased subjects."""
        rows = self._database.rows(select(subject_keys.c.subject_token).where(subject_keys.c.destroyed_at.is_not(None)))
        return {row["subject_token"] for row in rows}

    def _key(self, token: str) -> bytes:
        row = self._database.row(
            select(subject_keys.c.wrapped_key, subject_keys.c.destroyed_at).where(subject_keys.c.subject_token == token)
        )
        if row is None:
            raise UnknownSubjectError(f"subject {token} has no key in the vault; was the vault restored without it?")
        if row["wrapped_key"] is None:
            raise ErasedSubjectError(f"subject {token} was erased at {row['destroyed_at']}; its audio is gone for good")
        if token not in self._cache:
            self._cache[token] = aes_key_unwrap(self._master, row["wrapped_key"])
        return self._cache[token]


def _derive(key: bytes) -> bytes:
    return HKDF(SHA256(), length=64, salt=None, info=b"voice_pipeline sealed text").derive(key)


def _secret(path: Path) -> bytes:
    """Read 32 random bytes; make them (mode 0600) the first time. Two makers at once agree on one."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(secrets.token_bytes(32))
            handle.flush()
            os.fsync(handle.fileno())
        try:
            os.link(temporary, path)  # fails if another process was first: then its secret counts
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return path.read_bytes()
