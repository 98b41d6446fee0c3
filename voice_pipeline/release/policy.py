"""Where the release policy of an installation comes from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from voice_pipeline.schema.canonical import canonical_json
from voice_pipeline.schema.policy_file import PolicyError, load_policy, policy_from_json
from voice_pipeline.schema.release_policy import FILE_NAME, ReleasePolicy
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.store import Store

LAST_GOOD = "last_good_release_policy.yaml"
UNTIL_MENDED = "until it is mended, the last good policy stands and nothing is promoted"
_kept: dict[Path, str] = {}


def release_policy(store: Store) -> ReleasePolicy:
    """`policy/release.yaml` of this installation, read again only when the file changes.

    Raises:
        PolicyError: names the file and every key that is wrong.
    """
    path = store.settings.policy_dir / FILE_NAME
    try:
        stat = path.stat()
        return _cached(path, stat.st_mtime_ns, stat.st_size)
    except OSError:
        return load_policy(path, ReleasePolicy)  # raises, naming the file


@dataclass(frozen=True)
class Standing:
    """The rules in force. `problem` says what is wrong with the file where they are not from it; "" where they are."""

    policy: ReleasePolicy
    problem: str


def standing_policy(store: Store) -> Standing:
    """The policy by which harm is undone, people decide and are told, and devices are answered: the file's, or while
    that is invalid the last good one of this installation. Nothing is promoted by the latter: see `release_policy`.

    Raises:
        PolicyError: the file is invalid and there is no last good one.
    """
    kept = store.settings.root / LAST_GOOD
    try:
        policy = release_policy(store)
    except PolicyError as error:
        return Standing(_last_good(kept, error), f"{error}; {UNTIL_MENDED}")
    _keep(kept, policy)
    return Standing(policy, "")


def _last_good(kept: Path, problem: PolicyError) -> ReleasePolicy:
    """What `_keep` wrote: JSON, which is no YAML where a number is as small as 1e-05."""
    try:
        return policy_from_json(kept.read_text(), kept, ReleasePolicy)
    except OSError as none:
        raise PolicyError(f"{problem}; mend it, there is no last good policy to go on with ({kept})") from none
    except (ValueError, PolicyError) as none:
        raise PolicyError(f"{problem}; mend it, there is no last good policy to go on with: {none}") from problem


def _keep(path: Path, policy: ReleasePolicy) -> None:
    """Remember a good policy for the time when the file is none; a process writes each once."""
    if _kept.get(path) != policy.digest:
        write_atomically(path, canonical_json(policy))
        _kept[path] = policy.digest


@lru_cache(maxsize=8)
def _cached(path: Path, _modified: int, _size: int) -> ReleasePolicy:
    return load_policy(path, ReleasePolicy)
