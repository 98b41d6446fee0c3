"""New keys for the update repository: TUF's roles, and the key that bundles are signed with.

A role's key is replaced by a new root, which a threshold of the former root's keys and of its own must sign
(https://theupdateframework.github.io/specification/latest/#key-management-and-migration). The key of bundles has no
role in TUF: the root names it in a field, so the same chain of roots brings devices the new one. A former bundle key
stays trusted until it is revoked, which takes three steps, each in force before the next: a root with the new key
beside it, all bundles on offer signed anew (their digests stay), a root without the former ones.

Promise: every step may be killed, or wait for signatures; the same command, or a sensor's next look, goes on from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from voice_pipeline.packaging.errors import BundleConflictError, PackagingError, RepositoryWaitsError
from voice_pipeline.packaging.keys import public_key
from voice_pipeline.packaging.metadata_chain import (
    REVOKED,
    ROOT,
    TARGETS,
    MetadataChain,
    Pending,
)
from voice_pipeline.packaging.repository import UpdateRepository
from voice_pipeline.packaging.signing import NEXT_KEY, PRIVATE_KEY, private_key, public_pem, sign_folder
from voice_pipeline.schema.delivery_policy import MetadataRole
from voice_pipeline.schema.publication import SIGNING_KEY_FIELD
from voice_pipeline.settings import Settings
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.trust import (
    SignatureRefusedError,
    TrustError,
    pem_blocks,
    read_manifest,
    signature_path,
    verify_files,
    verify_signature,
)

if TYPE_CHECKING:
    from securesystemslib.signer import Key
    from tuf.api.metadata import Metadata, Root


class UnknownKeyError(PackagingError):
    """A key id that the root does not name for that role."""


def rotate(
    settings: Settings, now: datetime, role: MetadataRole, key_id: str | None = None, public_keys: Sequence[Path] = ()
) -> list[Pending]:
    """Take a key of `role` away, the oldest or `key_id` (its beginning will do), and put new ones in, as many as the
    policy asks for; the threshold becomes the policy's. A rotation that was cut short is finished instead.

    Args:
        public_keys: PEM files of the new keys, where the private halves were made on another machine.

    Returns:
        What waits for signatures; empty if the new root is in force.

    Raises:
        RepositoryWaitsError: a root waits that is not this rotation, or the new key has to be made elsewhere.
        UnknownKeyError: the role has no key of that id, or several, or too many new ones were given.
    """
    chain = MetadataChain(settings, now)
    with chain.exclusive():
        given = [public_key(path) for path in public_keys]
        if not _clear_for_a_root(chain, role, lambda now, coming: _rotated(now, coming, role, key_id, given)):
            return chain.waiting_list()
        root: Metadata[Root] = chain.current(ROOT)
        held = root.signed.roles[role].keyids
        current = set(held)
        root.signed.revoke_key(_leaving(held, role, key_id), role)
        rule = chain.policy.rule(role)
        for surplus in list(held)[: max(0, len(held) - rule.keys + 1)]:
            root.signed.revoke_key(surplus, role)
        named = chain.ever_named()
        while len(root.signed.roles[role].keyids) < rule.keys:
            key = given.pop(0) if given else chain.keys.spare(role, named, current)
            if key.keyid in named:
                raise UnknownKeyError(f"key {key.keyid[:8]} was in use before; a rotation needs a new one")
            named.add(key.keyid)
            root.signed.add_key(key, role)
        if given:
            raise UnknownKeyError(
                f"key {given[0].keyid[:8]} is one too many: {role} has {rule.keys} (policy/delivery.yaml)"
            )
        root.signed.roles[role].threshold = rule.threshold
        chain.propose(root, ROOT)
        if role is TARGETS:
            chain.propose(chain.pending(TARGETS) or chain.current(TARGETS), TARGETS)
        chain.settle()
        chain.settle()  # what waited for nothing but the new root
        return chain.waiting_list()


def rotate_signing(settings: Settings, now: datetime) -> list[Pending]:
    """A new key for bundles, named first by a new root; former ones stay trusted. Returns what waits for signatures.

    Raises:
        RepositoryWaitsError: a root waits that is not this rotation.
    """
    chain = MetadataChain(settings, now)
    with chain.exclusive():
        if _clear_for_a_root(chain, "signing", _changes_bundle_keys):
            _propose_signing_key(chain)
        return chain.waiting_list()


def revoke_signing(settings: Settings, now: datetime) -> list[Pending]:
    """A new key for bundles, and none but it: all bundles on offer are signed anew before devices hear of it. Returns
    what waits for signatures; run it again, or wait for the sensor, after they were given.

    Raises:
        RepositoryWaitsError: a root waits that changes something else.
    """
    chain = MetadataChain(settings, now)
    with chain.exclusive():
        record = chain.waiting / REVOKED
        if not record.exists():
            _clear_for_a_root(chain, "signing", _changes_bundle_keys)
            write_atomically(record, chain.current(ROOT).signed.unrecognized_fields[SIGNING_KEY_FIELD].encode())
    return continue_revocation(settings, now)


def continue_revocation(settings: Settings, now: datetime) -> list[Pending]:
    """Whatever step of a revocation is next; nothing if none was begun."""
    repository = UpdateRepository(settings, now)
    chain = repository.chain
    record = chain.waiting / REVOKED
    if not record.exists():
        return repository.pending()
    revoked = record.read_bytes()
    with chain.exclusive():
        chain.settle()
        if chain.pending(ROOT) is not None:
            return chain.waiting_list()
        if public_pem(settings.keys / PRIVATE_KEY) in revoked:
            _propose_signing_key(chain)
            if chain.waiting_list():
                return chain.waiting_list()
    for model_version, custom in repository.published().items():
        _sign_again(settings, model_version, custom["bundle_digest"])
        repository.publish(settings.bundles / model_version, read_manifest(settings.bundles / model_version))
    with chain.exclusive():
        if chain.pending(TARGETS) is None:
            root = chain.current(ROOT)
            blocks = pem_blocks(root.signed.unrecognized_fields[SIGNING_KEY_FIELD].encode())
            kept = b"".join(block for block in blocks if block not in revoked).decode()
            if kept != root.signed.unrecognized_fields[SIGNING_KEY_FIELD]:
                root.signed.unrecognized_fields[SIGNING_KEY_FIELD] = kept
                chain.propose(root, ROOT)
                chain.settle()
            if chain.pending(ROOT) is None:
                record.unlink()
        return chain.waiting_list()


def revocation_begun(settings: Settings) -> bool:
    """Whether bundle keys are on their way out."""
    return (settings.tuf / "pending" / REVOKED).exists()


def _clear_for_a_root(chain: MetadataChain, what: str, asked_for: Callable[[Root, Root], bool]) -> bool:
    """Finish what a killed rotation left. True if a new root may be made; False if the one that is `asked_for` was
    made before: it is in force now, or still waits.

    Raises:
        RepositoryWaitsError: another root waits; `what` is not rotated.
    """
    coming = chain.pending(ROOT)
    same = coming is not None and asked_for(chain.current(ROOT).signed, coming.signed)
    chain.settle()
    if not same and (other := chain.pending(ROOT)) is not None:
        name = f"root {other.signed.version}"
        raise RepositoryWaitsError(
            f"{name} waits for another rotation or renewal; {what} was NOT rotated: sign and accept {name} first, or "
            "give it up with `voice-pipeline repository discard root`, then rotate"
        )
    return not same


def _rotated(now: Root, coming: Root, role: MetadataRole, key_id: str | None, given: Sequence[Key]) -> bool:
    """Whether `coming` is what such a rotation of `role` makes of the root in force `now`."""
    before, after = set(now.roles[role].keyids), set(coming.roles[role].keyids)
    left = any(keyid.startswith(key_id or "") for keyid in before - after)
    return left and all(key.keyid in after for key in given)


def _changes_bundle_keys(now: Root, coming: Root) -> bool:
    return bool(now.unrecognized_fields[SIGNING_KEY_FIELD] != coming.unrecognized_fields[SIGNING_KEY_FIELD])


def _propose_signing_key(chain: MetadataChain) -> None:
    pem = public_pem(private_key(chain.signing_keys / NEXT_KEY)).decode()
    root = chain.current(ROOT)
    root.signed.unrecognized_fields[SIGNING_KEY_FIELD] = pem + root.signed.unrecognized_fields[SIGNING_KEY_FIELD]
    chain.propose(root, ROOT)
    chain.settle()


def _sign_again(settings: Settings, model_version: str, bundle_digest: str) -> None:
    """Sign a bundle on offer with the current key, unless it is: the targets metadata vouches for what it is."""
    folder = settings.bundles / model_version
    try:
        manifest = read_manifest(folder)
        verify_files(folder, manifest)
        if manifest.digest != bundle_digest:
            raise BundleConflictError(f"bundle {model_version} is not the one on offer; restore {folder}")
        verify_signature(folder, signature_path(folder), public_pem(settings.keys / PRIVATE_KEY))
    except SignatureRefusedError:
        sign_folder(folder, settings.keys)
    except TrustError as error:
        raise BundleConflictError(f"bundle {model_version} on offer no longer verifies: {error}") from error


def _leaving(held: Sequence[str], role: MetadataRole, key_id: str | None) -> str:
    chosen = [keyid for keyid in held if keyid.startswith(key_id or "")]
    if not chosen or (key_id and len(chosen) > 1):
        raise UnknownKeyError(f"{role} has {len(chosen)} keys {key_id}; `voice-pipeline repository status` names them")
    return chosen[0]
