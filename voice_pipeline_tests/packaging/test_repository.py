"""The update repository: what was published stays offered, whatever moment the publisher dies at."""

from __future__ import annotations

import errno
import os
import re
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from voice_pipeline.packaging.archive import pack
from voice_pipeline.packaging.errors import NoRepositoryError, RepositoryDamagedError
from voice_pipeline.packaging.metadata_chain import TARGETS
from voice_pipeline.packaging.repository import UpdateRepository
from voice_pipeline.packaging.signing import private_key, public_pem
from voice_pipeline.packaging.status import repository_status
from voice_pipeline.settings import load_settings
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


@pytest.mark.parametrize(
    "lost", [("metadata/timestamp.json",), ("metadata/timestamp.json", "targets/*"), ("metadata/*",)]
)
def test_lost_metadata_is_told_and_never_founded_again(home, signed, clock, lost) -> None:  # type: ignore[no-untyped-def]
    offer(home, clock.now(), signed[1], OLD)
    repository = UpdateRepository(home, clock.now())
    for path in [path for pattern in lost for path in repository.metadata.parent.glob(pattern)]:
        path.unlink()
    left = sorted(repository.metadata.iterdir())
    for act in (
        *(repository.published, repository.pending, repository.renewal_due, repository.renew, repository.trusted_root),
        lambda: repository_status(repository),
        lambda: offer(home, clock.now(), signed[1], NEW),
    ):
        with pytest.raises(RepositoryDamagedError, match="has lost timestamp"):
            act()
    assert sorted(repository.metadata.iterdir()) == left


@pytest.mark.parametrize("served", [False, True])
def test_whoever_only_looks_founds_nothing(tmp_path, clock, served) -> None:  # type: ignore[no-untyped-def]
    """`edge serve` makes the folder that it serves."""
    settings = load_settings(tmp_path / "home")
    settings.root.mkdir()
    if served:
        (settings.tuf / "repository").mkdir(parents=True)
    before = sorted(settings.root.rglob("*"))
    repository = UpdateRepository(settings, clock.now())
    with pytest.raises(NoRepositoryError, match="no update repository yet"):
        repository_status(repository)
    with pytest.raises(NoRepositoryError):
        repository.withdraw(OLD)
    assert (repository.published(), repository.entries(), repository.pending()) == ({}, {}, [])
    assert (repository.renew(), repository.renewal_due()) == ([], None)
    assert sorted(settings.root.rglob("*")) == before
    repository.trusted_root()
    assert repository_status(repository).offered == {}


@pytest.mark.parametrize("name", ["timestamp.json", "2.snapshot.json", "2.targets.json", "1.root.json"])
@pytest.mark.parametrize("harm", [None, b"", b"{}", b"\xff", b"[" * 100_000, "another role"])
def test_metadata_that_is_missing_or_no_metadata_is_named(home, signed, clock, name, harm) -> None:  # type: ignore[no-untyped-def]
    offer(home, clock.now(), signed[1], OLD)
    repository = UpdateRepository(home, clock.now())
    path = repository.metadata / name
    if harm is None:
        path.unlink()
    else:
        other = "1.root.json" if name != "1.root.json" else "timestamp.json"
        path.write_bytes((repository.metadata / other).read_bytes() if harm == "another role" else harm)
    with pytest.raises(RepositoryDamagedError, match=re.escape(name)):
        repository_status(repository)


def test_a_renewal_that_failed_is_tried_again_the_next_day(home, signed, clock) -> None:  # type: ignore[no-untyped-def]
    offer(home, clock.now(), signed[1], OLD)
    clock.advance(timedelta(days=16))
    causes = set()
    for _ in range(13):
        causes.add(UpdateRepository(home, clock.now()).renewal_due())
        assert UpdateRepository(home, clock.now() + timedelta(hours=1)).renewal_due() in causes
        clock.advance(timedelta(days=1))
    assert len(causes) == 13
    assert None not in causes


# --- private keys -----------------------------------------------------------------------------------------------------


def without_links(*_: object) -> None:
    """What FAT and exFAT answer to a hard link."""
    raise PermissionError(errno.EPERM, "Operation not permitted")


def test_a_key_is_made_on_a_medium_that_has_no_links(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(os, "link", without_links)
    path = private_key(tmp_path / "stick" / "root-1.key")
    made = path.read_bytes()
    assert public_pem(path).startswith(b"-----BEGIN PUBLIC KEY")
    assert path.stat().st_mode & 0o777 == 0o600
    assert private_key(path).read_bytes() == made
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("linking", [True, False])
def test_of_two_that_make_a_key_at_once_the_first_one_counts(tmp_path, monkeypatch, linking) -> None:  # type: ignore[no-untyped-def]
    path, link = tmp_path / "root-1.key", os.link

    def late(source: Path, target: Path) -> None:
        path.write_bytes(b"the other one's")
        (link if linking else without_links)(source, target)

    monkeypatch.setattr(os, "link", late)
    assert private_key(path).read_bytes() == b"the other one's"
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_that_could_not_be_written_whole_leaves_nothing(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        private_key(tmp_path / "root-1.key")
    assert list(tmp_path.iterdir()) == []
