"""The roll of people: who counts at a line of the ledger, folded from the lines before it, from nothing else.

1. The first person of a home is enrolled by nobody: there is nobody yet who could sign.
2. Everybody else is enrolled, and is removed, by a line that carries a DSSE envelope over a `PersonStatement`, signed
   by a person who counted at that line, about exactly this person and key, upon exactly the line before. So a chain of
   signatures leads from everyone who counts to the first, and no statement counts in another home or at another time.
   A name that counts is nobody else's, nor a role; a key is one person's for ever.
3. `people_founded_anew` removes everybody and begins again with one person, whom nobody signed for. It is for keys that
   are lost, and is told of for ever (`Roll.founded_anew`).

Whether the policy let the signer enrol is checked when a line is written (`release.people.enrolment`), not here: the
policy may have changed since, no ledger line says what it was, and who was well introduced is not put out by that. A
person who counts, but may not enrol, and who writes into the database with the home's keys past the commands, is
therefore not stopped here; that they signed it is kept in the line, and the alert about it says that they may not
(`release.people.staffing`).
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError

from voice_pipeline.release.errors import KeyRefusedError, PersonRefusedError, UnknownPersonError
from voice_pipeline.release.people.keys import as_stored, check_signed, read_public
from voice_pipeline.schema.canonical import canonical_json
from voice_pipeline.schema.release import PersonEvent, PersonStatement
from voice_pipeline.schema.release_policy import PERSON_WORD
from voice_pipeline.store.ledger import LedgerLine
from voice_pipeline.store.store import Store
from voice_pipeline.trust import MALFORMED

PAYLOAD_TYPE = "application/vnd.voice-pipeline.release-person+json"
CLOCKS_APART = timedelta(minutes=10)
"""A statement is recorded when it is signed: more than this between the two, and it was kept for later."""


@dataclass(frozen=True)
class Person:
    """One enrolment. `fingerprint` is the sha256 of the public key's DER; `removed_seq` None while it counts."""

    name: str
    role: str
    public_key: str
    fingerprint: str
    enrolled_seq: int
    enrolled_at: str
    removed_seq: int | None = None

    def counted_at(self, seq: int) -> bool:
        """Whether this enrolment counted when ledger line `seq` was written."""
        return self.enrolled_seq < seq and (self.removed_seq is None or seq < self.removed_seq)


