"""The update repository: what was published stays offered, whatever moment the publisher dies at."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from voice_pipeline.packaging import metadata_chain, repository, rotation, signing
from voice_pipeline.packaging.archive import pack
from voice_pipeline.packaging.errors import RepositoryDamagedError
from voice_pipeline.packaging.metadata_chain import TARGETS
from voice_pipeline.packaging.repository import Publication, UpdateRepository
from voice_pipeline.schema.bundle import BundleManifest
from voice_pipeline.settings import Settings, load_settings
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.clock import ManualClock
from voice_pipeline_tests.packaging.small_models import sign_small_bundle

NEW = "m-20261102-000000b2"
OLD = "m-20261102-000000b1"


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, dict[str, BundleManifest]]:
    settings = load_settings(tmp_path_factory.mktemp("repository"))
    return settings, {name: sign_small_bundle(settings, name, seed) for seed, name in enumerate((OLD, NEW))}


@pytest.fixture
def home(signed: tuple[Settings, dict[str, BundleManifest]], tmp_path: Path) -> Settings:
    """A copy of the signed bundles and their keys, with no repository yet."""
    shutil.copytree(signed[0].root, tmp_path / "home")
    return load_settings(tmp_path / "home")


def now(clock: ManualClock) -> datetime:
    return clock.now()


def offer(settings: Settings, at: datetime, manifests: dict[str, BundleManifest], name: str) -> Publication:
    return UpdateRepository(settings, at).publish(settings.bundles / name, manifests[name])


def in_force(repository: UpdateRepository) -> tuple[Metadata[Snapshot], Metadata[Targets]]:
    """Follow the chain of trust as a client does, checking every signature."""
    versions = [int(path.name.split(".")[0]) for path in repository.metadata.glob("*.root.json")]
    root = Metadata[Root].from_file(str(repository.metadata / f"{max(versions)}.root.json")).signed
    timestamp = Metadata[Timestamp].from_file(str(repository.metadata / "timestamp.json"))
    root.verify_delegate("timestamp", timestamp.signed_bytes, timestamp.signatures)
    version = timestamp.signed.snapshot_meta.version
    snapshot = Metadata[Snapshot].from_file(str(repository.metadata / f"{version}.snapshot.json"))
    root.verify_delegate("snapshot", snapshot.signed_bytes, snapshot.signatures)
    version = snapshot.signed.meta["targets.json"].version
    targets = Metadata[Targets].from_file(str(repository.metadata / f"{version}.targets.json"))
    root.verify_delegate("targets", targets.signed_bytes, targets.signatures)
    return snapshot, targets


def test_publishing_twice_changes_nothing_the_second_time(home, signed, clock) -> None:  # type: ignore[no-untyped-def]
    first = offer(home, now(clock), signed[1], OLD)
    before = sorted(path.name for path in (home.tuf / "repository").rglob("*"))
    assert offer(home, now(clock), signed[1], OLD) == first
    assert sorted(path.name for path in (home.tuf / "repository").rglob("*")) == before


def test_archive_of_equal_bundles_has_equal_bytes(home, signed) -> None:  # type: ignore[no-untyped-def]
    for name in ("x.tar.xz", "x.tar"):
        assert pack(home.bundles / OLD, name) == pack(signed[0].bundles / OLD, name)


def test_a_bundle_on_offer_under_its_former_name_keeps_it_for_apps_that_know_no_other(home, signed, clock) -> None:  # type: ignore[no-untyped-def]
    offer(home, now(clock), signed[1], OLD)
    chain = UpdateRepository(home, now(clock)).chain
    with chain.exclusive():
        targets = chain.current(TARGETS)
        file = targets.signed.targets.pop(f"{OLD}.tar.xz")
        targets.signed.targets[f"{OLD}.tar"] = file
        chain.propose(targets, TARGETS)
        chain.settle()
    assert offer(home, now(clock), signed[1], OLD).in_force
    repository = UpdateRepository(home, now(clock))
    assert set(in_force(repository)[1].signed.targets) == {f"{OLD}.tar"}
    assert repository.withdraw(OLD)
    assert repository.published() == {}


class _Killed(BaseException):
    pass


@contextmanager
def killed_after(writes: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The publisher's process dies instead of doing write number `writes` + 1."""
    left = [writes]

    def dying(path: Path, data: bytes) -> None:
        if left[0] == 0:
            raise _Killed
        left[0] -= 1
        write_atomically(path, data)

    with monkeypatch.context() as patched:
        for module in (metadata_chain, repository, signing, rotation):
            patched.setattr(module, "write_atomically", dying)
        yield


