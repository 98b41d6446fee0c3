"""How the update repository stands: roles, keys, what is on offer and what waits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from voice_pipeline.packaging.metadata_chain import REVOKED, ROOT, Pending
from voice_pipeline.packaging.repository import UpdateRepository
from voice_pipeline.schema.canonical import sha256_bytes
from voice_pipeline.schema.delivery_policy import MetadataRole
from voice_pipeline.schema.publication import SIGNING_KEY_FIELD
from voice_pipeline.trust import pem_blocks

if TYPE_CHECKING:
    from tuf.api.metadata import Root


@dataclass(frozen=True)
class RoleStatus:
    """A role as the root in force has it.

    Attributes:
        files: key id → file name, of its keys whose private half is on this machine.
        retired: the same of keys that a former root named, and neither this one nor the one to come.
    """

    role: MetadataRole
    version: int
    expires: datetime
    threshold: int
    key_ids: tuple[str, ...]
    files: dict[str, str]
    retired: dict[str, str]


@dataclass(frozen=True)
class KeyChange:
    """Keys of a role that left and that are new: key id → file name, empty if it is not on this machine. `waits_for` is
    the number of the root that has to come into force first, 0 if it is.
    """

    role: MetadataRole
    left: dict[str, str]
    new: dict[str, str]
    waits_for: int


@dataclass(frozen=True)
class RepositoryStatus:
    """Attributes:
    bundle_key_ids: sha256 of each key (PEM) that bundles may be signed with, the current one first.
    offered: model version → bundle digest.
    revoking: former bundle keys are on their way out.
    """

    roles: tuple[RoleStatus, ...]
    bundle_key_ids: tuple[str, ...]
    offered: dict[str, str]
    pending: tuple[Pending, ...]
    revoking: bool


def repository_status(repository: UpdateRepository) -> RepositoryStatus:
    """Everything at once; changes nothing.

    Raises:
        NoRepositoryError: the home has none yet.
    """
    offered = {version: custom["bundle_digest"] for version, custom in repository.published().items()}
    chain = repository.chain
    with chain.exclusive():
        root = chain.current(ROOT).signed
        coming, named = chain.pending(ROOT), chain.ever_named()
        roles = []
        for role in MetadataRole:
            held, signed = root.roles[role], chain.current(role).signed
            files = chain.keys.files(role)
            kept = {*held.keyids, *(coming.signed.roles[role].keyids if coming else ())}
            retired = {keyid: file for keyid, file in files.items() if keyid in named and keyid not in kept}
            roles.append(
                RoleStatus(role, signed.version, signed.expires, held.threshold, tuple(held.keyids), files, retired)
            )
        return RepositoryStatus(
            tuple(roles),
            tuple(sha256_bytes(block) for block in pem_blocks(root.unrecognized_fields[SIGNING_KEY_FIELD].encode())),
            offered,
            tuple(chain.waiting_list()),
            (chain.waiting / REVOKED).exists(),
        )


def root_in_force(repository: UpdateRepository) -> Root:
    """To compare with later.

    Raises:
        NoRepositoryError: the home has none yet.
    """
    with repository.chain.exclusive():
        root: Root = repository.chain.current(ROOT).signed
        return root


def key_changes(repository: UpdateRepository, before: Root) -> list[KeyChange]:
    """Which keys left and came since `before` was in force, and which will with the root that waits."""
    chain = repository.chain
    with chain.exclusive():
        now, coming = chain.current(ROOT).signed, chain.pending(ROOT)
        steps = [(before, now, 0)] + ([(now, coming.signed, coming.signed.version)] if coming else [])
        changes = []
        for former, latter, waits_for in steps:
            for role in MetadataRole:
                files, old, new = chain.keys.files(role), former.roles[role].keyids, latter.roles[role].keyids
                left = {keyid: files.get(keyid, "") for keyid in old if keyid not in new}
                came = {keyid: files.get(keyid, "") for keyid in new if keyid not in old}
                if left or came:
                    changes.append(KeyChange(role, left, came, waits_for))
        return changes
