"""Keys come and go; what is in force verifies after every write, and whoever has too few keys changes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root

from voice_pipeline.packaging import rotation
from voice_pipeline.packaging.errors import BundleConflictError, RepositoryDamagedError, RepositoryWaitsError
from voice_pipeline.packaging.keys import make_key
from voice_pipeline.packaging.metadata_chain import ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from voice_pipeline.packaging.offline import sign_file
from voice_pipeline.packaging.repository import UpdateRepository
from voice_pipeline.packaging.rotation import UnknownKeyError, revoke_signing, rotate, rotate_signing
from voice_pipeline.packaging.signing import PRIVATE_KEY, public_pem, signing_public_key
from voice_pipeline.schema.delivery_policy import MetadataRole
from voice_pipeline.schema.publication import SIGNING_KEY_FIELD
from voice_pipeline.settings import Settings
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.trust import SignatureRefusedError, verify_bundle
from voice_pipeline_tests.packaging.publisher import NEW, OLD, Killed, home, in_force, killed_after, offer, signed

__all__ = ["home", "signed"]

EVERY_ROLE = pytest.mark.parametrize("role", list(MetadataRole))


@pytest.fixture
def offering(home: Settings, signed, clock: ManualClock) -> Settings:  # type: ignore[no-untyped-def]
    """OLD is on offer."""
    offer(home, clock.now(), signed[1], OLD)
    return home


def root_of(settings: Settings, clock: ManualClock) -> Metadata[Root]:
    chain = UpdateRepository(settings, clock.now()).chain
    return chain.current(ROOT)


def roots_follow_each_other(settings: Settings) -> int:
    """Walk from the first root as a device does; the number of the last."""
    folder = settings.tuf / "repository" / "metadata"
    root = Metadata[Root].from_file(str(folder / "1.root.json"))
    while (path := folder / f"{root.signed.version + 1}.root.json").exists():
        coming = Metadata[Root].from_file(str(path))
        root.signed.verify_delegate("root", coming.signed_bytes, coming.signatures)
        coming.signed.verify_delegate("root", coming.signed_bytes, coming.signatures)
        root = coming
    return root.signed.version


def holds(settings: Settings, clock: ManualClock) -> None:
    """What is in force verifies from the first root on, and offers OLD."""
    roots_follow_each_other(settings)
    assert f"{OLD}.tar.xz" in in_force(UpdateRepository(settings, clock.now()))[1].signed.targets


@EVERY_ROLE
def test_the_oldest_key_of_a_role_goes_and_a_new_one_comes(offering: Settings, clock: ManualClock, role) -> None:  # type: ignore[no-untyped-def]
    before = root_of(offering, clock).signed.roles[role].keyids
    assert rotate(offering, clock.now(), role) == []
    after = root_of(offering, clock).signed.roles[role]
    assert after.keyids[:-1] == before[1:]
    assert after.keyids[-1] not in before
    assert after.threshold == UpdateRepository(offering, clock.now()).chain.policy.rule(role).threshold
    assert roots_follow_each_other(offering) == 2
    holds(offering, clock)


def with_policy(settings: Settings, text: str) -> Settings:
    """The same home under another `policy/delivery.yaml`."""
    folder = settings.root.with_name("policy")
    folder.mkdir(exist_ok=True)
    (folder / "delivery.yaml").write_text(text)
    return settings.model_copy(update={"policy_dir": folder})


ONE_KEY = "root: {keys: 1, threshold: 1, days: 365}\ntargets: {keys: 1, threshold: 1, days: 365}\n"


@pytest.mark.parametrize("before", ["{}", ONE_KEY], ids=["policy", "one key"])
@pytest.mark.parametrize("after", ["{}", ONE_KEY], ids=["policy", "one key"])
@EVERY_ROLE
def test_rotation_killed_at_any_write_leaves_all_in_force_and_repeating_finishes_it(
    home: Settings,
    signed,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    role: MetadataRole,
    before: str,
    after: str,
) -> None:  # type: ignore[no-untyped-def]
    offer(with_policy(home, before), clock.now(), signed[1], OLD)
    offering = with_policy(home, after)
    shutil.copytree(offering.root, offering.root.with_name("before"))
    survived = 0
    while True:
        shutil.rmtree(offering.root)
        shutil.copytree(offering.root.with_name("before"), offering.root)
        with killed_after(survived, monkeypatch):
            try:
                rotate(offering, clock.now(), role)
                break
            except Killed:
                holds(offering, clock)
        assert rotate(offering, clock.now(), role) == []
        holds(offering, clock)
        assert roots_follow_each_other(offering) == 2, "repeating finished the rotation and began no other"
        survived += 1
    assert survived >= 2


def test_targets_discarded_while_a_root_waits_for_them_are_proposed_again(
    offering: Settings, clock: ManualClock
) -> None:
    shutil.move(offering.keys / "offline", offering.root / "stick")
    made = make_key(offering.root / "stick", TARGETS).with_suffix(".pub")
    one = with_policy(offering, ONE_KEY)
    assert len(rotate(one, clock.now(), TARGETS, public_keys=[made])) == 2
    repository = UpdateRepository(one, clock.now())
    assert repository.discard(TARGETS)
    with pytest.raises(RepositoryWaitsError, match="no key of root or targets that counts"):
        repository.sign()
    assert [pending.role for pending in repository.pending()] == [ROOT, TARGETS]
    for waiting in repository.pending():
        sign_file(waiting.path, offering.root / "stick")
    assert repository.sign() == 0, "the file was signed where it lies"
    assert repository.pending() == []
    holds(one, clock)
    assert roots_follow_each_other(one) == 2


def test_a_key_can_be_named_and_an_unknown_one_is_refused(offering: Settings, clock: ManualClock) -> None:
    second = root_of(offering, clock).signed.roles["root"].keyids[1]
    rotate(offering, clock.now(), ROOT, key_id=second[:10])
    assert second not in root_of(offering, clock).signed.roles["root"].keyids
    with pytest.raises(UnknownKeyError, match="status"):
        rotate(offering, clock.now(), ROOT, key_id="0123456789")


def test_a_changed_policy_takes_effect_when_the_role_is_rotated(
    offering: Settings, clock: ManualClock, tmp_path: Path
) -> None:
    (tmp_path / "delivery.yaml").write_text("targets: {keys: 4, threshold: 3, days: 200}\n")
    stricter = offering.model_copy(update={"policy_dir": tmp_path})
    rotate(stricter, clock.now(), TARGETS)
    role = root_of(stricter, clock).signed.roles["targets"]
    assert (len(role.keyids), role.threshold) == (4, 3)
    holds(stricter, clock)
    (tmp_path / "delivery.yaml").write_text("targets: {keys: 1, threshold: 1, days: 200}\n")
    rotate(stricter, clock.now(), TARGETS)
    assert len(root_of(stricter, clock).signed.roles["targets"].keyids) == 1
    holds(stricter, clock)


def test_a_home_of_before_keys_were_numbered_goes_on_and_rotates_into_the_policy(
    home: Settings, signed, clock: ManualClock, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    """One key a role, `root.key` and so on, each signing alone."""
    one = "{keys: 1, threshold: 1, days: 365}"
    (tmp_path / "delivery.yaml").write_text(f"root: {one}\ntargets: {one}\n")
    before = home.model_copy(update={"policy_dir": tmp_path})
    offer(before, clock.now(), signed[1], OLD)
    for path in [*home.keys.glob("online/*.key"), *home.keys.glob("offline/*.key")]:
        path.rename(path.with_name(path.name.replace("-1", "")))
    assert offer(home, clock.now(), signed[1], NEW).in_force
    for role in MetadataRole:
        assert rotate(home, clock.now(), role) == []
    held = root_of(home, clock).signed.roles
    assert (len(held["root"].keyids), held["root"].threshold) == (3, 2)
    holds(home, clock)


def test_a_root_with_too_few_signatures_of_the_former_keys_never_comes_into_force(
    offering: Settings, clock: ManualClock, tmp_path: Path
) -> None:
    """Two of the three root keys are gone: whoever holds the third cannot make a root."""
    for number in (1, 2):
        (offering.keys / "offline" / f"root-{number}.key").rename(tmp_path / f"root-{number}.key")
    waiting = rotate(offering, clock.now(), ROOT)
    assert [pending.missing for pending in waiting] == ["1 of 2 former root keys have signed"]
    assert roots_follow_each_other(offering) == 1
    assert UpdateRepository(offering, clock.now()).sign() == 0, "the key here has signed before"
    assert UpdateRepository(offering, clock.now()).pending() == waiting
    with pytest.raises(RepositoryWaitsError):
        UpdateRepository(offering, clock.now()).accept(Metadata(root_of(offering, clock).signed))
    sign_file(waiting[0].path, tmp_path)
    assert UpdateRepository(offering, clock.now()).sign() == 0
    assert UpdateRepository(offering, clock.now()).pending() == []
    assert roots_follow_each_other(offering) == 2


def test_lost_online_keys_are_replaced_without_them(offering: Settings, signed, clock: ManualClock) -> None:  # type: ignore[no-untyped-def]
    """And what was to be published meanwhile waits for that."""
    for role in (SNAPSHOT, TIMESTAMP):
        (offering.keys / "online" / f"{role}-1.key").unlink()
        publication = offer(offering, clock.now(), signed[1], NEW)
        assert not publication.in_force
        assert f"repository rotate {role}" in publication.waits_for
        with pytest.raises(RepositoryDamagedError, match=f"repository rotate {role}"):
            UpdateRepository(offering, clock.now() + timedelta(days=20)).renew()
        assert rotate(offering, clock.now(), role) == []
        holds(offering, clock)
        assert UpdateRepository(offering, clock.now()).withdraw(NEW)


def test_lost_targets_keys_are_replaced_without_them(offering: Settings, clock: ManualClock) -> None:
    for number in (1, 2):
        (offering.keys / "offline" / f"targets-{number}.key").unlink()
    made = [make_key(offering.keys / "offline", TARGETS).with_suffix(".pub") for _ in range(2)]
    second = root_of(offering, clock).signed.roles["targets"].keyids[1]
    rotate(offering, clock.now(), TARGETS, public_keys=made[:1])
    rotate(offering, clock.now(), TARGETS, key_id=second, public_keys=made[1:])
    holds(offering, clock)


def test_a_new_bundle_key_is_named_first_and_the_former_one_still_counts(
    offering: Settings, signed, clock: ManualClock
) -> None:  # type: ignore[no-untyped-def]
    former = signing_public_key(offering.keys)
    assert rotate_signing(offering, clock.now()) == []
    trusted = signing_public_key(offering.keys)
    assert trusted.endswith(former)
    assert trusted.startswith(public_pem(offering.keys / PRIVATE_KEY))
    assert trusted != former
    assert root_of(offering, clock).signed.unrecognized_fields[SIGNING_KEY_FIELD] == trusted.decode()
    verify_bundle(offering.bundles / OLD, trusted)
    with pytest.raises(SignatureRefusedError):
        verify_bundle(offering.bundles / OLD, public_pem(offering.keys / PRIVATE_KEY))


def test_a_new_bundle_key_half_taken_into_use_is_taken_into_use_the_next_time(
    offering: Settings, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the public file and the private one."""
    monkeypatch.setattr(Path, "replace", _refusing(Path.replace, PRIVATE_KEY))
    with pytest.raises(Killed):
        rotate_signing(offering, clock.now())
    monkeypatch.undo()
    trusted = signing_public_key(offering.keys)
    assert trusted.count(b"BEGIN") == 2
    verify_bundle(offering.bundles / OLD, trusted)
    assert rotate_signing(offering, clock.now()) == []
    assert signing_public_key(offering.keys).endswith(trusted)


