"""Enrolling and removing the people who decide about releases, and finding the keys they sign with.

1. `enrol` without `by` takes in the first person of a home, who must be one whom `policy/release.yaml` lets enrol
   others (`people`).
2. Whoever may that signs for everybody else: `enrol(..., by=...)`, `remove`. Everyone may remove themselves. The last
   person who may enrol cannot be removed, so there is always one.
3. `found_anew` is for a home whose every such key is lost: it removes everybody, and is told of for ever.

Each is one ledger line in one transaction, on a ledger that verifies (`release.people.roll` says what such a line has
to be). A private key that is made here lies in `keys/people/NAME.pem` before its line is written: a kill between the
two leaves a key that is nobody's, which the next enrolment of the name replaces.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection

from voice_pipeline.release.errors import KeyRefusedError, PersonRefusedError
from voice_pipeline.release.people.keys import (
    UNREADABLE,
    PersonKey,
    as_stored,
    keep_private,
    read_private,
    read_public,
)
from voice_pipeline.release.people.roll import PAYLOAD_TYPE, Person, Roll, find_person, is_word, roll_of, unknown_person
from voice_pipeline.release.policy import standing_policy
from voice_pipeline.schema.canonical import canonical_json
from voice_pipeline.schema.release import PersonEvent, PersonStatement
from voice_pipeline.schema.release_policy import ReleasePolicy
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
        PersonRefusedError: name or role is no word of a-z, 0-9, `.`, `_`, `-`, is taken, or the key is somebody's; or
            nobody signs for them who may.
        UnknownPersonError: who signs is not enrolled.
        KeyRefusedError: `public_key` is no such key.
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
        _check_new(roll.here, roll.people, name, role, key.fingerprint)
        path = _kept(store, name, key)
        payload = {"role": role, "public_key": key.pem, "fingerprint": key.fingerprint}
        after = _append(store, connection, head, roll, PersonEvent.ENROLLED, name, payload, by if roll.people else None)
    return after.people[-1], path


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
        PersonRefusedError: nobody was ever enrolled, no reason is given, or as of `enrol`.
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
        _check_new((), roll.people, name, role, key.fingerprint)
        _check_lost(store, roll, name)
        path = _kept(store, name, key)
        payload = {"role": role, "public_key": key.pem, "fingerprint": key.fingerprint, "reason": reason.strip()}
        after = _append(store, connection, head, roll, PersonEvent.FOUNDED_ANEW, name, payload, None)
    return after.people[-1], path


def person_key(store: Store, name: str, file: Path | None = None) -> PersonKey:
    """The private key of an enrolled person: `file`, else `VOICE_PIPELINE_PERSON_KEY`, else `keys/people/NAME.pem`.

    Raises:
        UnknownPersonError: nobody of that name is enrolled.
        KeyRefusedError: the file is no private key, or not that person's.
    """
    person = find_person(store, name)
    path = file or store.settings.person_key or key_file(store, name)
    try:
        signer, fingerprint = read_private(path.expanduser())
    except UNREADABLE as error:
        raise KeyRefusedError(
            f"{path} cannot be read as the private key (PEM, no password) of {name} ({type(error).__name__}); name "
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
        PersonRefusedError: the line would count for nothing (the key is not that of whom it is said to be of).
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
    after = roll.after(line)
    if len(after.refused) > len(roll.refused):
        raise PersonRefusedError(after.refused[-1])
    return after


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


def _check_new(here: tuple[Person, ...], known: tuple[Person, ...], name: str, role: str, fingerprint: str) -> None:
    if any(person.name == name for person in here):
        remove = f"voice-pipeline release people remove {name} --as NAME"
        raise PersonRefusedError(f"{name} is enrolled already; `{remove}` first")
    if name in {person.role for person in here} or role in {person.name for person in here}:
        raise PersonRefusedError(f"{name} as {role}: a name here is nobody's role; choose another")
    others = {person.fingerprint: person.name for person in known if person.name != name}
    if owner := others.get(fingerprint):
        raise PersonRefusedError(f"the key {fingerprint[:12]} is, or was, that of {owner}; everyone has their own")


def _check_lost(store: Store, roll: Roll, name: str) -> None:
    """The private key of `name` that lies here gives way to the new one: it must not be one that still signs."""
    path, person = key_file(store, name), roll.named(name)
    try:
        fingerprint = read_private(path)[1]
    except UNREADABLE:
        return
    if person is not None and fingerprint == person.fingerprint:
        raise PersonRefusedError(
            f"the key of {name} is not lost, it is {path}: go on with it, or found anew under another name"
        )


def _kept(store: Store, name: str, key: _NewKey) -> Path | None:
    if key.private is None:
        return None
    path = key_file(store, name)
    keep_private(path, key.private)
    return path
