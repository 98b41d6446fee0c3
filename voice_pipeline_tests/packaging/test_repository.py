"""The update repository: what was published stays offered, whatever moment the publisher dies at."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from voice_pipeline.packaging import repository as module
from voice_pipeline.packaging.errors import RepositoryDamagedError
from voice_pipeline.packaging.repository import ONLINE_LIFETIME, UpdateRepository, pack
from voice_pipeline.schema.bundle import BundleManifest
from voice_pipeline.settings import Settings, load_settings
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


def offer(settings: Settings, at: datetime, manifests: dict[str, BundleManifest], name: str) -> str:
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
    assert pack(home.bundles / OLD) == pack(signed[0].bundles / OLD)


class _Killed(BaseException):
    pass


def test_publisher_killed_at_any_write_leaves_the_former_offer_and_can_publish_again(
    home, signed, clock, monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    offer(home, now(clock), signed[1], OLD)
    write = module.write_atomically
    for survived in range(4):  # archive, targets, snapshot, timestamp
        left = [survived]

        def dying(path: Path, data: bytes, left: list[int] = left) -> None:
            if left[0] == 0:
                raise _Killed
            left[0] -= 1
            write(path, data)

        monkeypatch.setattr(module, "write_atomically", dying)
        with pytest.raises(_Killed):
            offer(home, now(clock), signed[1], NEW)
        monkeypatch.setattr(module, "write_atomically", write)
        repository = UpdateRepository(home, now(clock))
        assert set(in_force(repository)[1].signed.targets) == {f"{OLD}.tar"}
    offer(home, now(clock), signed[1], NEW)
    assert set(in_force(repository)[1].signed.targets) == {f"{OLD}.tar", f"{NEW}.tar"}


def test_founding_killed_at_any_write_is_finished_later_with_the_same_root(home, clock, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    write, roots = module.write_atomically, set()
    for survived in (0, 1, 1, 2):  # root, targets, snapshot, timestamp; the root, once made, is not made again
        left = [survived]

        def dying(path: Path, data: bytes, left: list[int] = left) -> None:
            if left[0] == 0:
                raise _Killed
            left[0] -= 1
            write(path, data)

        monkeypatch.setattr(module, "write_atomically", dying)
        with pytest.raises(_Killed):
            UpdateRepository(home, now(clock)).trusted_root()
        roots |= {path.read_bytes() for path in (home.tuf / "repository" / "metadata").glob("1.root.json")}
    monkeypatch.setattr(module, "write_atomically", write)
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
    assert snapshot.signed.expires == now(clock) + ONLINE_LIFETIME
    assert set(targets.signed.targets) == {f"{OLD}.tar"}


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
    (home.keys / "online" / "snapshot.key").write_bytes(b"nonsense")
    with pytest.raises(RepositoryDamagedError, match="snapshot"):
        offer(home, now(clock), signed[1], NEW)
    assert set(in_force(repository)[1].signed.targets) == {f"{OLD}.tar"}