def _refusing(replace: Callable[[Path, Path], Path], name: str) -> Callable[[Path, Path], Path]:
    def dying(source: Path, target: Path) -> Path:
        if Path(target).name == name:
            raise Killed
        return replace(source, target)

    return dying


def test_revoking_the_bundle_key_signs_everything_on_offer_anew_and_changes_no_digest(
    offering: Settings, signed, clock: ManualClock
) -> None:  # type: ignore[no-untyped-def]
    before = UpdateRepository(offering, clock.now()).published()[OLD]
    former = signing_public_key(offering.keys)
    assert revoke_signing(offering, clock.now()) == []
    trusted = signing_public_key(offering.keys)
    assert former not in trusted
    assert root_of(offering, clock).signed.unrecognized_fields[SIGNING_KEY_FIELD] == trusted.decode()
    assert verify_bundle(offering.bundles / OLD, trusted).digest == before["bundle_digest"]
    after = UpdateRepository(offering, clock.now()).published()[OLD]
    assert after["bundle_digest"] == before["bundle_digest"]
    assert after["archive_sha256"] != before["archive_sha256"]
    assert not rotation.revocation_begun(offering)


def test_revocation_killed_at_any_write_never_leaves_a_bundle_that_devices_would_refuse(
    offering: Settings, signed, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    shutil.copytree(offering.root, offering.root.with_name("before"))
    former = signing_public_key(offering.keys)
    survived = 0
    while True:
        shutil.rmtree(offering.root)
        shutil.copytree(offering.root.with_name("before"), offering.root)
        with killed_after(survived, monkeypatch):
            try:
                revoke_signing(offering, clock.now())
                break
            except Killed:
                holds(offering, clock)
                offered_bundle_verifies(offering, clock)
        revoke_signing(offering, clock.now())
        holds(offering, clock)
        offered_bundle_verifies(offering, clock)
        assert former not in signing_public_key(offering.keys)
        assert not rotation.revocation_begun(offering)
        survived += 1
    assert survived >= 10


def offered_bundle_verifies(settings: Settings, clock: ManualClock) -> None:
    """The archive on offer holds a signature by a key that the root in force names."""
    from voice_pipeline.device.archive import unpack

    sha256 = UpdateRepository(settings, clock.now()).published()[OLD]["archive_sha256"]
    into = settings.root / "unpacked"
    shutil.rmtree(into, ignore_errors=True)
    unpack(settings.tuf / "repository" / "targets" / f"{sha256}.{OLD}.tar.xz", into, OLD)
    named = root_of(settings, clock).signed.unrecognized_fields[SIGNING_KEY_FIELD].encode()
    verify_bundle(into / OLD, named)
    shutil.rmtree(into)


def test_a_bundle_changed_on_disk_is_not_signed_anew(offering: Settings, clock: ManualClock) -> None:
    """Who stole the key may have been in the folder, too."""
    (offering.bundles / OLD / "model.onnx").write_bytes(b"evil")
    with pytest.raises(BundleConflictError, match="no longer verifies"):
        revoke_signing(offering, clock.now())
    assert rotation.revocation_begun(offering)


def test_one_root_at_a_time(offering: Settings, clock: ManualClock) -> None:
    shutil.move(offering.keys / "offline", offering.root / "stick")
    key = make_key(offering.root / "elsewhere", ROOT).with_suffix(".pub")
    assert rotate(offering, clock.now(), ROOT, public_keys=[key])
    waiting = UpdateRepository(offering, clock.now()).pending()
    bytes_before = waiting[0].path.read_bytes()
    assert rotate(offering, clock.now(), ROOT, public_keys=[key]) == waiting, "the same again goes on"
    other = make_key(offering.root / "elsewhere", ROOT).with_suffix(".pub")
    kept = root_of(offering, clock).signed.roles["root"].keyids[1]
    for role, key_id, given in (
        (SNAPSHOT, None, []),
        (TARGETS, None, []),
        (ROOT, None, [other]),
        (ROOT, kept, [key]),
    ):
        with pytest.raises(RepositoryWaitsError, match=f"root 2 waits for another .*; {role} was NOT rotated"):
            rotate(offering, clock.now(), role, key_id, given)
    for change_of_bundle_keys in (rotate_signing, revoke_signing):
        with pytest.raises(RepositoryWaitsError, match="signing was NOT rotated"):
            change_of_bundle_keys(offering, clock.now())
    assert not rotation.revocation_begun(offering)
    assert waiting[0].path.read_bytes() == bytes_before
    assert UpdateRepository(offering, clock.now()).discard(ROOT)
    assert rotate(offering, clock.now(), SNAPSHOT), "the root keys are not here"
    pending = Metadata[Root].from_file(str(waiting[0].path))
    with pytest.raises(UnsignedMetadataError):
        root_of(offering, clock).signed.verify_delegate("root", pending.signed_bytes, pending.signatures)


def test_a_publication_while_a_rotation_waits_is_not_held_up(offering: Settings, signed, clock: ManualClock) -> None:  # type: ignore[no-untyped-def]
    for number in (1, 2, 3):
        (offering.keys / "offline" / f"root-{number}.key").rename(offering.root / f"root-{number}.key")
    assert rotate(offering, clock.now(), SNAPSHOT)
    clock.advance(timedelta(hours=1))
    assert offer(offering, clock.now(), signed[1], NEW).in_force
