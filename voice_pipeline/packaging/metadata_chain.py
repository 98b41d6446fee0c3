"""The signed metadata of the update repository as files, in force and waiting: TUF 1.0, consistent snapshots
(https://theupdateframework.github.io/specification/latest/#consistent-snapshots).

`repository/metadata/` is served: N.root.json, N.targets.json, N.snapshot.json, timestamp.json. `pending/` is not: there
a new root or new targets collect signatures, some perhaps on another machine. Everything that root or targets keys
must sign passes through `pending/`, where enough of those keys are at hand it only stays there for a moment.

Promise: what is in force verifies, from the first root on, after every single write; so a process killed between two
leaves the last publication in force. `settle` goes on from whatever it finds. Two orders make that so: the timestamp
is written last, in one move, for it alone names the rest; and a root that takes a role's keys away is written only
after that role's metadata carries signatures of the former keys and of the new ones. (Where the former keys are lost
the root has to come first: until the writes after it are done, devices take no update.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voice_pipeline.packaging.errors import NoRepositoryError, RepositoryDamagedError, RepositoryWaitsError
from voice_pipeline.packaging.keys import KeyFolders
from voice_pipeline.packaging.signing import adopt_next_key, signing_public_key
from voice_pipeline.schema.delivery_policy import MetadataRole, load_delivery_policy
from voice_pipeline.schema.publication import SIGNING_KEY_FIELD
from voice_pipeline.settings import Settings
from voice_pipeline.store.blobs import write_atomically

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner
    from tuf.api.metadata import Metadata, Root

ROOT, TARGETS, SNAPSHOT, TIMESTAMP = MetadataRole
ONLINE = (SNAPSHOT, TIMESTAMP)
REVOKED = "revoked-bundle-keys.pem"
Pair = tuple["Metadata[Any]", "Metadata[Any]"]


@dataclass(frozen=True)
class Pending:
    """Metadata that waits. `missing` says which signatures, in words; empty if it may come into force."""

    role: MetadataRole
    version: int
    path: Path
    missing: str


class MetadataChain:
    """Reads, signs and replaces the metadata of one home.

    Args:
        settings: says where metadata, keys and the policy lie.
        now: the instant from which expiry counts.
    """

    def __init__(self, settings: Settings, now: datetime) -> None:
        self.now = now
        self.keys = KeyFolders(settings)
        self.policy = load_delivery_policy(settings.policy_dir)
        self.signing_keys = settings.keys
        self.metadata = settings.tuf / "repository" / "metadata"
        self.waiting = settings.tuf / "pending"
        self._lock = settings.tuf / ".lock"

    def founded(self) -> bool:
        """Whether there is a repository; one whose founding was cut short is none yet. Changes nothing.

        Raises:
            RepositoryDamagedError: there was one, and its timestamp is lost.
        """
        if (self.metadata / "timestamp.json").exists():
            return True
        versions = [name for path in self.metadata.glob("*.json") if (name := path.name.split(".")[0]).isdecimal()]
        if any(int(version) > 1 for version in versions) or any((self.metadata.parent / "targets").glob("*.tar*")):
            raise RepositoryDamagedError(
                f"{self.metadata} has lost timestamp.json, and bundles were published; restore the folder from a backup"
            )
        return False

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """One process at a time; everything below is to be called inside, or inside `founding`.

        Raises:
            NoRepositoryError: there is no repository yet.
            RepositoryDamagedError: there was one, and its timestamp is lost.
        """
        from filelock import FileLock

        if not self.founded():
            raise NoRepositoryError(
                f"{self.metadata.parent.parent} holds no update repository yet; the first bundle that is published "
                "founds it"
            )
        with FileLock(self._lock):
            yield

    @contextmanager
    def founding(self) -> Iterator[None]:
        """Like `exclusive`, but a repository that is missing is founded, with its keys."""
        from filelock import FileLock

        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._lock):
            if not self.founded():
                self._found()
            yield

    # --- in force -----------------------------------------------------------------------------------------------------

    def current(self, role: MetadataRole) -> Metadata[Any]:
        """The metadata of `role` that is in force.

        Raises:
            RepositoryDamagedError: it cannot be read.
        """
        if role is ROOT:
            return self._in_force(f"{max(self.root_versions(), default=1)}.root.json", ROOT)
        metadata = self._in_force("timestamp.json", TIMESTAMP)
        if role is not TIMESTAMP:
            metadata = self._in_force(f"{metadata.signed.snapshot_meta.version}.snapshot.json", SNAPSHOT)
        if role is TARGETS:
            metadata = self._in_force(f"{metadata.signed.meta['targets.json'].version}.targets.json", TARGETS)
        return metadata

    def _in_force(self, name: str, role: MetadataRole) -> Metadata[Any]:
        return read_metadata(self.metadata / name, [role], f"restore {self.metadata} from a backup")

    def root_versions(self) -> list[int]:
        return [int(path.name.split(".")[0]) for path in self.metadata.glob("*.root.json")]

    def ever_named(self) -> set[str]:
        """Ids of all keys that a root names or named."""
        roots = (self._in_force(f"{version}.root.json", ROOT) for version in self.root_versions())
        return {keyid for root in roots for keyid in root.signed.keys}

    def advance(self, targets_version: int | None = None) -> None:
        """Snapshot and timestamp anew: with a fresh expiry, and naming another version of targets if one is given.

        Raises:
            RepositoryDamagedError: their keys are not here.
        """
        pair = self._next_pair(targets_version)
        self._require(pair, self.current(ROOT).signed)
        self._write_pair(pair)

    def _next_pair(self, targets_version: int | None = None) -> Pair:
        snapshot, timestamp = self.current(SNAPSHOT), self.current(TIMESTAMP)
        if targets_version is not None:
            snapshot.signed.meta["targets.json"].version = targets_version
        snapshot.signed.version += 1
        timestamp.signed.version += 1
        timestamp.signed.snapshot_meta.version = snapshot.signed.version
        return self._sign(snapshot, SNAPSHOT), self._sign(timestamp, TIMESTAMP)

    def _require(self, pair: Pair, root: Root) -> None:
        for role, metadata in zip(ONLINE, pair, strict=True):
            if not signed_enough(metadata, role, root):
                raise RepositoryDamagedError(self._lost(role))

    def _lost(self, role: MetadataRole) -> str:
        return (
            f"no key of {role} that the root names is in {self.keys.folder(role)}: restore it from a backup, or run "
            f"`voice-pipeline repository rotate {role}`"
        )

    def _can_sign(self, role: MetadataRole, root: Root) -> bool:
        held = root.roles[role]
        here = {signer.public_key.keyid for signer in self.keys.signers(role)}
        return len(here.intersection(held.keyids)) >= held.threshold

    def _write_pair(self, pair: Pair) -> None:
        for role, metadata in zip(ONLINE, pair, strict=True):
            self._write(metadata, role)

    # --- waiting for signatures ---------------------------------------------------------------------------------------

    def pending(self, role: MetadataRole) -> Metadata[Any] | None:
        """What of root or targets is to be next, or None.

        Raises:
            RepositoryDamagedError: it cannot be read.
        """
        path = self.pending_path(role)
        if not path.exists():
            return None
        metadata = read_metadata(path, [role], f"run `voice-pipeline repository discard {role}`")
        if metadata.signed.version <= self.current(role).signed.version:
            path.unlink()  # it is in force: killed before it was cleared away
            return None
        return metadata

    def pending_path(self, role: MetadataRole) -> Path:
        return self.waiting / f"{role}.json"

    def propose(self, metadata: Metadata[Any], role: MetadataRole) -> None:
        """Make `metadata` the next of its role, signed with what keys there are here; former signatures are dropped."""
        metadata.signed.version = self.current(role).signed.version + 1
        self._sign(metadata, role)
        write_atomically(self.pending_path(role), metadata.to_bytes())

    def add_signatures(self, role: MetadataRole, other: Metadata[Any] | None = None) -> int:
        """To what is pending: those of `other`, the same metadata signed elsewhere, and those of the keys here. Returns
        how many it did not have.

        Raises:
            RepositoryWaitsError: nothing of that role is pending, or `other` is not what is, or no key that counts
                signed it.
        """
        metadata = self.pending(role)
        if metadata is None:
            raise RepositoryWaitsError(f"no {role} metadata waits for signatures")
        before = set(metadata.signatures)
        if other is not None:
            if other.signed_bytes != metadata.signed_bytes:
                raise RepositoryWaitsError(
                    f"this is not the {role} {metadata.signed.version} that waits; sign a copy of "
                    f"{self.pending_path(role)}"
                )
            metadata.signatures.update(self._good(role, metadata, other))
        for signer in self.fitting(role, metadata):
            metadata.sign(signer, append=True)
        write_atomically(self.pending_path(role), metadata.to_bytes())
        return len(metadata.signatures.keys() - before)

    def fitting(self, role: MetadataRole, metadata: Metadata[Any]) -> list[CryptoSigner]:
        """The keys here that the root in force or the one to come names for `role`."""
        named = self._named(role, metadata)
        return [signer for signer in self.keys.signers(role) if signer.public_key.keyid in named]

    def _good(self, role: MetadataRole, metadata: Metadata[Any], other: Metadata[Any]) -> dict[str, Any]:
        """The signatures of `other` by keys that the root in force, or the one to come, names for the role."""
        from securesystemslib.exceptions import UnverifiedSignatureError

        coming = metadata if role is ROOT else self.pending(ROOT)
        good = {}
        for root in filter(None, (self.current(ROOT), coming)):
            for keyid in other.signatures.keys() & root.signed.roles[role].keyids:
                try:
                    root.signed.keys[keyid].verify_signature(other.signatures[keyid], metadata.signed_bytes)
                except UnverifiedSignatureError:
                    continue
                good[keyid] = other.signatures[keyid]
        if not good:
            raise RepositoryWaitsError(
                f"no {role} key that the root in force or the one to come names has signed this; sign a copy of "
                f"{self.pending_path(role)} with one of them"
            )
        return good

    def settle(self) -> None:
        """Put into force what has the signatures it needs, and repair what a killed process left between two writes."""
        if not self._in_force_under(self.current(ROOT).signed):
            self.advance()
        root, targets = self.pending(ROOT), self.pending(TARGETS)
        if root is not None and targets is None and not self._targets_hold(root):
            targets = self.current(TARGETS)  # killed before they were proposed with the new keys, or discarded
            self.propose(targets, TARGETS)
        follow = None
        if targets is not None and not self.missing(TARGETS, targets):
            former = self.current(ROOT).signed
            if signed_enough(targets, TARGETS, former) and all(self._can_sign(role, former) for role in ONLINE):
                self._put_targets(targets)
            else:
                follow = targets
        if root is not None and not self.missing(ROOT, root):
            self._put_root(root, follow)
        adopt_next_key(self.signing_keys, self.current(ROOT).signed.unrecognized_fields.get(SIGNING_KEY_FIELD, ""))

    def waiting_list(self) -> list[Pending]:
        """What is pending, root first."""
        found = []
        for role in (ROOT, TARGETS):
            metadata = self.pending(role)
            if metadata is not None:
                missing = self.missing(role, metadata)
                found.append(Pending(role, metadata.signed.version, self.pending_path(role), missing))
        return found

    def missing(self, role: MetadataRole, metadata: Metadata[Any]) -> str:
        """What keeps pending metadata from coming into force, in words: signatures, mostly. Empty if nothing does."""
        former, coming = self.current(ROOT).signed, self.pending(ROOT)
        if role is ROOT:
            roots = [("former ", former), ("new ", metadata.signed)]
        else:
            roots = [("", former) if coming is None else ("new ", coming.signed)]
        lacking = []
        for name, root in roots:
            result = root.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
            if not result:
                lacking.append(f"{len(result.signed)} of {result.threshold} {name}{role} keys have signed")
        if role is ROOT and not self._targets_hold(metadata):
            lacking.append("targets metadata signed with the new targets keys has to be there first")
        if metadata.signed.expires <= self.now:
            lacking.append(f"it waited beyond its own expiry: `voice-pipeline repository discard {role}`, and again")
        if role is TARGETS:
            lacking += [self._lost(online) for online in ONLINE if not self._can_sign(online, roots[0][1])]
        return "; ".join(lacking)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _targets_hold(self, root: Metadata[Root]) -> bool:
        """There are targets, in force or pending, that devices take under `root`."""
        pending = self.pending(TARGETS)
        return any(signed_enough(found, TARGETS, root.signed) for found in (self.current(TARGETS), pending) if found)

    def _in_force_under(self, root: Root) -> bool:
        return all(signed_enough(self.current(role), role, root) for role in (SNAPSHOT, TIMESTAMP))

    def _put_targets(self, targets: Metadata[Any]) -> None:
        self._write(targets, TARGETS)
        self.advance(targets.signed.version)
        self.pending_path(TARGETS).unlink()

    def _put_root(self, root: Metadata[Root], follow: Metadata[Any] | None) -> None:
        """Replace the root; `follow` are targets that verify under the new one only."""
        former, after = self.current(ROOT).signed, None
        if not self._in_force_under(root.signed):
            after = self._next_pair()
            self._require(after, root.signed)
            if all(signed_enough(metadata, role, former) for role, metadata in zip(ONLINE, after, strict=True)):
                self._write_pair(after)
                after = None
        self._write(root, ROOT)
        self.pending_path(ROOT).unlink()
        if follow is not None:
            self._put_targets(follow)
        elif after is not None:
            self._write_pair(after)

    def _found(self) -> None:
        from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

        if not (self.metadata / "1.root.json").exists():
            root = Root(consistent_snapshot=True)
            for role in MetadataRole:
                rule = self.policy.rule(role)
                root.roles[role].threshold = rule.threshold
                for signer in self.keys.found(role, rule.keys):
                    root.add_key(signer.public_key, role)
            root.unrecognized_fields[SIGNING_KEY_FIELD] = signing_public_key(self.signing_keys).decode()
            self._write(self._sign(Metadata(root), ROOT), ROOT)
        for role, empty in ((TARGETS, Targets()), (SNAPSHOT, Snapshot()), (TIMESTAMP, Timestamp())):
            metadata: Metadata[Any] = self._sign(Metadata(empty), role)
            if not signed_enough(metadata, role, self.current(ROOT).signed):
                raise RepositoryDamagedError(f"keys of {role} are not in {self.keys.folder(role)}; restore them")
            self._write(metadata, role)

    def _sign(self, metadata: Metadata[Any], role: MetadataRole) -> Metadata[Any]:
        """A fresh expiry, and the signatures of the keys here that the root in force or the one to come names."""
        metadata.signed.expires = (self.now + self.policy.rule(role).lifetime).replace(microsecond=0)
        metadata.signatures.clear()
        for signer in self.fitting(role, metadata):
            metadata.sign(signer, append=True)
        return metadata

    def _named(self, role: MetadataRole, metadata: Metadata[Any]) -> Collection[str]:
        roots = [metadata.signed] if role is ROOT else []
        if self.root_versions():
            roots.append(self.current(ROOT).signed)
        if role is not ROOT and self.pending_path(ROOT).exists() and (root := self.pending(ROOT)) is not None:
            roots.append(root.signed)
        return {keyid for root in roots for keyid in root.roles[role].keyids}

    def _write(self, metadata: Metadata[Any], role: MetadataRole) -> None:
        name = "timestamp.json" if role is TIMESTAMP else f"{metadata.signed.version}.{role}.json"
        write_atomically(self.metadata / name, metadata.to_bytes())


def read_metadata(path: Path, roles: Sequence[MetadataRole], advice: str) -> Metadata[Any]:
    """Metadata of one of `roles` from a file.

    Raises:
        RepositoryDamagedError: it cannot be read or is something else; ends with `advice`.
    """
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import Metadata

    try:
        metadata: Metadata[Any] = Metadata.from_bytes(path.read_bytes())
    except (OSError, ValueError, RecursionError, RepositoryError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RepositoryDamagedError(f"{path.name} is no metadata that can be read ({reason}); {advice}") from error
    if metadata.signed.type not in roles:
        raise RepositoryDamagedError(
            f"{path.name} is {metadata.signed.type} metadata, not {' or '.join(roles)}; {advice}"
        )
    return metadata


def signed_enough(metadata: Metadata[Any], role: MetadataRole, root: Root) -> bool:
    """Whether the keys that `root` names for `role` signed `metadata`, as many as it asks for."""
    return bool(root.get_verification_result(role, metadata.signed_bytes, metadata.signatures))
