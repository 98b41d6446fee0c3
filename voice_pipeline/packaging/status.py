"""How the update repository stands: roles, keys, what is on offer and what waits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from voice_pipeline.packaging.metadata_chain import ROOT, Pending
from voice_pipeline.packaging.repository import UpdateRepository
from voice_pipeline.schema.canonical import sha256_bytes
from voice_pipeline.schema.delivery_policy import MetadataRole
from voice_pipeline.schema.publication import SIGNING_KEY_FIELD
from voice_pipeline.trust import pem_blocks


@dataclass(frozen=True)
class RoleStatus:
    """A role as the root in force has it. `here`: ids of its keys whose private half is on this machine."""

    role: MetadataRole
    version: int
    expires: datetime
    threshold: int
    key_ids: tuple[str, ...]
    here: tuple[str, ...]


@dataclass(frozen=True)
class RepositoryStatus:
    """Attributes:
    bundle_key_ids: sha256 of each key (PEM) that bundles may be signed with, the current one first.
    offered: model version → bundle digest.
    """

    roles: tuple[RoleStatus, ...]
    bundle_key_ids: tuple[str, ...]
    offered: dict[str, str]
    pending: tuple[Pending, ...]


def repository_status(repository: UpdateRepository) -> RepositoryStatus:
    """Everything at once; changes nothing.

    Raises:
        NoRepositoryError: the home has none yet.
    """
    offered = {version: custom["bundle_digest"] for version, custom in repository.published().items()}
    chain = repository.chain
    with chain.exclusive():
        root = chain.current(ROOT).signed
        roles = []
        for role in MetadataRole:
            held, signed = root.roles[role], chain.current(role).signed
            here = {signer.public_key.keyid for signer in chain.keys.signers(role)}
            found = tuple(keyid for keyid in held.keyids if keyid in here)
            roles.append(RoleStatus(role, signed.version, signed.expires, held.threshold, tuple(held.keyids), found))
        return RepositoryStatus(
            tuple(roles),
            tuple(sha256_bytes(block) for block in pem_blocks(root.unrecognized_fields[SIGNING_KEY_FIELD].encode())),
            offered,
            tuple(chain.waiting_list()),
        )
