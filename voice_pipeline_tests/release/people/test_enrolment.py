"""People: who counts, from when to when, and that nobody signs with a key that is not theirs."""

from __future__ import annotations

import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voice_pipeline.release.errors import KeyRefusedError, PersonRefusedError, UnknownPersonError
from voice_pipeline.release.people import enrolment
from voice_pipeline.release.people.enrolment import enrol, key_file, person_key, remove
from voice_pipeline.release.people.keys import PersonKey, as_stored
from voice_pipeline.release.people.roll import enrolled, enrolments, roll_of
from voice_pipeline.schema.release import PersonEvent
from voice_pipeline.settings import Settings
from voice_pipeline.store.store import Store


def pem(private: Any) -> bytes:
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def written(private: Any, path: Path) -> Path:
    path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


MANAGER = "release-manager"


def manager(store: Store, name: str = "ann", by: PersonKey | None = None) -> PersonKey:
    """Somebody who may enrol; the first person of the home, or signed for `by` another one."""
    enrol(store, name, MANAGER, by=by)
    return person_key(store, name)


def test_a_key_that_is_made_here_lies_where_only_its_owner_reads_it(store: Store) -> None:
    person, path = enrol(store, "ann", "release-manager")
    assert path == key_file(store, "ann")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {p.name for p in path.parent.iterdir()} == {"ann.pem", ".lock"}
    assert person_key(store, "ann").name == "ann"
    (line,) = store.ledger.lines(kind=PersonEvent.ENROLLED)
    assert line.payload == {
        "role": "release-manager",
        "public_key": person.public_key,
        "fingerprint": person.fingerprint,
    }
    assert "PRIVATE" not in str(line)


@pytest.mark.parametrize("private", [Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())])
def test_a_person_who_keeps_their_key_hands_in_the_public_half(store: Store, tmp_path: Path, private: Any) -> None:
    person, path = enrol(store, "ann", MANAGER, pem(private))
    assert path is None
    assert not key_file(store, "ann").exists()
    with pytest.raises(KeyRefusedError, match=r"ann\.pem cannot be read .* name theirs with --key"):
        person_key(store, "ann")
    mine = written(private, tmp_path / "mine.pem")
    assert person_key(store, "ann", mine).name == "ann"
    named = Store.open(Settings(home=store.settings.home, person_key=mine), store.clock)
    assert person_key(named, "ann").name == "ann"
    assert enrolled(store) == (person,)


def test_a_key_of_somebody_else_is_refused_before_anything_is_signed(store: Store) -> None:
    enrol(store, "demo", "tester", by=manager(store))
    with pytest.raises(KeyRefusedError, match=r"ann\.pem is not the key of demo"):
        person_key(store, "demo", key_file(store, "ann"))


@pytest.mark.parametrize("word", ["", "..", "../ann", "a/b", "Ann", "a b", "-a", ".a", "a\n", "ä", "x" * 65, "a\x00"])
def test_a_name_or_role_that_is_no_word_is_refused(store: Store, word: str) -> None:
    for name, role in ((word, "speech"), ("ann", word)):
        with pytest.raises(PersonRefusedError, match="is no name or role"):
            enrol(store, name, role)
    assert store.ledger.lines() == []


@pytest.mark.parametrize(
    "public",
    [
        b"no key",
        pem(rsa.generate_private_key(65537, 1024)),
        pem(x25519.X25519PrivateKey.generate()),
        pem(ec.generate_private_key(ec.SECP256K1())),
        Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    ],
    ids=["nonsense", "rsa", "x25519", "another curve", "a private key"],
)
def test_what_is_no_such_public_key_is_refused(store: Store, public: bytes) -> None:
    with pytest.raises(KeyRefusedError, match="no public key"):
        enrol(store, "ann", MANAGER, public)
    assert enrolled(store) == ()


def test_a_name_a_key_and_a_role_stand_for_one_person(store: Store) -> None:
    private = Ed25519PrivateKey.generate()
    founder = manager(store, "founder")
    enrol(store, "ann", "speech", pem(private), by=founder)
    with pytest.raises(PersonRefusedError, match="ann is enrolled already"):
        enrol(store, "ann", "speech", by=founder)
    with pytest.raises(PersonRefusedError, match="that of ann; everyone has their own"):
        enrol(store, "bob", "speech", pem(private), by=founder)
    for name, role in (("speech", "boss"), ("bob", "ann")):
        with pytest.raises(PersonRefusedError, match="a name here is nobody's role"):
            enrol(store, name, role, by=founder)
    assert not key_file(store, "ann").exists()


