"""All keys are lost: everybody is removed, one person begins again, and nobody can ever overlook it."""

from __future__ import annotations

from typing import Any

import pytest

from voice_pipeline.release.controller import tick
from voice_pipeline.release.errors import PersonRefusedError, UnknownPersonError
from voice_pipeline.release.machine import step_of, write_steps
from voice_pipeline.release.people.decisions import approval_of, record_decision, unsigned_decisions
from voice_pipeline.release.people.enrolment import enrol, found_anew, key_file, person_key, remove
from voice_pipeline.release.people.roll import enrolled, enrolments, roll_of
from voice_pipeline.release.people.staffing import tell_untold
from voice_pipeline.schema.release import Decision, PersonEvent
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.errors import LedgerConflictError
from voice_pipeline.store.releases import releases_at_head
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import alerts
from voice_pipeline_tests.release.people.test_signed_people import MANAGER, new_key
from voice_pipeline_tests.release.world import World


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
    tell_untold(lost)
    found_anew(lost, "eve", MANAGER, "lost")
    tell_untold(lost)
    assert tell_untold(lost) == []
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


def test_a_key_that_still_signs_is_not_overwritten(store: Store) -> None:
    """Else a kill before the commit would lose the very key that nobody had lost."""
    enrol(store, "ann", MANAGER)
    before = key_file(store, "ann").read_bytes()
    with pytest.raises(PersonRefusedError, match="is not lost, it is"):
        found_anew(store, "ann", MANAGER, "lost")
    assert key_file(store, "ann").read_bytes() == before
    key_file(store, "ann").write_bytes(b"torn")
    found_anew(store, "ann", MANAGER, "the file was torn")
    assert person_key(store, "ann")


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
