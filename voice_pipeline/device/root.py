"""The newest root that this device can prove, from the one its app shipped with; works offline.

The client workflow (https://theupdateframework.github.io/specification/latest/#update-root) keeps every root it took.
Here the chain is walked again, from the shipped root: each next one counts only if a threshold of the keys of the root
before it, and of its own, signed it, so a file that somebody put there is nothing but ignored.

Two questions are asked of it. A bundle that is being fetched must be signed with a key that the newest root names. One
that is installed was verified when it came; revoking the key that signed it stops new bundles, it does not take the
model away from a device that has no other: any key that a root of the chain named will do.

An app update may ship a newer root than the one the installed bundle came under. So the chain also goes back: an older
root that lies here counts, for installed bundles only, if a threshold of the root keys of the next newer one that
counts signed it, and of its own. That its successor verifies under *its* keys proves nothing: whoever writes a file can
name the successor's signers in it. Root keys overlap unless a threshold of them went at once (stolen, say); older
roots then count no more, and neither does what was signed under them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from voice_pipeline.device.errors import UpdateRefusedError
from voice_pipeline.schema.publication import SIGNING_KEY_FIELD
from voice_pipeline.trust import pem_blocks

if TYPE_CHECKING:
    from tuf.api.metadata import Root

HISTORY = "root_history"


class RootChain:
    """The roots of one device.

    Args:
        shipped: bytes of the root that the app ships with.
        folder: where the updater keeps what it verified.
    """

    def __init__(self, shipped: bytes, folder: Path) -> None:
        self._shipped = shipped
        self._history = folder / HISTORY

    def newest(self) -> Root:
        """The last root of the chain.

        Raises:
            UpdateRefusedError: the shipped root is not one.
        """
        return list(self._walk())[-1]

    def current_keys(self) -> bytes:
        """PEM of the keys that a new bundle may be signed with, the current one first.

        Raises:
            UpdateRefusedError: the newest root names none.
        """
        return _keys(self.newest()).encode()

    def all_keys(self) -> bytes:
        """PEM of every key that a root of the chain named, forth and back, the newest first: what installed bundles may
        be signed with.

        Raises:
            UpdateRefusedError: a root names none.
        """
        chain = list(self._walk())
        roots = [*reversed(chain), *self._back_from(chain[0])]
        return b"".join(dict.fromkeys(block for root in roots for block in pem_blocks(_keys(root).encode())))

    def _walk(self) -> Iterator[Root]:
        from tuf.api.exceptions import RepositoryError
        from tuf.api.metadata import Metadata, Root

        try:
            trusted: Metadata[Root] = Metadata[Root].from_bytes(self._shipped)
            trusted.signed.verify_delegate(Root.type, trusted.signed_bytes, trusted.signatures)
        except (RepositoryError, ValueError) as error:
            raise UpdateRefusedError(f"the app's trusted root is none ({error}); install the app again") from error
        yield trusted.signed
        while True:
            try:
                data = (self._history / _file(trusted.signed.version + 1)).read_bytes()
                coming: Metadata[Root] = Metadata[Root].from_bytes(data)
                for root in (trusted.signed, coming.signed):
                    root.verify_delegate(Root.type, coming.signed_bytes, coming.signatures)
            except (OSError, RepositoryError, ValueError):
                return
            if coming.signed.version != trusted.signed.version + 1:
                return
            trusted = coming
            yield trusted.signed

    def _back_from(self, trusted: Root) -> Iterator[Root]:
        """The roots before `trusted` that lie in the history and are proven by the keys of those after them."""
        from tuf.api.exceptions import RepositoryError
        from tuf.api.metadata import Metadata, Root

        for version in self._versions_before(trusted.version):
            try:
                older: Metadata[Root] = Metadata[Root].from_bytes((self._history / _file(version)).read_bytes())
                for root in (trusted, older.signed):
                    root.verify_delegate(Root.type, older.signed_bytes, older.signatures)
            except (OSError, RepositoryError, ValueError):
                continue
            if older.signed.version == version and SIGNING_KEY_FIELD in older.signed.unrecognized_fields:
                trusted = older.signed
                yield trusted

    def _versions_before(self, version: int) -> list[int]:
        """Of the files in the history, the nearest first."""
        numbers = [path.name.removesuffix(_file("")) for path in self._history.glob(_file("*"))]
        return sorted((int(n) for n in numbers if n.isascii() and n.isdecimal() and int(n) < version), reverse=True)


def _file(version: int | str) -> str:
    return f"{version}.root.json"


def _keys(root: Root) -> str:
    try:
        return str(root.unrecognized_fields[SIGNING_KEY_FIELD])
    except KeyError as error:
        raise UpdateRefusedError(
            f"root {root.version} names no key that bundles are signed with; install the app again"
        ) from error
