"""All keys are lost: everybody is removed, one person begins again, and nobody can ever overlook it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from voice_pipeline.release.controller import tick
from voice_pipeline.release.errors import PersonRefusedError, UnknownPersonError
from voice_pipeline.release.machine import step_of, write_steps
from voice_pipeline.release.people.decisions import approval_of, record_decision, unsigned_decisions
from voice_pipeline.release.people.enrolment import enrol, found_anew, key_file, person_key, remove
from voice_pipeline.release.people.roll import enrolled, enrolments, roll_of
from voice_pipeline.release.people.staffing import tell_untold
from voice_pipeline.release.policy import standing_policy
from voice_pipeline.schema.release import Decision, PersonEvent
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.errors import LedgerConflictError
from voice_pipeline.store.releases import releases_at_head
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import alerts
from voice_pipeline_tests.release.people.test_signed_people import MANAGER, new_key
from voice_pipeline_tests.release.world import FOUNDER, World


@pytest.fixture
def lost(store: Store) -> Store:
    """Two people, and the only key that may enrol is gone."""
    enrol(store, "ann", MANAGER)
    enrol(store, "bob", "speech", by=person_key(store, "ann"))
    key_file(store, "ann").unlink()
    return store


def test_one_person_begins_again_and_all_others_count_no_more(lost: Store) -> None:
    bob = person_key(lost, "bob")
    person, path = found_anew(lost, "eve", MANAGER, "  the laptop\nwas stolen ")
    assert enrolled(lost) == (person,)
    assert [p.removed_seq for p in enrolments(lost)] == [3, 3, None]
    assert path == key_file(lost, "eve")
    with pytest.raises(UnknownPersonError):
        enrol(lost, "mia", "speech", by=bob)
    enrol(lost, "ann", MANAGER, by=person_key(lost, "eve"))
    roll = roll_of(lost)
    assert [p.name for p in roll.here] == ["eve", "ann"]
    assert roll.refused == ()
    (told,) = roll.founded_anew
    assert told.startswith("founded anew at 2026-11-02T09:00 (ledger line 3) with eve (release-manager)")
    assert told.endswith(": the laptop was stolen")


def test_it_is_alerted_once_and_names_who_counts_no_more(lost: Store) -> None:
    policy = standing_policy(lost).policy
    tell_untold(lost, policy)
    found_anew(lost, "eve", MANAGER, "lost")
    tell_untold(lost, policy)
    assert tell_untold(lost, policy) == []
    titles = {row["title"]: row["body"] for row in lost.database.rows(alerts.select())}
    assert titles["people were founded anew: nobody signed for who may decide now"].endswith("no more: ann, bob")


def test_nothing_to_found_anew_no_reason_or_nobody_who_could_enrol_is_refused(store: Store) -> None:
    with pytest.raises(PersonRefusedError, match="nobody is enrolled here yet"):
        found_anew(store, "eve", MANAGER, "lost")
    enrol(store, "ann", MANAGER)
    key_file(store, "ann").rename(key_file(store, "away"))
    for reason in ("", " \n"):
        with pytest.raises(PersonRefusedError, match="needs a reason"):
            found_anew(store, "eve", MANAGER, reason)
    with pytest.raises(PersonRefusedError, match="would be the only one and may not enrol"):
        found_anew(store, "eve", "speech", "lost")
    with pytest.raises(PersonRefusedError, match="that of ann"):
        found_anew(store, "eve", MANAGER, "lost", enrolled(store)[0].public_key.encode())
    assert store.ledger.head() == 1
    assert not key_file(store, "eve").exists()


@pytest.mark.parametrize("where", ["at its place", "beside it", "named by the environment"])
def test_while_a_key_that_may_enrol_signs_it_is_not_lost(store: Store, tmp_path: Path, where: str) -> None:
    """Whoever founds anew, under whatever name, with whatever key."""
    person, path = enrol(store, "ann", MANAGER)
    enrol(store, "bob", "speech", by=person_key(store, "ann"))
    assert path is not None
    if where == "beside it":
        path = path.rename(path.with_name(f"ann.{person.fingerprint[:16]}.new"))
    elif where == "named by the environment":
        path = path.rename(tmp_path / "ann.pem")
        store = Store.open(store.settings.model_copy(update={"person_key": path}), store.clock)
    before = path.read_bytes(), store.ledger.head()
    for name, public in (("ann", None), ("eve", None), ("eve", new_key()["public_key"].encode())):
        with pytest.raises(PersonRefusedError, match=rf"{path} is the key of ann, .* move it away first"):
            found_anew(store, name, MANAGER, "lost", public)
    assert (path.read_bytes(), store.ledger.head()) == before
    assert not key_file(store, "eve").exists()
    path.unlink()
    _, made = found_anew(store, "eve", MANAGER, "lost")
    assert person_key(store, "eve", made)


def locked(path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))


UNREADABLE: dict[str, Callable[[Path], None]] = {
    "with a password": locked,
    "torn": lambda path: path.write_text("-----BEGIN PRIVATE KEY-----\nMC4"),
    "empty": lambda path: path.touch(),
    "a link to a disk that is not there": lambda path: path.symlink_to("/nowhere/ann.pem"),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_file_that_cannot_be_read_may_be_a_key_and_is_left_where_it_is(lost: Store, what: str) -> None:
    for name in ("ann", "eve"):  # ann may enrol; eve would be written there
        path = key_file(lost, name)
        UNREADABLE[what](path)
        before = path.is_symlink() or path.read_bytes()
        with pytest.raises(PersonRefusedError, match=rf"{path} .*cannot be read.* move it away first"):
            found_anew(lost, "eve", MANAGER, "lost")
        assert (path.is_symlink() or path.read_bytes()) == before
        assert len(enrolled(lost)) == 2
        path.rename(path.with_suffix(".away"))
    found_anew(lost, "eve", MANAGER, "lost")
    assert person_key(lost, "eve")


def test_the_key_of_somebody_who_counts_is_not_replaced_even_if_they_may_not_enrol(lost: Store) -> None:
    before = key_file(lost, "bob").read_bytes()
    with pytest.raises(PersonRefusedError, match=r"bob\.pem lies there already, .*--public-key"):
        found_anew(lost, "bob", MANAGER, "lost")
    assert key_file(lost, "bob").read_bytes() == before
    found_anew(lost, "bob", MANAGER, "lost", enrolled(lost)[1].public_key.encode())
    assert person_key(lost, "bob")


@pytest.mark.parametrize(
    "wrong",
    [{"reason": " "}, {"reason": None}, {"role": "Boss!"}, {"fingerprint": "0" * 64}, {"public_key": "no key"}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_founding_that_is_not_right_in_everything_changes_nobody(lost: Store, wrong: dict[str, Any]) -> None:
    payload = {"role": MANAGER, **new_key(), "reason": "lost", **wrong}
    lost.ledger.append(PersonEvent.FOUNDED_ANEW, "eve", payload, "mallory")
    assert [p.name for p in enrolled(lost)] == ["ann", "bob"]
    assert len(roll_of(lost).refused) == 1
    assert roll_of(lost).founded_anew == ()


def test_a_founding_with_the_key_of_another_person_changes_nobody(lost: Store) -> None:
    bob = enrolled(lost)[1]
    payload = {"role": MANAGER, "public_key": bob.public_key, "fingerprint": bob.fingerprint, "reason": "lost"}
    lost.ledger.append(PersonEvent.FOUNDED_ANEW, "eve", payload, "mallory")
    assert [p.name for p in enrolled(lost)] == ["ann", "bob"]
    assert "is, or was, that of bob" in roll_of(lost).refused[0]


def test_a_reason_that_nobody_can_be_told_is_none(lost: Store) -> None:
    """Half a surrogate pair, escaped as JSON allows: no alert could hold it, so every tick would have failed."""
    payload = {"role": MANAGER, **new_key(), "reason": json.loads('"lost \\ud800"')}
    line = replace(lost.ledger.lines()[-1], seq=3, kind=PersonEvent.FOUNDED_ANEW, subject="eve", payload=payload)
    after = roll_of(lost).after(line)
    assert after.here == enrolled(lost)
    assert after.refused[0].endswith("counts for nothing: it is malformed")


def test_a_founding_by_hand_cannot_be_the_first_line(store: Store) -> None:
    store.ledger.append(PersonEvent.FOUNDED_ANEW, "eve", {"role": MANAGER, **new_key(), "reason": "lost"}, "mallory")
    assert enrolled(store) == ()
    enrol(store, "ann", MANAGER)
    assert [p.name for p in enrolled(store)] == ["ann"]


def test_what_waited_in_the_name_of_others_counts_no_more(small: World) -> None:
    demo = small.person()
    view = small.register(small.model(0.2))
    record_decision(small.store, view.release_id, Decision.APPROVE, demo, "fine")
    policy = small.policy
    assert tick(small.store, policy).due
    step = step_of(view, S.PRODUCTION, "signed off by demo")
    head, views = releases_at_head(small.store)
    key_file(small.store, FOUNDER).unlink()
    found_anew(small.store, "eve", MANAGER, "lost")
    with pytest.raises(LedgerConflictError, match="people_founded_anew"):  # a controller that decided just before
        write_steps(small.store, head, views, [step], policy.digest, "release-controller")
    assert approval_of(small.store, policy, view) is None
    assert any("demo was removed since" in note for note in tick(small.store, policy).notes)
    assert small.view(view.model_version).state is S.AWAITING_SIGN_OFF
    assert unsigned_decisions(small.store) == (1, [])


def test_who_founded_anew_is_bound_like_the_first_person(lost: Store) -> None:
    found_anew(lost, "eve", MANAGER, "lost")
    eve = person_key(lost, "eve")
    with pytest.raises(PersonRefusedError, match="last person"):
        remove(lost, "eve", eve)
    lost.ledger.append(PersonEvent.ENROLLED, "mia", {"role": MANAGER, **new_key()}, "mia")
    assert [p.name for p in enrolled(lost)] == ["eve"]
