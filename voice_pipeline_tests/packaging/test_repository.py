"""The update repository: what was published stays offered, whatever moment the publisher dies at."""

from __future__ import annotations

import shutil
from datetime import timedelta

import pytest

from voice_pipeline.packaging.archive import pack
from voice_pipeline.packaging.errors import RepositoryDamagedError
from voice_pipeline.packaging.metadata_chain import TARGETS
from voice_pipeline.packaging.repository import UpdateRepository
from voice_pipeline_tests.packaging.publisher import NEW, OLD, Killed, home, in_force, killed_after, offer, signed

__all__ = ["home", "signed"]


def test_publishing_twice_changes_nothing_the_second_time(home, signed, clock) -> None:  # type: ignore[no-untyped-def]
    first = offer(home, clock.now(), signed[1], OLD)
    before = sorted(path.name for path in (home.tuf / "repository").rglob("*"))
    assert offer(home, clock.now(), signed[1], OLD) == first
    assert sorted(path.name for path in (home.tuf / "repository").rglob("*")) == before


def test_archive_of_equal_bundles_has_equal_bytes(home, signed) -> None:  # type: ignore[no-untyped-def]
    for name in ("x.tar.xz", "x.tar"):
        assert pack(home.bundles / OLD, name) == pack(signed[0].bundles / OLD, name)


def test_a_bundle_on_offer_under_its_former_name_keeps_it_for_apps_that_know_no_other(home, signed, clock) -> None:  # type: ignore[no-untyped-def]
    offer(home, clock.now(), signed[1], OLD)
    chain = UpdateRepository(home, clock.now()).chain
    with chain.exclusive():
        targets = chain.current(TARGETS)
        file = targets.signed.targets.pop(f"{OLD}.tar.xz")
        targets.signed.targets[f"{OLD}.tar"] = file
        chain.propose(targets, TARGETS)
        chain.settle()
    assert offer(home, clock.now(), signed[1], OLD).in_force
    repository = UpdateRepository(home, clock.now())
    assert set(in_force(repository)[1].signed.targets) == {f"{OLD}.tar"}
    assert repository.withdraw(OLD)
    assert repository.published() == {}


def test_publisher_killed_at_any_write_leaves_the_former_offer_and_can_publish_again(
    home, signed, clock, monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    offer(home, clock.now(), signed[1], OLD)
    shutil.copytree(home.root, home.root.with_name("before"))
    for survived in range(5):  # archive, pending targets, targets, snapshot, timestamp
        shutil.rmtree(home.root)
        shutil.copytree(home.root.with_name("before"), home.root)
        with killed_after(survived, monkeypatch), pytest.raises(Killed):
            offer(home, clock.now(), signed[1], NEW)
        repository = UpdateRepository(home, clock.now())
        assert set(in_force(repository)[1].signed.targets) == {f"{OLD}.tar.xz"}
        assert offer(home, clock.now(), signed[1], NEW).in_force
        assert set(in_force(repository)[1].signed.targets) == {f"{OLD}.tar.xz", f"{NEW}.tar.xz"}
        assert repository.pending() == []


def test_founding_killed_at_any_write_is_finished_later_with_the_same_root(home, clock, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    roots = set()
    for survived in (0, 1, 1, 2):  # root, targets, snapshot, timestamp; the root, once made, is not made again
        with killed_after(survived, monkeypatch), pytest.raises(Killed):
            UpdateRepository(home, clock.now()).trusted_root()
        roots |= {path.read_bytes() for path in (home.tuf / "repository" / "metadata").glob("1.root.json")}
    roots.add(UpdateRepository(home, clock.now()).trusted_root())
    assert len(roots) == 1
    in_force(UpdateRepository(home, clock.now()))


def test_withdrawn_bundle_is_offered_no_more(home, signed, clock) -> None:  # type: ignore[no-untyped-def]
    offer(home, clock.now(), signed[1], OLD)
    offer(home, clock.now(), signed[1], NEW)
    repository = UpdateRepository(home, clock.now())
    assert repository.withdraw(NEW)
    assert not repository.withdraw(NEW)
    assert set(repository.published()) == {OLD}


def test_timestamp_is_renewed_in_the_second_half_of_its_life_and_not_before(home, signed, clock) -> None:  # type: ignore[no-untyped-def]
    offer(home, clock.now(), signed[1], OLD)
    clock.advance(timedelta(days=14))
    assert not UpdateRepository(home, clock.now()).renew()
    clock.advance(timedelta(days=2))
    assert UpdateRepository(home, clock.now()).renew()
    snapshot, targets = in_force(UpdateRepository(home, clock.now()))
    assert snapshot.signed.expires == clock.now() + timedelta(days=30)
    assert set(targets.signed.targets) == {f"{OLD}.tar.xz"}


def test_private_keys_are_never_inside_the_served_folder(home, signed, clock) -> None:  # type: ignore[no-untyped-def]
    offer(home, clock.now(), signed[1], OLD)
    served = b"".join(path.read_bytes() for path in (home.tuf / "repository").rglob("*") if path.is_file())
    assert b"PRIVATE" not in served


def test_damaged_metadata_and_keys_are_told_plainly(home, signed, clock) -> None:  # type: ignore[no-untyped-def]
    offer(home, clock.now(), signed[1], OLD)
    repository = UpdateRepository(home, clock.now())
    intact = (repository.metadata / "timestamp.json").read_bytes()
    (repository.metadata / "timestamp.json").write_bytes(intact[:50])
    with pytest.raises(RepositoryDamagedError, match="restore"):
        repository.published()
    (repository.metadata / "timestamp.json").write_bytes(intact)
    (home.keys / "online" / "snapshot-1.key").write_bytes(b"nonsense")
    with pytest.raises(RepositoryDamagedError, match="snapshot"):
        offer(home, clock.now(), signed[1], NEW)
    assert set(in_force(repository)[1].signed.targets) == {f"{OLD}.tar.xz"}