@dataclass(frozen=True)
class Roll:
    """What the lines about people come to.

    Attributes:
        people: every enrolment there ever was, in order.
        lines: how many lines about people there are.
        refused: of each line that counts for nothing, which and why.
        founded_anew: of each time that all began again, when, with whom and why.
    """

    people: tuple[Person, ...] = ()
    lines: int = 0
    refused: tuple[str, ...] = ()
    founded_anew: tuple[str, ...] = ()

    @property
    def here(self) -> tuple[Person, ...]:
        """The people who count now."""
        return tuple(person for person in self.people if person.removed_seq is None)

    def after(self, line: LedgerLine) -> Roll:
        """The roll with one more line. A line that is not right in everything, written by whomever, changes nobody."""
        try:
            return self.accepting(line)
        except PersonRefusedError as error:
            told = f"ledger line {line.seq} ({line.kind} {line.subject}) counts for nothing: {error}"
            return replace(self, lines=self.lines + 1, refused=(*self.refused, told))

    def accepting(self, line: LedgerLine) -> Roll:
        """The roll with one more line that counts.

        Raises:
            PersonRefusedError: it counts for nothing, and why.
        """
        grown = replace(self, lines=self.lines + 1)
        try:
            if line.kind == PersonEvent.ENROLLED:
                return replace(grown, people=(*self.people, self._introduced(line)))
            if line.kind == PersonEvent.REMOVED:
                return replace(grown, people=self._without(line))
            return self._founded_anew(line, grown)
        except KeyRefusedError as error:
            raise PersonRefusedError(str(error).splitlines()[0]) from error
        except (VerificationError, *MALFORMED) as error:
            raise PersonRefusedError("it is malformed") from error

    def named(self, name: str) -> Person | None:
        """Who counts now under that name."""
        return next((person for person in self.here if person.name == name), None)

    def _introduced(self, line: LedgerLine) -> Person:
        person = _person(line)
        if self.people:
            self._check_signature(line, person)
        self._check_new(person, self.here)
        return person

    def _without(self, line: LedgerLine) -> tuple[Person, ...]:
        gone = self.named(line.subject)
        if gone is None:
            raise PersonRefusedError(f"{line.subject} is not enrolled")
        if (line.payload["role"], line.payload["fingerprint"]) != (gone.role, gone.fingerprint):
            raise PersonRefusedError(f"that is not the enrolment of {gone.name}")
        self._check_signature(line, gone)
        return tuple(replace(p, removed_seq=line.seq) if p is gone else p for p in self.people)

    def _founded_anew(self, line: LedgerLine, grown: Roll) -> Roll:
        person, reason = _person(line), line.payload["reason"]
        if not self.people or not reason.strip():
            raise PersonRefusedError("nothing to found anew, or no reason")
        self._check_new(person, ())
        reason.encode()  # half a character of JSON can be told to nobody
        removed = (replace(p, removed_seq=line.seq) if p.removed_seq is None else p for p in self.people)
        told = (
            f"founded anew at {line.at[:16]} (ledger line {line.seq}) with {person.name} ({person.role}), signed by "
            f"nobody: {' '.join(reason.split())}"
        )
        return replace(grown, people=(*removed, person), founded_anew=(*self.founded_anew, told))

    def _check_new(self, person: Person, here: tuple[Person, ...]) -> None:
        """Raises `PersonRefusedError` unless name and key are nobody else's, with those `here` beside them."""
        name, role = person.name, person.role
        if any(other.name == name for other in here):
            first = f"`voice-pipeline release people remove {name} --as NAME` first"
            raise PersonRefusedError(f"{name} is enrolled already; {first}")
        if name in {other.role for other in here} or role in {other.name for other in here}:
            raise PersonRefusedError(f"{name} as {role}: a name here is nobody's role; choose another")
        owners = {other.fingerprint: other.name for other in self.people if other.name != name}
        if owner := owners.get(person.fingerprint):
            key = person.fingerprint[:12]
            raise PersonRefusedError(f"the key {key} of {name} is, or was, that of {owner}; everyone has their own")

    def _check_signature(self, line: LedgerLine, about: Person) -> None:
        """Raises `PersonRefusedError`, or one of `MALFORMED`, unless `line.actor` counts, and signed just this line."""
        signer = self.named(line.actor)
        if signer is None:
            raise PersonRefusedError(f"{line.actor} was not enrolled then, and so could not sign it")
        try:
            envelope = Envelope.from_dict(copy.deepcopy(line.payload["envelope"]))
            check_signed(signer.public_key, envelope)
        except (VerificationError, *MALFORMED) as error:
            raise PersonRefusedError(f"not signed by {signer.name}") from error
        said = PersonStatement.model_validate_json(envelope.payload)
        if envelope.payload_type != PAYLOAD_TYPE or envelope.payload != canonical_json(said):
            raise PersonRefusedError(f"what {signer.name} signed is no word about people")
        meant = (said.event, said.name, said.role, said.fingerprint)
        if meant != (line.kind, about.name, about.role, about.fingerprint):
            raise PersonRefusedError(f"{signer.name} signed something else: {said.event} {said.name} as {said.role}")
        if said.upon != line.prev_hash:
            raise PersonRefusedError(f"{signer.name} signed it upon another line than the one before it")
        if abs(datetime.fromisoformat(line.at) - said.at) > CLOCKS_APART:
            raise PersonRefusedError(f"{signer.name} signed it at {said.at:%Y-%m-%d %H:%M}, not when it was recorded")


def roll_of(store: Store) -> Roll:
    """The roll of a home, as its ledger has it now."""
    head, roll = store.ledger.head(), Roll()
    lines = [line for kind in PersonEvent for line in store.ledger.lines(kind=kind) if line.seq <= head]
    for line in sorted(lines, key=lambda line: line.seq):
        roll = roll.after(line)
    return roll


def enrolments(store: Store) -> tuple[Person, ...]:
    """Every enrolment there ever was, in order."""
    return roll_of(store).people


def enrolled(store: Store) -> tuple[Person, ...]:
    """The people who count now, in order of enrolment."""
    return roll_of(store).here


def find_person(store: Store, name: str) -> Person:
    """Raises:
    UnknownPersonError: nobody of that name counts now.
    """
    person = roll_of(store).named(name)
    if person is None:
        raise unknown_person(name)
    return person


def unknown_person(name: str) -> UnknownPersonError:
    return UnknownPersonError(f"{name!r} is not enrolled; `voice-pipeline release people list` shows who is")


def is_word(text: Any) -> bool:
    """Whether it can be a name or a role."""
    return isinstance(text, str) and re.fullmatch(PERSON_WORD, text) is not None


def _person(line: LedgerLine) -> Person:
    """Who an enrolment is about. Raises one of `MALFORMED`, `KeyRefusedError` or `PersonRefusedError`."""
    pem, fingerprint = as_stored(read_public(line.payload["public_key"].encode()))
    role = line.payload["role"]
    if not is_word(line.subject) or not is_word(role):
        raise PersonRefusedError("that is no name and role")
    if fingerprint != line.payload["fingerprint"]:
        raise PersonRefusedError("the fingerprint is not that of the key")
    return Person(line.subject, role, pem, fingerprint, line.seq, line.at)