def test_publisher_killed_at_any_write_leaves_the_former_offer_and_can_publish_again(
    home, signed, clock, monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    offer(home, now(clock), signed[1], OLD)
    shutil.copytree(home.root, home.root.with_name("before"))
    for survived in range(5):  # archive, pending targets, targets, snapshot, timestamp
        shutil.rmtree(home.root)
        shutil.copytree(home.root.with_name("before"), home.root)
        with killed_after(survived, monkeypatch), pytest.raises(_Killed):
            offer(home, now(clock), signed[1], NEW)
        repository = UpdateRepository(home, now(clock))
        assert set(in_force(repository)[1].signed.targets) == {f"{OLD}.tar.xz"}
        assert offer(home, now(clock), signed[1], NEW).in_force
        assert set(in_force(repository)[1].signed.targets) == {f"{OLD}.tar.xz", f"{NEW}.tar.xz"}
        assert repository.pending() == []


def test_founding_killed_at_any_write_is_finished_later_with_the_same_root(home, clock, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    roots = set()
    for survived in (0, 1, 1, 2):  # root, targets, snapshot, timestamp; the root, once made, is not made again
        with killed_after(survived, monkeypatch), pytest.raises(_Killed):
            UpdateRepository(home, now(clock)).trusted_root()
        roots |= {path.read_bytes() for path in (home.tuf / "repository" / "metadata").glob("1.root.json")}
    roots.add(UpdateRepository(home, now(clock)).trusted_root())
    assert len(roots) == 1
    in_force(UpdateRepository(home, now(clock)))


def test_withdrawn_bundle_is_offered_no_more(home, signed, clock) -> None:  # type: ignore[no-untyped-def]
    offer(home, now(clock), signed[1], OLD)
    offer(home, now(clock), signed[1], NEW)
    repository = UpdateRepository(home, now(clock))
    assert repository.withdraw(NEW)
    assert not repository.withdraw(NEW)
    assert set(repository.published()) == {OLD}


def test_timestamp_is_renewed_in_the_second_half_of_its_life_and_not_before(home, signed, clock) -> None:  # type: ignore[no-untyped-def]
    offer(home, now(clock), signed[1], OLD)
    clock.advance(timedelta(days=14))
    assert not UpdateRepository(home, now(clock)).renew()
    clock.advance(timedelta(days=2))
    assert UpdateRepository(home, now(clock)).renew()
    snapshot, targets = in_force(UpdateRepository(home, now(clock)))
    assert snapshot.signed.expires == now(clock) + timedelta(days=30)
    assert set(targets.signed.targets) == {f"{OLD}.tar.xz"}


def test_private_keys_are_never_inside_the_served_folder(home, signed, clock) -> None:  # type: ignore[no-untyped-def]
    offer(home, now(clock), signed[1], OLD)
    served = b"".join(path.read_bytes() for path in (home.tuf / "repository").rglob("*") if path.is_file())
    assert b"PRIVATE" not in served


def test_damaged_metadata_and_keys_are_told_plainly(home, signed, clock) -> None:  # type: ignore[no-untyped-def]
    offer(home, now(clock), signed[1], OLD)
    repository = UpdateRepository(home, now(clock))
    intact = (repository.metadata / "timestamp.json").read_bytes()
    (repository.metadata / "timestamp.json").write_bytes(intact[:50])
    with pytest.raises(RepositoryDamagedError, match="restore"):
        repository.published()
    (repository.metadata / "timestamp.json").write_bytes(intact)
    (home.keys / "online" / "snapshot-1.key").write_bytes(b"nonsense")
    with pytest.raises(RepositoryDamagedError, match="snapshot"):
        offer(home, now(clock), signed[1], NEW)
    assert set(in_force(repository)[1].signed.targets) == {f"{OLD}.tar.xz"}
