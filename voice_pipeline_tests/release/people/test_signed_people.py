"""Attacks on the roll of people, by somebody who can write into the ledger but has no key of a person who may enrol."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from sqlalchemy import update

from voice_pipeline.release.errors import PersonRefusedError, UnknownPersonError
from voice_pipeline.release.people.enrolment import enrol, found_anew, key_file, person_key, remove
from voice_pipeline.release.people.keys import PersonKey, as_stored
from voice_pipeline.release.people.roll import PAYLOAD_TYPE, Roll, enrolled, roll_of
from voice_pipeline.schema.canonical import canonical_json
from voice_pipeline.schema.release import PersonEvent, PersonStatement
from voice_pipeline.settings import Settings
from voice_pipeline.store.errors import LedgerBrokenError
from voice_pipeline.store.ledger import LedgerLine
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import ledger
from voice_pipeline_tests.release.people.tampering import tampered
from voice_pipeline_tests.store.test_checkpoint import rows_of

MANAGER = "release-manager"


@pytest.fixture
def ann(store: Store) -> PersonKey:
    """The first person, who may enrol."""
    enrol(store, "ann", MANAGER)
    return person_key(store, "ann")


def names(store: Store) -> list[str]:
    return [person.name for person in enrolled(store)]


def new_key() -> dict[str, str]:
    pem, fingerprint = as_stored(Ed25519PrivateKey.generate().public_key())
    return {"public_key": pem, "fingerprint": fingerprint}


def said_of(store: Store, plain: dict[str, Any], **other: Any) -> PersonStatement:
    """A true word that enrols eve with the key of `plain`, as the next line, but for `other`."""
    fields: dict[str, Any] = {
        "event": PersonEvent.ENROLLED,
        "name": "eve",
        "role": plain["role"],
        "fingerprint": plain["fingerprint"],
        "at": store.now(),
        "upon": store.ledger.lines()[-1].hash,
    }
    return PersonStatement(**{**fields, **other})


def plant(store: Store, key: PersonKey, actor: str = "ann", payload_type: str = PAYLOAD_TYPE, **other: Any) -> None:
    """Write an enrolment of eve into the ledger past `enrol`."""
    plain = {"role": MANAGER, **new_key()}
    envelope = key.sign(canonical_json(said_of(store, plain, **other)), payload_type)
    store.ledger.append(PersonEvent.ENROLLED, "eve", {**plain, "envelope": envelope}, actor)


def counts_for_nothing(store: Store, why: str) -> None:
    """The last line is refused, and nobody is here but ann."""
    assert names(store) == ["ann"]
    (told,) = roll_of(store).refused
    assert why in told
    assert told.startswith(f"ledger line {store.ledger.head()} (person_enrolled eve)")


def test_the_planted_enrolment_counts_if_it_is_true_in_everything(store: Store, ann: PersonKey) -> None:
    """What the attacks below change is therefore what stops them."""
    plant(store, ann)
    assert names(store) == ["ann", "eve"]
    assert roll_of(store).refused == ()


@pytest.mark.parametrize("envelope", [None, {}, {"payload": "", "payloadType": PAYLOAD_TYPE, "signatures": []}, [], 7])
def test_who_enrols_himself_counts_for_nothing(store: Store, ann: PersonKey, envelope: Any) -> None:
    unsigned = {"role": MANAGER, **new_key()}
    payload = unsigned if envelope is None else {**unsigned, "envelope": envelope}
    store.ledger.append(PersonEvent.ENROLLED, "eve", payload, "ann")
    counts_for_nothing(store, "not signed by ann")


def test_who_signs_for_himself_counts_for_nothing(store: Store, ann: PersonKey) -> None:
    plant(store, ann, actor="eve")
    counts_for_nothing(store, "eve was not enrolled then")


def test_a_signature_by_another_key_in_anns_name_counts_for_nothing(store: Store, ann: PersonKey) -> None:
    enrol(store, "bob", "speech", by=ann)
    plant(store, person_key(store, "bob"), actor="ann")
    assert names(store) == ["ann", "bob"]
    assert "not signed by ann" in roll_of(store).refused[0]


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"name": "mia"}, "signed something else: person_enrolled mia"),
        ({"role": "speech"}, "signed something else: person_enrolled eve as speech"),
        ({"fingerprint": "0" * 64}, "signed something else"),
        ({"event": PersonEvent.REMOVED}, "signed something else: person_removed"),
        ({"event": PersonEvent.FOUNDED_ANEW}, "signed something else: people_founded_anew"),
        ({"upon": "0" * 64}, "upon another line"),
        ({"payload_type": "application/vnd.voice-pipeline.release-decision+json"}, "no word about people"),
    ],
    ids=["name", "role", "key", "removal", "founding", "another home", "signed for something else"],
)
def test_a_word_about_something_else_counts_for_nothing(
    store: Store, ann: PersonKey, other: dict[str, Any], why: str
) -> None:
    plant(store, ann, **other)
    counts_for_nothing(store, why)


def test_a_word_in_other_bytes_than_the_canonical_ones_counts_for_nothing(store: Store, ann: PersonKey) -> None:
    plain = {"role": MANAGER, **new_key()}
    signed = canonical_json(said_of(store, plain)).replace(b",", b", ")
    envelope = ann.sign(signed, PAYLOAD_TYPE)
    store.ledger.append(PersonEvent.ENROLLED, "eve", {**plain, "envelope": envelope}, "ann")
    counts_for_nothing(store, "no word about people")


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_word_that_was_kept_for_later_counts_for_nothing(store: Store, ann: PersonKey, hours: int) -> None:
    plant(store, ann, at=store.now() + timedelta(hours=hours))
    counts_for_nothing(store, "not when it was recorded")


def test_a_word_counts_as_the_next_line_only_and_once(store: Store, ann: PersonKey) -> None:
    """Whoever kept a signed enrolment says it again when the person was removed."""
    enrol(store, "eve", MANAGER, by=ann)
    (_, line) = store.ledger.lines(kind=PersonEvent.ENROLLED)
    remove(store, "eve", ann)
    store.ledger.append(line.kind, line.subject, line.payload, line.actor)
    counts_for_nothing(store, "upon another line")


def test_a_word_counts_in_its_own_home_only(store: Store, ann: PersonKey, tmp_path: Path) -> None:
    """The same person with the same key is the first of another home, too, whose ledger is as long."""
    (line,) = store.ledger.lines(kind=PersonEvent.ENROLLED)
    other = Store.open(Settings(home=tmp_path / "other"), store.clock)
    enrol(other, "ann", MANAGER, line.payload["public_key"].encode())
    enrol(store, "eve", MANAGER, by=ann)
    word = store.ledger.lines(kind=PersonEvent.ENROLLED)[1]
    other.ledger.append(word.kind, word.subject, word.payload, word.actor)
    counts_for_nothing(other, "upon another line")


def test_a_key_or_name_that_is_another_persons_counts_for_nothing_however_well_it_is_signed(
    store: Store, ann: PersonKey
) -> None:
    enrol(store, "bob", "speech", by=ann)
    gone = remove(store, "bob", ann)
    (here,) = enrolled(store)
    for name, role, key, why in (
        ("eve", MANAGER, {"public_key": here.public_key, "fingerprint": here.fingerprint}, "is, or was, that of ann"),
        ("eve", MANAGER, {"public_key": gone.public_key, "fingerprint": gone.fingerprint}, "is, or was, that of bob"),
        ("ann", MANAGER, new_key(), "ann is enrolled already"),
        ("eve", "ann", new_key(), "a name here is nobody's role"),
        (MANAGER, "speech", new_key(), "a name here is nobody's role"),
    ):
        plain = {"role": role, **key}
        envelope = ann.sign(canonical_json(said_of(store, plain, name=name)), PAYLOAD_TYPE)
        store.ledger.append(PersonEvent.ENROLLED, name, {**plain, "envelope": envelope}, "ann")
        assert enrolled(store) == (here,)
        assert why in roll_of(store).refused[-1]


def test_a_removed_person_introduces_nobody(store: Store, ann: PersonKey) -> None:
    enrol(store, "bob", MANAGER, by=ann)
    bob = person_key(store, "bob")
    remove(store, "bob", ann)
    with pytest.raises(UnknownPersonError, match="'bob' is not enrolled"):
        enrol(store, "eve", MANAGER, by=bob)
    plant(store, bob, actor="bob")
    counts_for_nothing(store, "bob was not enrolled then")


def test_the_former_key_of_who_came_back_signs_no_more(store: Store, ann: PersonKey) -> None:
    enrol(store, "bob", MANAGER, by=ann)
    stolen = person_key(store, "bob")
    remove(store, "bob", ann)
    enrol(store, "bob", MANAGER, by=ann)
    before = store.ledger.head()
    with pytest.raises(PersonRefusedError, match="not signed by bob"):
        enrol(store, "eve", MANAGER, by=stolen)
    assert store.ledger.head() == before
    plant(store, stolen, actor="bob")
    assert names(store) == ["ann", "bob"]


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed by who is not enrolled"])
def test_a_removal_that_nobody_signed_removes_nobody(store: Store, ann: PersonKey, signed: bool) -> None:
    (person,) = enrolled(store)
    plain = {"role": person.role, "fingerprint": person.fingerprint}
    said = said_of(store, plain, event=PersonEvent.REMOVED, name="ann")
    stranger = PersonKey("ann", CryptoSigner(Ed25519PrivateKey.generate()))
    payload = {**plain, "envelope": stranger.sign(canonical_json(said), PAYLOAD_TYPE)} if signed else plain
    store.ledger.append(PersonEvent.REMOVED, "ann", payload, "ann")
    assert names(store) == ["ann"]
    assert "not signed by ann" in roll_of(store).refused[0]


def test_a_removal_of_another_enrolment_of_the_name_removes_nobody(store: Store, ann: PersonKey) -> None:
    enrol(store, "bob", "speech", by=ann)
    plain = {"role": "speech", **new_key()}
    del plain["public_key"]
    said = said_of(store, plain, event=PersonEvent.REMOVED, name="bob")
    payload = {**plain, "envelope": ann.sign(canonical_json(said), PAYLOAD_TYPE)}
    store.ledger.append(PersonEvent.REMOVED, "bob", payload, "ann")
    assert names(store) == ["ann", "bob"]
    assert "not the enrolment of bob" in roll_of(store).refused[0]


def test_who_may_not_enrols_and_removes_nobody_but_himself(store: Store, ann: PersonKey) -> None:
    enrol(store, "bob", "speech", by=ann)
    enrol(store, "cleo", "speech", by=ann)
    bob, before = person_key(store, "bob"), store.ledger.head()
    with pytest.raises(PersonRefusedError, match=r"bob \(speech\) may not .* names release-manager"):
        enrol(store, "eve", MANAGER, by=bob)
    for name in ("ann", "cleo"):
        with pytest.raises(PersonRefusedError, match=r"bob .* may not enrol or remove"):
            remove(store, name, bob)
    with pytest.raises(PersonRefusedError, match="somebody who is enrolled signs"):
        enrol(store, "eve", MANAGER)
    assert store.ledger.head() == before
    remove(store, "bob", bob)
    assert names(store) == ["ann", "cleo"]
    assert roll_of(store).refused == ()


def test_the_last_person_who_may_enrol_stays_until_there_is_another(store: Store, ann: PersonKey) -> None:
    enrol(store, "bob", "speech", by=ann)
    with pytest.raises(PersonRefusedError, match="last person who may enrol others; enrol another one first"):
        remove(store, "ann", ann)
    enrol(store, "cleo", MANAGER, by=ann)
    remove(store, "ann", ann)
    with pytest.raises(PersonRefusedError, match="cleo is the last person"):
        remove(store, "cleo", person_key(store, "cleo"))
    assert names(store) == ["bob", "cleo"]


def test_the_first_person_must_be_one_who_may_enrol(store: Store) -> None:
    with pytest.raises(PersonRefusedError, match="would be the first and may not enrol others"):
        enrol(store, "ann", "speech")
    assert store.ledger.lines() == []
    assert not key_file(store, "ann").exists()


def test_a_ledger_that_does_not_verify_takes_nobody_in_and_lets_nobody_go(store: Store, ann: PersonKey) -> None:
    enrol(store, "bob", "speech", by=ann)
    store.ledger.append("export", "m-1", {}, "somebody")
    with store.database.write() as connection:  # the lines about people are whole, another one is not
        connection.execute(update(ledger).where(ledger.c.seq == 3).values(actor="somebody else"))
    before = rows_of(store)
    for attempt in (
        lambda: enrol(store, "eve", MANAGER, by=ann),
        lambda: remove(store, "bob", ann),
        lambda: found_anew(store, "eve", MANAGER, "because"),
    ):
        with pytest.raises(LedgerBrokenError, match="ledger line 3 was changed"):
            attempt()
    assert rows_of(store) == before
    assert not key_file(store, "eve").exists()


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data(), removal=st.booleans())
def test_no_change_of_a_line_survives(
    recorded: tuple[Roll, LedgerLine, Roll, LedgerLine], data: st.DataObject, removal: bool
) -> None:
    roll, line = recorded[2:] if removal else recorded[:2]
    changed = tampered(line, data, "actor", "subject", "prev_hash")
    if changed == line:
        return
    after = roll.after(changed)
    assert after.here == roll.here
    assert len(after.refused) == 1


@pytest.fixture
def recorded(store: Store, ann: PersonKey) -> tuple[Roll, LedgerLine, Roll, LedgerLine]:
    """The roll before a good enrolment, that line, the roll before the removal, that line."""
    before = roll_of(store)
    enrol(store, "bob", "speech", by=ann)
    between = roll_of(store)
    remove(store, "bob", ann)
    enrolment, removal = store.ledger.lines(after=1)
    assert [person.name for person in before.after(enrolment).here] == ["ann", "bob"]
    assert between.after(removal).refused == ()
    return before, enrolment, between, removal