@pytest.mark.parametrize("first", [True, False], ids=["the first person", "another one"])
def test_of_enrolments_at_once_one_counts_and_its_key_is_the_one_that_lies_there(store: Store, first: bool) -> None:
    done: list[str] = []
    founder = None if first else manager(store, "founder")

    def try_it() -> None:
        own = Store.open(store.settings, store.clock)
        try:
            done.append(enrol(own, "ann", MANAGER, by=founder)[0].fingerprint)
        except PersonRefusedError:
            done.append("refused")

    threads = [threading.Thread(target=try_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done.count("refused") == 3
    assert enrolled(store)[-1].fingerprint in done
    assert roll_of(store).refused == ()
    assert person_key(store, "ann").name == "ann"


def test_who_was_removed_counts_no_more_and_may_come_back_with_another_key(store: Store) -> None:
    founder = manager(store, "founder")
    first, _ = enrol(store, "ann", "speech", by=founder)
    removed = remove(store, "ann", founder)
    assert [person.name for person in enrolled(store)] == ["founder"]
    for unknown in ("ann", "nobody", ""):
        with pytest.raises(UnknownPersonError, match="people list"):
            remove(store, unknown, founder)
        with pytest.raises(UnknownPersonError, match="people list"):
            person_key(store, unknown)
    again, _ = enrol(store, "ann", "boss", by=founder)
    assert again.fingerprint != first.fingerprint
    assert enrolments(store)[1:] == (removed, again)
    assert [removed.counted_at(seq) for seq in (1, 2, 3, 4)] == [False, False, False, False]
    assert first.counted_at(3)
    assert not removed.counted_at(removed.removed_seq or 0)
    assert person_key(store, "ann").signer.public_key.keyid


def test_a_key_that_lies_there_already_is_replaced_only_if_it_is_that_of_a_removed_person(store: Store) -> None:
    path = key_file(store, "ann")
    path.parent.mkdir(parents=True)
    mine = written(Ed25519PrivateKey.generate(), path).read_bytes()
    with pytest.raises(PersonRefusedError, match=r"ann\.pem lies there already, .* move it away first, .*--public-key"):
        enrol(store, "ann", MANAGER)
    assert path.read_bytes() == mine
    assert store.ledger.lines() == []
    path.unlink()
    founder = manager(store)
    path = written(Ed25519PrivateKey.generate(), key_file(store, "bob"))
    mine = path.read_bytes()
    with pytest.raises(PersonRefusedError, match="lies there already"):
        enrol(store, "bob", "speech", by=founder)
    assert path.read_bytes() == mine
    path.write_bytes(key_file(store, "ann").read_bytes())
    with pytest.raises(PersonRefusedError, match="lies there already"):
        enrol(store, "bob", "speech", by=founder)
    assert [person.name for person in enrolled(store)] == ["ann"]
    assert not [p for p in path.parent.iterdir() if p.suffix == ".new"]
    path.unlink()
    enrol(store, "bob", "speech", by=founder)
    remove(store, "bob", founder)
    enrol(store, "bob", "speech", by=founder)
    assert person_key(store, "bob")


@pytest.mark.parametrize("what", ["the next enrolment of the name", "a file"])
def test_what_came_to_lie_there_after_the_commit_is_not_replaced(
    store: Store, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    ann, lock, path = manager(store), enrolment.FileLock, key_file(store, "cleo")

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.setattr(enrolment, "FileLock", lock)
        if what == "a file":
            written(Ed25519PrivateKey.generate(), path)
        else:
            remove(store, "cleo", ann)
            enrol(store, "cleo", MANAGER, by=ann)
        kept.append(path.read_bytes())
        return lock(*arguments)

    kept: list[bytes] = []
    monkeypatch.setattr(enrolment, "FileLock", meanwhile)
    person, where = enrol(store, "cleo", MANAGER, by=ann)
    assert [path.read_bytes()] == kept
    assert where == path.with_name(f"cleo.{person.fingerprint[:16]}.new")
    assert person_key(store, "cleo")


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    subject=st.text(max_size=10),
    payload=st.one_of(
        st.none(),
        st.lists(st.integers(), max_size=2),
        st.dictionaries(
            st.sampled_from(["role", "public_key", "fingerprint"]), st.none() | st.text(max_size=9) | st.integers()
        ),
    ),
)
def test_a_line_that_is_no_enrolment_enrols_nobody_and_stops_nothing(store: Store, subject: str, payload: Any) -> None:
    store.ledger.append(PersonEvent.ENROLLED, subject, payload, "mallory")
    assert enrolled(store) == ()


def test_where_no_key_can_be_written_nobody_is_enrolled_and_it_says_what_to_do(store: Store) -> None:
    folder = key_file(store, "ann").parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("no folder")
    with pytest.raises(KeyRefusedError, match=r"cannot be written .* nobody was enrolled: see that") as error:
        enrol(store, "ann", MANAGER)
    assert "Errno" not in str(error.value)
    assert enrolled(store) == ()
    assert enrol(store, "ann", MANAGER, pem(Ed25519PrivateKey.generate()))[1] is None


def test_a_key_that_cannot_be_moved_to_its_place_is_told_where_it_lies_and_signs(store: Store) -> None:
    """The line is committed by then: an error would say that nobody was enrolled."""
    key_file(store, "ann").with_name(".lock").mkdir(parents=True)
    person, path = enrol(store, "ann", MANAGER)
    assert path == key_file(store, "ann").with_name(f"ann.{person.fingerprint[:16]}.new")
    assert [one.name for one in enrolled(store)] == ["ann"]
    assert person_key(store, "ann").name == "ann"


def test_a_key_that_cannot_be_read_is_told_without_the_number_of_the_error(store: Store, tmp_path: Path) -> None:
    manager(store)
    with pytest.raises(KeyRefusedError, match=r"cannot be read .* ann \(is a directory\); name theirs with --key"):
        person_key(store, "ann", tmp_path)


@pytest.mark.parametrize(
    ("subject", "wrong"),
    [("../ann", {}), ("ann", {"role": "Boss!"}), ("ann", {"role": None}), ("ann", {"fingerprint": "0" * 64})],
    ids=["no name", "no word", "no role", "another key's fingerprint"],
)
def test_an_enrolment_written_by_hand_that_is_not_right_in_everything_enrols_nobody(
    store: Store, subject: str, wrong: dict[str, Any]
) -> None:
    """Even as the first line of a home, which nobody signs."""
    pem_, fingerprint = as_stored(Ed25519PrivateKey.generate().public_key())
    right = {"role": MANAGER, "public_key": pem_, "fingerprint": fingerprint}
    store.ledger.append(PersonEvent.ENROLLED, subject, {**right, **wrong}, "mallory")
    assert enrolled(store) == ()
    store.ledger.append(PersonEvent.ENROLLED, "ann", right, "mallory")
    assert [person.name for person in enrolled(store)] == ["ann"]
