"""The update repository that devices trust: TUF 1.0 (https://theupdateframework.github.io/specification/latest/).

Layout under `settings.tuf / "repository"`, served as plain files: `metadata/` (see `packaging.metadata_chain`) and
`targets/<sha256>.<model_version>.tar.xz`. Root and targets are signed by the offline keys, snapshot and timestamp by
the online keys. The root carries the public keys that bundles are signed with (`SIGNING_KEY_FIELD`), so a device that
pins the root needs to be told nothing else.

Promise: a publication killed anywhere leaves the last one in force, and repeating it, or a sensor's next look, finishes
it. Where the targets keys are not on this machine a publication waits, its archive in place, its metadata outside the
served folder, until they have signed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voice_pipeline.packaging.archive import former_name, pack, target_name
from voice_pipeline.packaging.errors import RepositoryDamagedError, RepositoryWaitsError
from voice_pipeline.packaging.metadata_chain import (
    ONLINE,
    REVOKED,
    ROOT,
    TARGETS,
    TIMESTAMP,
    MetadataChain,
    Pending,
)
from voice_pipeline.packaging.signing import NEXT_KEY, public_pem
from voice_pipeline.schema.bundle import BundleManifest
from voice_pipeline.schema.canonical import digest, sha256_bytes
from voice_pipeline.schema.delivery_policy import MetadataRole
from voice_pipeline.schema.publication import SIGNING_KEY_FIELD
from voice_pipeline.settings import Settings
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.trust import signature_path

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata

ALERT_DAYS = (90, 30, 14, 7, 3, 1, 0)
"""With so many days left, people are told that offline keys have to sign; each renewal in between says so, too."""


@dataclass(frozen=True)
class Publication:
    """A bundle as it is offered, its archive by digest and length; `in_force` is False while its metadata waits for
    signatures: `waits_for` tells.
    """

    archive_sha256: str
    archive_bytes: int
    in_force: bool
    waits_for: str = ""


class UpdateRepository:
    """Reads and extends the repository of one home. `publish` and `trusted_root` found it, with its keys; to readers a
    home that has none offers nothing.

    Args:
        settings: says where metadata, targets, keys and the policy lie.
        now: the instant from which expiry counts.
    """

    def __init__(self, settings: Settings, now: datetime) -> None:
        self.chain = MetadataChain(settings, now)
        self.metadata = self.chain.metadata
        self.targets = settings.tuf / "repository" / "targets"
        self._now = now

    @contextmanager
    def _settled(self) -> Iterator[MetadataChain]:
        """The chain, alone with it, after everything that could come into force has."""
        with self.chain.exclusive():
            self.chain.settle()
            yield self.chain

    @contextmanager
    def _founded(self) -> Iterator[MetadataChain]:
        """Like `_settled`; a home that has no repository gets one."""
        with self.chain.founding():
            self.chain.settle()
            yield self.chain

    def trusted_root(self) -> bytes:
        """The first root's bytes: what an app ships with. All later roots follow from it.

        Raises:
            RepositoryDamagedError: there is a repository but not its first root.
        """
        with self.chain.founding():
            try:
                return (self.metadata / "1.root.json").read_bytes()
            except OSError as error:
                raise RepositoryDamagedError(
                    f"{self.metadata} has lost 1.root.json, which every device starts from; restore it from a backup"
                ) from error

    # --- what is on offer ---------------------------------------------------------------------------------------------

    def publish(self, folder: Path, manifest: BundleManifest) -> Publication:
        """Offer a signed bundle to devices as target `<model_version>.tar.xz`; repeating it changes nothing. A bundle
        that is on offer under its former name, `.tar`, stays so, for apps that know no other.
        """
        with self._founded() as chain:
            coming = chain.pending(TARGETS) or chain.current(TARGETS)
            name, former = target_name(manifest.model_version), former_name(manifest.model_version)
            name = former if former in coming.signed.targets else name
            custom = {
                "model_version": manifest.model_version,
                "bundle_digest": manifest.digest,
                "min_app_version": manifest.min_app_version,
                "signature_sha256": sha256_bytes(signature_path(folder).read_bytes()),
            }
            if not _offers(coming, name, custom):
                self._add(chain, coming, folder, name, custom)
            if self._stale():
                chain.advance()
            return self._publication(chain, name, custom)

    def _add(
        self, chain: MetadataChain, coming: Metadata[Any], folder: Path, name: str, custom: dict[str, str]
    ) -> None:
        from tuf.api.metadata import TargetFile

        archive = pack(folder, name)
        target = TargetFile.from_data(name, archive, ["sha256"])
        target.unrecognized_fields["custom"] = custom
        write_atomically(self.targets / f"{target.hashes['sha256']}.{name}", archive)
        coming.signed.targets[name] = target
        chain.propose(coming, TARGETS)
        chain.settle()

    def _publication(self, chain: MetadataChain, name: str, custom: dict[str, str]) -> Publication:
        pending = chain.pending(TARGETS)
        if _offers(chain.current(TARGETS), name, custom):
            target = chain.current(TARGETS).signed.targets[name]
            return Publication(target.hashes["sha256"], target.length, in_force=True)
        if pending is None:
            raise RepositoryDamagedError(f"{name} is neither on offer nor pending; publish it again")
        target = pending.signed.targets[name]
        return Publication(
            target.hashes["sha256"], target.length, in_force=False, waits_for=chain.missing(TARGETS, pending)
        )

    def withdraw(self, model_version: str) -> bool:
        """Stop offering a bundle, or a target of that name; True if it was on offer. Devices that hold it keep it as a
        fallback. Like everything that targets say, it comes into force when the targets keys have signed it.
        """
        with self._settled() as chain:
            coming = chain.pending(TARGETS) or chain.current(TARGETS)
            names = (target_name(model_version), former_name(model_version), model_version)
            if not [name for name in names if coming.signed.targets.pop(name, None) is not None]:
                return False
            chain.propose(coming, TARGETS)
            chain.settle()
            return True

    def entries(self) -> dict[str, dict[str, Any]]:
        """The custom metadata of every target on offer, or to be when what waits is signed, by its name."""
        if not self.chain.founded():
            return {}
        with self.chain.exclusive():
            coming = self.chain.pending(TARGETS) or self.chain.current(TARGETS)
            return {name: dict(file.custom or {}) for name, file in coming.signed.targets.items()}

    def published(self) -> dict[str, dict[str, Any]]:
        """What is on offer: model version → custom metadata of its target, and its `archive_sha256` and
        `archive_bytes`. What waits for signatures is not on offer.
        """
        if not self.chain.founded():
            return {}
        with self.chain.exclusive():
            files = self.chain.current(TARGETS).signed.targets.values()
            offered = [
                {**file.custom, "archive_sha256": file.hashes["sha256"], "archive_bytes": file.length}
                for file in files
                if file.custom
            ]
            return {custom["model_version"]: custom for custom in offered}

    # --- signatures ---------------------------------------------------------------------------------------------------

    def pending(self) -> list[Pending]:
        """What waits for signatures of root or targets keys."""
        if not self.chain.founded():
            return []
        with self.chain.exclusive():
            return self.chain.waiting_list()

    def sign(self) -> int:
        """Add the signatures of the offline keys that are here to all that waits, and put into force what has enough.
        Returns how many signatures were added; a key signs once.

        Raises:
            RepositoryWaitsError: something waits, and no key here counts for any of it.
        """
        with self._settled() as chain:
            waiting = [(role, metadata) for role in (ROOT, TARGETS) if (metadata := chain.pending(role)) is not None]
            if waiting and not any(chain.fitting(role, metadata) for role, metadata in waiting):
                roles = " or ".join(role for role, _ in waiting)
                raise RepositoryWaitsError(
                    f"no key of {roles} that counts ({waiting[0][0]}-1.key, …) is in {chain.keys.folder(ROOT)}; name "
                    "its folder with --keys"
                )
            added = sum(chain.add_signatures(role) for role, _ in waiting)
            chain.settle()
            return added

    def accept(self, metadata: Metadata[Any]) -> list[Pending]:
        """Take the signatures that pending metadata was given elsewhere; returns what still waits.

        Raises:
            RepositoryWaitsError: it is not what waits.
        """
        with self._settled() as chain:
            chain.add_signatures(MetadataRole(metadata.signed.type), metadata)
            chain.settle()
            return chain.waiting_list()

    def discard(self, role: MetadataRole) -> list[str]:
        """Give up what of `role` waits for signatures, and with a root the change of bundle keys it was for. Returns
        what was given up, in words; empty if there was nothing.
        """
        with self.chain.exclusive():
            chain, keys = self.chain, self.chain.signing_keys
            given_up = [chain.pending_path(role)]
            if role is ROOT and self._bundle_keys_may_go():
                given_up.insert(0, chain.waiting / REVOKED)
                field = chain.current(ROOT).signed.unrecognized_fields[SIGNING_KEY_FIELD]
                if (keys / NEXT_KEY).exists() and public_pem(keys / NEXT_KEY).decode() not in field:
                    given_up.append(keys / NEXT_KEY)  # last: no root that waits lacks its key
            words = {REVOKED: "revocation of bundle keys", NEXT_KEY: "new bundle key, which counted nowhere,"}
            there = [path for path in given_up if path.exists()]
            for path in there:
                path.unlink()
            return [words.get(path.name, f"pending {role}") for path in there]

    def _bundle_keys_may_go(self) -> bool:
        """The root that waits changes the keys of bundles, or there is none that can be read."""
        try:
            coming = self.chain.pending(ROOT)
        except RepositoryDamagedError:
            return True
        now = self.chain.current(ROOT).signed.unrecognized_fields[SIGNING_KEY_FIELD]
        return coming is None or bool(coming.signed.unrecognized_fields.get(SIGNING_KEY_FIELD) != now)

    # --- life ---------------------------------------------------------------------------------------------------------

    def renew(self) -> list[MetadataRole]:
        """Sign again what has less than half of its life left; what offline keys must sign is made ready for them.
        Returns what was renewed.

        Raises:
            RepositoryWaitsError: something will expire unless people sign it; all else was renewed.
        """
        if not self.chain.founded():
            return []
        with self._settled() as chain:
            done, told = [], []
            for role in (ROOT, TARGETS):
                if not self._half_spent(role):
                    continue
                if chain.pending(role) is None:
                    chain.propose(chain.current(role), role)
                    chain.settle()
                if (pending := chain.pending(role)) is None:
                    done.append(role)
                elif self._days_left(role) <= ALERT_DAYS[0]:
                    expires = chain.current(role).signed.expires
                    told.append(f"{role} expires on {expires:%Y-%m-%d}; {chain.missing(role, pending)}")
            if self._stale():
                chain.advance()
                done.append(TIMESTAMP)
            if told:
                raise RepositoryWaitsError(
                    f"{' and '.join(told)}: sign what lies in {chain.waiting} (runbook, Keys), or no device updates"
                )
            return done

    def renewal_due(self) -> str | None:
        """The digest of what `renew` would do or tell now; None while all is fresh or nothing is on offer. It changes
        each day, so what failed is tried again; while only offline keys are missed, on each of `ALERT_DAYS`.
        """
        if not self.chain.founded():
            return None
        with self.chain.exclusive():
            chain = self.chain
            due: dict[str, Any] = {}
            today = self._now.date().isoformat()
            if not chain.current(TARGETS).signed.targets and chain.pending(TARGETS) is None:
                return None
            if self._stale():
                timestamp = chain.current(TIMESTAMP).signed
                due["timestamp"] = [timestamp.version, timestamp.expires.isoformat(), today]
            for role in (ROOT, TARGETS):
                if self._half_spent(role):
                    waits = chain.pending(role) is not None
                    told = [days for days in ALERT_DAYS if self._days_left(role) <= days] if waits else []
                    if not waits or told:
                        due[role] = [chain.current(role).signed.version, *(told if waits else [today])]
            return digest(due) if due else None

    def _stale(self) -> bool:
        return any(self._half_spent(role) for role in ONLINE)

    def _half_spent(self, role: MetadataRole) -> bool:
        left: timedelta = self.chain.current(role).signed.expires - self._now
        return left <= self.chain.policy.rule(role).lifetime / 2

    def _days_left(self, role: MetadataRole) -> float:
        left: timedelta = self.chain.current(role).signed.expires - self._now
        return left / timedelta(days=1)


def _offers(targets: Metadata[Any], name: str, custom: dict[str, str]) -> bool:
    """Whether that bundle, with that signature, is among `targets`."""
    found = targets.signed.targets.get(name)
    return found is not None and found.custom == custom
