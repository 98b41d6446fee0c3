"""Enrolling and removing the people who decide about releases, and finding the keys they sign with.

1. `enrol` without `by` takes in the first person of a home, who must be one whom `policy/release.yaml` lets enrol
   others (`people`).
2. Whoever may that signs for everybody else: `enrol(..., by=...)`, `remove`. Everyone may remove themselves. The last
   person who may enrol cannot be removed, so there is always one.
3. `found_anew` is for a home whose every such key is lost: it removes everybody, and is told of for ever.

Each is one ledger line in one transaction, on a ledger that verifies (`release.people.roll` says what such a line has
to be). A private key that is made here is written beside (`keys/people/NAME.FINGERPRINT.new`) before the commit, and
moved to `keys/people/NAME.pem` after it. Killed before the commit, nothing has changed but for a key beside that is
nobody's. Killed after it, the key goes on lying beside and is found there. What lies at `NAME.pem` never gives way,
unless it is the key of somebody who was removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from filelock import FileLock
from sqlalchemy import Connection

from voice_pipeline.release.errors import KeyRefusedError, PersonRefusedError
from voice_pipeline.release.people.keys import (
    UNREADABLE,
    PersonKey,
    as_stored,
    held_at,
    plainly,
    read_private,
    read_public,
    write_private,
)
from voice_pipeline.release.people.roll import PAYLOAD_TYPE, Person, Roll, find_person, is_word, roll_of, unknown_person
from voice_pipeline.release.policy import standing_policy
from voice_pipeline.schema.canonical import canonical_json
from voice_pipeline.schema.release import PersonEvent, PersonStatement
from voice_pipeline.schema.release_policy import ReleasePolicy
from voice_pipeline.store.blobs import flush_folder
from voice_pipeline.store.ledger import GENESIS, LedgerLine
from voice_pipeline.store.store import Store

ACTOR = "release-people"
"""Who writes the lines that nobody signs."""
FOLDER = "people"


@dataclass(frozen=True)
class _NewKey:
    """The public half of a key as it is stored; the private one where it was made here."""

    pem: str
    fingerprint: str
    private: Ed25519PrivateKey | None


def enrol(
    store: Store, name: str, role: str, public_key: bytes | None = None, by: PersonKey | None = None
) -> tuple[Person, Path | None]:
    """Enrol a person, with their public key (PEM, Ed25519 or ECDSA) or with a key pair that is made now.

    Args:
        by: who signs for them; None for the first person of a home, and for nobody else.

    Returns:
        The person, and where the private key lies if one was made (mode 0600).

    Raises:
        PersonRefusedError: name or role is no word of a-z, 0-9, `.`, `_`, `-`, is taken, or the key is somebody's;
            nobody signs for them who may; or a key is made, and its place is taken.
        UnknownPersonError: who signs is not enrolled.
        KeyRefusedError: `public_key` is no such key, or one that is made cannot be written.
        LedgerBrokenError: the ledger does not verify; nobody can tell who is enrolled.
    """
    key = _new_key(name, role, public_key)
    store.ledger.verify()
    policy = standing_policy(store).policy
    with store.database.write() as connection:  # a second enrolment of the name waits here, and then finds the first
        head, roll = store.ledger.head(), roll_of(store)
        if roll.people:
            _check_may(policy, roll, by, name)
        elif not policy.may_enrol(name, role):
            raise _nobody_could_enrol(policy, f"{name} ({role}) would be the first")
        payload = {"role": role, "public_key": key.pem, "fingerprint": key.fingerprint}
        signer = by if roll.people else None
        person = _append(store, connection, head, roll, PersonEvent.ENROLLED, name, payload, signer).people[-1]
        _write_beside(store, roll, person, key.private)
    return person, _in_place(store, person) if key.private else None


def remove(store: Store, name: str, by: PersonKey) -> Person:
    """From now on nothing that `name` signs counts, nor what they signed and nobody acted upon yet.

    Raises:
        UnknownPersonError: nobody of that name is enrolled, or who signs is not.
        PersonRefusedError: who signs may not, or nobody would be left who may enrol others.
        LedgerBrokenError: the ledger does not verify.
    """
    store.ledger.verify()
    policy = standing_policy(store).policy
    with store.database.write() as connection:
        head, roll = store.ledger.head(), roll_of(store)
        person = roll.named(name)
        if person is None:
            raise unknown_person(name)
        if by.name != name:
            _check_may(policy, roll, by, name)
        left = [other for other in roll.here if other.name != name and policy.may_enrol(other.name, other.role)]
        if policy.may_enrol(name, person.role) and not left:
            raise PersonRefusedError(
                f"{name} is the last person who may enrol others; enrol another one first "
                f"(`voice-pipeline release people add NAME --role {policy.people[0]} --as {name}`)"
            )
        payload = {"role": person.role, "fingerprint": person.fingerprint}
        after = _append(store, connection, head, roll, PersonEvent.REMOVED, name, payload, by)
    return after.people[roll.people.index(person)]


def found_anew(
    store: Store, name: str, role: str, reason: str, public_key: bytes | None = None
) -> tuple[Person, Path | None]:
    """Remove everybody and begin again with one person, signed by nobody: when all keys that may enrol are lost.

    Returns:
        As `enrol`.

    Raises:
        PersonRefusedError: nobody was ever enrolled, no reason is given, a key that may enrol lies here, or as of
            `enrol`.
        KeyRefusedError: `public_key` is no such key.
        LedgerBrokenError: the ledger does not verify.
    """
    key = _new_key(name, role, public_key)
    if not reason.strip():
        raise PersonRefusedError("founding people anew needs a reason; give one")
    store.ledger.verify()
    policy = standing_policy(store).policy
    with store.database.write() as connection:
        head, roll = store.ledger.head(), roll_of(store)
        if not roll.people:
            raise PersonRefusedError(f"nobody is enrolled here yet; `voice-pipeline release people add {name}` does it")
        if not policy.may_enrol(name, role):
            raise _nobody_could_enrol(policy, f"{name} ({role}) would be the only one")
        _check_lost(store, [p for p in roll.here if policy.may_enrol(p.name, p.role)])
        payload = {"role": role, "public_key": key.pem, "fingerprint": key.fingerprint, "reason": reason.strip()}
        person = _append(store, connection, head, roll, PersonEvent.FOUNDED_ANEW, name, payload, None).people[-1]
        _write_beside(store, roll, person, key.private)
    return person, _in_place(store, person) if key.private else None


def person_key(store: Store, name: str, file: Path | None = None) -> PersonKey:
    """The private key of an enrolled person: `file`, else `VOICE_PIPELINE_PERSON_KEY`, else the one of this home.

    Raises:
        UnknownPersonError: nobody of that name is enrolled.
        KeyRefusedError: the file is no private key, or not that person's.
    """
    person = find_person(store, name)
    path = file or store.settings.person_key or key_here(store, person) or key_file(store, name)
    try:
        signer, fingerprint = read_private(path.expanduser())
    except UNREADABLE as error:
        raise KeyRefusedError(
            f"{path} cannot be read as the private key (PEM, no password) of {name} ({plainly(error)}); name "
            "theirs with --key or VOICE_PIPELINE_PERSON_KEY"
        ) from error
    if fingerprint != person.fingerprint:
        raise KeyRefusedError(
            f"{path} is not the key of {name}, whose fingerprint is {person.fingerprint[:12]}; name theirs with --key"
        )
    return PersonKey(name, signer)


def key_file(store: Store, name: str) -> Path:
    """Where the private key of a person lies if it was made in this home."""
    return store.settings.keys / FOLDER / f"{name}.pem"


def key_here(store: Store, person: Person) -> Path | None:
    """The file of this home that holds the private key of `person`, at its place or still beside it."""
    places = (key_file(store, person.name), _beside(store, person))
    return next((path for path in places if held_at(path) == person.fingerprint), None)


def _append(
    store: Store,
    connection: Connection,
    head: int,
    roll: Roll,
    event: PersonEvent,
    name: str,
    payload: dict[str, Any],
    by: PersonKey | None,
) -> Roll:
    """The roll with the line that says so, signed by `by` upon ledger line `head`, the last one.

    Raises:
        PersonRefusedError: the line would count for nothing.
        LedgerConflictError: another line came meanwhile.
    """
    last: LedgerLine | None = next(iter(store.ledger.lines(after=head - 1)), None)
    if by is not None:
        statement = PersonStatement(
            event=event,
            name=name,
            role=payload["role"],
            fingerprint=payload["fingerprint"],
            at=store.now(),
            upon=last.hash if last else GENESIS,
        )
        payload = {**payload, "envelope": by.sign(canonical_json(statement), PAYLOAD_TYPE)}
    line = store.ledger.append(event, name, payload, by.name if by else ACTOR, head, connection)
    return roll.accepting(line)


def _check_may(policy: ReleasePolicy, roll: Roll, by: PersonKey | None, name: str) -> None:
    named = ", ".join(policy.people)
    if by is None:
        raise PersonRefusedError(
            f"{name} is not the first person here: somebody who is enrolled signs for them (--as NAME; "
            f"policy/release.yaml names {named}). Is every such key lost? `voice-pipeline release people found-anew`"
        )
    signer = roll.named(by.name)
    if signer is None:
        raise unknown_person(by.name)
    if not policy.may_enrol(signer.name, signer.role):
        raise PersonRefusedError(
            f"{signer.name} ({signer.role}) may not enrol or remove {name}; policy/release.yaml names {named}"
        )


def _nobody_could_enrol(policy: ReleasePolicy, who: str) -> PersonRefusedError:
    return PersonRefusedError(
        f"{who} and may not enrol others, so nobody could; policy/release.yaml lets {', '.join(policy.people)} (people)"
    )


def _new_key(name: str, role: str, public_key: bytes | None) -> _NewKey:
    for word in (name, role):
        if not is_word(word):
            raise PersonRefusedError(f"{word!r} is no name or role: at most 64 of a-z, 0-9, '.', '_' and '-'")
    private = Ed25519PrivateKey.generate() if public_key is None else None
    pem, fingerprint = as_stored(private.public_key() if private else read_public(public_key or b""))
    return _NewKey(pem, fingerprint, private)


def _check_lost(store: Store, entitled: Sequence[Person]) -> None:
    """Raises `PersonRefusedError` where a key may still sign, the one that the environment names among them."""
    named = store.settings.person_key
    for person in entitled:
        for path in (named and named.expanduser(), key_file(store, person.name), _beside(store, person)):
            held = held_at(path) if path else None
            if held in (person.fingerprint, ""):
                raise PersonRefusedError(
                    f"{path} {'is' if held else 'cannot be read, and may be'} the key of {person.name}, who may enrol: "
                    "what can sign is not lost. Sign with it (`voice-pipeline release people add NAME --role ROLE --as "
                    f"{person.name}`), or, if nobody should or can, move it away first"
                )


def _write_beside(store: Store, roll: Roll, person: Person, private: Ed25519PrivateKey | None) -> None:
    """Make a key that was made here durable before it counts, without touching what lies at its place."""
    if private is None:
        return
    path = key_file(store, person.name)
    if not _gives_way(path, roll):
        raise PersonRefusedError(
            f"{path} lies there already, and cannot be read as the key of somebody who was removed: move it away "
            f"first, or hand in the public half of a key of {person.name} (--public-key FILE)"
        )
    try:
        write_private(_beside(store, person), private)
    except OSError as error:
        raise KeyRefusedError(
            f"the private key of {person.name} cannot be written into {path.parent} ({plainly(error)}), so nobody was "
            "enrolled: see that it is a folder with room in which you may write (`ls -ld` says whose it is), or hand "
            "in the public half of a key that was made elsewhere (--public-key FILE)"
        ) from error


def _in_place(store: Store, person: Person) -> Path:
    """Move a key to its place, unless something came to lie there meanwhile or the system refuses; returns where it
    lies then.
    """
    path, beside = key_file(store, person.name), _beside(store, person)
    with (
        suppress(OSError),  # the line is committed, and a key beside is found
        FileLock(path.with_name(".lock")),  # else the key of a later enrolment of the name could come in between
    ):
        if _gives_way(path, roll_of(store)):
            beside.replace(path)
            flush_folder(path.parent)
    return beside if beside.exists() else path


def _gives_way(path: Path, roll: Roll) -> bool:
    """Whether nothing lies at `path`, or the key of somebody who was removed."""
    removed = {person.fingerprint for person in roll.people} - {person.fingerprint for person in roll.here}
    return held_at(path) in {None, *removed}


def _beside(store: Store, person: Person) -> Path:
    """Where a key that is made here lies until its line is committed."""
    return key_file(store, person.name).with_name(f"{person.name}.{person.fingerprint[:16]}.new")
