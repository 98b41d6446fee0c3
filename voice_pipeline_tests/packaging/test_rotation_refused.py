"""What a rotation or its discard must not do: be dropped in silence, make a key in the wrong place, come back."""

from __future__ import annotations

import shutil

import pytest

from voice_pipeline.packaging import rotation
from voice_pipeline.packaging.errors import RepositoryWaitsError
from voice_pipeline.packaging.keys import make_key
from voice_pipeline.packaging.metadata_chain import ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from voice_pipeline.packaging.offline import sign_file
from voice_pipeline.packaging.repository import UpdateRepository
from voice_pipeline.packaging.rotation import UnknownKeyError, revoke_signing, rotate
from voice_pipeline.packaging.signing import NEXT_KEY, signing_public_key
from voice_pipeline.packaging.status import repository_status
from voice_pipeline.settings import Settings
from voice_pipeline.store.clock import ManualClock
from voice_pipeline_tests.packaging.publisher import Killed, home, killed_after, signed
from voice_pipeline_tests.packaging.test_rotation import holds, offering, root_of, roots_follow_each_other

__all__ = ["home", "offering", "signed"]


def test_a_rotation_that_finds_another_one_killed_finishes_it_and_then_does_its_own(
    offering: Settings, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = root_of(offering, clock).signed.roles
    with killed_after(1, monkeypatch), pytest.raises(Killed):
        rotate(offering, clock.now(), SNAPSHOT)
    assert [pending.role for pending in UpdateRepository(offering, clock.now()).pending()] == [ROOT]
    assert rotate(offering, clock.now(), TIMESTAMP) == []
    after = root_of(offering, clock).signed.roles
    for role in (SNAPSHOT, TIMESTAMP):
        assert after[role].keyids != before[role].keyids
    holds(offering, clock)


def test_with_only_retired_keys_here_no_new_offline_key_is_made_or_taken(
    offering: Settings, clock: ManualClock
) -> None:
    folder = offering.keys / "offline"
    retired = root_of(offering, clock).signed.roles["root"].keyids[0]
    assert rotate(offering, clock.now(), ROOT) == []
    for path in folder.glob("root-*.key"):
        if path.name != "root-1.key":
            path.rename(offering.root / path.name)
    assert UpdateRepository(offering, clock.now()).chain.keys.files(ROOT) == {retired: "root-1.key"}
    with pytest.raises(RepositoryWaitsError, match="--public-key"):
        rotate(offering, clock.now(), ROOT)
    assert [path.name for path in folder.glob("root-*.key")] == ["root-1.key"]
    make_key(folder, ROOT)
    with pytest.raises(RepositoryWaitsError, match="--public-key"):
        rotate(offering, clock.now(), ROOT)
    (offering.root / "root-4.key").rename(folder / "root-4.key")
    assert rotate(offering, clock.now(), ROOT), "one key that counts is here; another has to sign, too"


def test_new_keys_beyond_what_the_policy_asks_for_are_refused(offering: Settings, clock: ManualClock) -> None:
    made = [make_key(offering.root / "elsewhere", ROOT).with_suffix(".pub") for _ in range(2)]
    with pytest.raises(UnknownKeyError, match="one too many"):
        rotate(offering, clock.now(), ROOT, public_keys=made)
    assert roots_follow_each_other(offering) == 1


def test_a_revocation_that_is_discarded_does_not_come_back(offering: Settings, clock: ManualClock) -> None:
    shutil.move(offering.keys / "offline", offering.root / "stick")
    former = signing_public_key(offering.keys)
    assert revoke_signing(offering, clock.now())
    repository = UpdateRepository(offering, clock.now())
    assert repository_status(repository).revoking
    assert len(repository.discard(ROOT)) == 3, "the intent, the root, the key"
    assert not repository_status(repository).revoking
    assert not (offering.keys / NEXT_KEY).exists()
    assert rotation.continue_revocation(offering, clock.now()) == []
    assert signing_public_key(offering.keys) == former
    assert repository.discard(ROOT) == []


def test_discarding_a_root_that_changes_no_bundle_key_leaves_a_revocation_alone(
    offering: Settings, clock: ManualClock
) -> None:
    shutil.move(offering.keys / "offline", offering.root / "stick")
    revoke_signing(offering, clock.now())
    repository = UpdateRepository(offering, clock.now())
    for waiting in repository.pending():
        sign_file(waiting.path, offering.root / "stick")
    repository.sign()
    assert [pending.role for pending in rotation.continue_revocation(offering, clock.now())] == [TARGETS]
    assert ROOT in [pending.role for pending in rotate(offering, clock.now(), SNAPSHOT)]
    assert repository.discard(ROOT) == ["pending root"]
    assert rotation.revocation_begun(offering)
