"""The key under which each line of the ledger is hashed: who can write into the database, but not read the home's keys,
can make no line (HMAC-SHA256, RFC 2104).

`keys/ledger-line.key`, mode 0600, made with a home's first line, holds two lines of text: how many of the ledger's
first lines are from before there was such a key and carry a plain SHA-256 (0 in a home that was made since), and 32
random bytes in hex. Both are in one file, so that no kill leaves one without the other.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from voice_pipeline.store.blobs import flush_folder
from voice_pipeline.store.checkpoint import RESTORE, replace_file
from voice_pipeline.store.errors import LedgerBrokenError

LINE_KEY = "ledger-line.key"
BYTES = 32


@dataclass(frozen=True)
class LineKey:
    """Hashes every line after the first `plain` ones, which carry a plain SHA-256."""

    plain: int
    secret: bytes = field(repr=False)

    def hash(self, seq: int, content: bytes) -> str:
        """The hash (64 hex digits) of line `seq`."""
        if seq <= self.plain:
            return hashlib.sha256(content).hexdigest()
        return hmac.digest(self.secret, content, "sha256").hex()


class LineKeyFile:
    """The line key of one home. Whoever makes or changes it holds the database's write lock."""

    def __init__(self, keys: Path) -> None:
        self._path = keys / LINE_KEY

    def read(self) -> LineKey | None:
        """The key; None in a home without a line, or from before there were such keys.

        Raises:
            LedgerBrokenError: the file cannot be read, or is no such key.
        """
        try:
            plain, secret = self._path.read_text().split("\n")
            key = LineKey(int(plain), bytes.fromhex(secret))
            if key.plain < 0 or len(key.secret) != BYTES:
                raise ValueError("no line key")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise LedgerBrokenError(f"keys/{LINE_KEY} cannot be read, no line can be checked; {RESTORE}") from error
        return key

    def found(self, plain: int) -> LineKey:
        """Make the key of a home whose ledger has `plain` lines so far; it is on the disk when this returns."""
        return self._write(LineKey(plain, secrets.token_bytes(BYTES)))

    def shorten(self, size: int) -> LineKey | None:
        """After a ledger of `size` lines took the place of a longer one: what comes next is hashed under the key."""
        key = self.read()
        return key if key is None or key.plain <= size else self._write(LineKey(size, key.secret))

    def _write(self, key: LineKey) -> LineKey:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(self._path, f"{key.plain}\n{key.secret.hex()}".encode())
        flush_folder(self._path.parent)
        return key


PLAIN = LineKey(2**63, bytes(BYTES))
"""Of a home from before: all its lines carry a plain SHA-256."""
