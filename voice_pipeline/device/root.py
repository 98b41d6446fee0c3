"""The newest root that this device can prove, from the one its app shipped with; works offline.

The client workflow (https://theupdateframework.github.io/specification/latest/#update-root) keeps every root it took.
Here the chain is walked again, from the shipped root: each next one counts only if a threshold of the keys of the root
before it, and of its own, signed it, so a file that somebody put there is nothing but ignored.

Two questions are asked of it. A bundle that is being fetched must be signed with a key that the newest root names. One
that is installed was verified when it came; revoking the key that signed it stops new bundles, it does not take the
model away from a device that has no other: any key that a root of the chain named will do.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from voice_pipeline.device.errors import UpdateRefusedError

if TYPE_CHECKING:
    from tuf.api.metadata import Root

SIGNING_KEY_FIELD = "x-bundle-signing-key"
HISTORY = "root_history"
_END = "-----END PUBLIC KEY-----\n"


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
        """PEM of every key that a root of the chain named, the newest first: what installed bundles may be signed with.

        Raises:
            UpdateRefusedError: a root names none.
        """
        blocks = [block for root in reversed(list(self._walk())) for block in _keys(root).split(_END)[:-1]]
        return "".join(block + _END for block in dict.fromkeys(blocks)).encode()

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
                data = (self._history / f"{trusted.signed.version + 1}.root.json").read_bytes()
                coming: Metadata[Root] = Metadata[Root].from_bytes(data)
                for root in (trusted.signed, coming.signed):
                    root.verify_delegate(Root.type, coming.signed_bytes, coming.signatures)
            except (OSError, RepositoryError, ValueError):
                return
            if coming.signed.version != trusted.signed.version + 1:
                return
            trusted = coming
            yield trusted.signed


def _keys(root: Root) -> str:
    try:
        return str(root.unrecognized_fields[SIGNING_KEY_FIELD])
    except KeyError as error:
        raise UpdateRefusedError(
            f"root {root.version} names no key that bundles are signed with; install the app again"
        ) from error
