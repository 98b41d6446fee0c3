"""What else decides the weights: the code, the lock file, the noises that are mixed in."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import select

from voice_pipeline.schema.canonical import digest, sha256_bytes
from voice_pipeline.settings import PROJECT_ROOT
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import noises

UNKNOWN = "unknown"
PACKAGE = "voice_pipeline"


def code_commit(root: Path = PROJECT_ROOT) -> str:
    """Commit of the checkout at `root`; where that does not name the code, with a digest of the package's sources.

    `<commit>-dirty-<digest>` if tracked files differ from the commit, `unknown-<digest>` outside a checkout.
    """
    if _git(root, "rev-parse", "--show-toplevel") != str(root.resolve()):
        return f"{UNKNOWN}-{_sources_digest(root)}"  # an installed package may lie inside somebody else's repository
    head = _git(root, "rev-parse", "HEAD")
    if not head:
        return f"{UNKNOWN}-{_sources_digest(root)}"
    dirty = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{head}-dirty-{_sources_digest(root)}" if dirty else head


def lock_digest(root: Path = PROJECT_ROOT) -> str:
    """sha256 of `requirements.lock`; `unknown` where there is none."""
    lock = root / "requirements.lock"
    return sha256_bytes(lock.read_bytes()) if lock.is_file() else UNKNOWN


def noise_ids(store: Store) -> list[str]:
    """Ids of all noise recordings and room responses in this home, sorted; each is made from the sound itself."""
    return sorted(row["noise_id"] for row in store.database.rows(select(noises.c.noise_id)))


def noise_digest(ids: Sequence[str]) -> str:
    """sha256 of sorted noise ids; none give a digest too, for pink noise stands in."""
    return digest(list(ids))


def _sources_digest(root: Path) -> str:
    """First 12 hex digits of sha256 over paths and bytes of the package's Python files, in order of their paths."""
    total = hashlib.sha256()
    for path in sorted((root / PACKAGE).rglob("*.py")):
        content = path.read_bytes()
        total.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return total.hexdigest()[:12]


def _git(root: Path, *arguments: str) -> str:
    """Output of one git command, or nothing where git or the repository is missing."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
