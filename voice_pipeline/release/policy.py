"""Where the release policy of an installation comes from."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from voice_pipeline.schema.policy_file import load_policy
from voice_pipeline.schema.release_policy import FILE_NAME, ReleasePolicy
from voice_pipeline.store.store import Store


def release_policy(store: Store) -> ReleasePolicy:
    """`policy/release.yaml` of this installation, read again only when the file changes.

    Raises:
        PolicyError: names the file and every key that is wrong.
    """
    path = store.settings.policy_dir / FILE_NAME
    try:
        stat = path.stat()
        return _cached(path, stat.st_mtime_ns, stat.st_size)
    except FileNotFoundError:
        return load_policy(path, ReleasePolicy)  # raises, naming the file


@lru_cache(maxsize=8)
def _cached(path: Path, _modified: int, _size: int) -> ReleasePolicy:
    return load_policy(path, ReleasePolicy)
