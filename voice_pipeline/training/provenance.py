"""What else decides the weights: the commit of the code and the digest of the lock file."""

from __future__ import annotations

import subprocess
from pathlib import Path

from voice_pipeline.schema.canonical import sha256_bytes
from voice_pipeline.settings import PROJECT_ROOT

UNKNOWN = "unknown"


def code_commit(root: Path = PROJECT_ROOT) -> str:
    """Commit of the checkout at `root`, with `-dirty` if tracked files differ from it; `unknown` outside a checkout."""
    if _git(root, "rev-parse", "--show-toplevel") != str(root.resolve()):
        return UNKNOWN  # an installed package may lie inside somebody else's repository
    head = _git(root, "rev-parse", "HEAD")
    if not head:
        return UNKNOWN
    return f"{head}-dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else head


def lock_digest(root: Path = PROJECT_ROOT) -> str:
    """sha256 of `requirements.lock`; `unknown` where there is none."""
    lock = root / "requirements.lock"
    return sha256_bytes(lock.read_bytes()) if lock.is_file() else UNKNOWN


def _git(root: Path, *arguments: str) -> str:
    """Output of one git command, or nothing where git or the repository is missing."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
