"""A hypothesis state machine over the roll of people: whoever enrols, removes, founds anew, forges and replays, in
whatever order, nobody ever counts whom no chain of signatures leads to from the first person.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from securesystemslib.signer import CryptoSigner

from voice_pipeline.release.errors import PersonRefusedError, UnknownPersonError
from voice_pipeline.release.people.enrolment import enrol, found_anew, remove
from voice_pipeline.release.people.keys import PersonKey, as_stored
from voice_pipeline.release.people.roll import PAYLOAD_TYPE, roll_of
from voice_pipeline.schema.canonical import canonical_json
from voice_pipeline.schema.release import PersonEvent, PersonStatement
from voice_pipeline.settings import Settings
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline_tests.release.conftest import START

MANAGER = "release-manager"
NAMES = st.sampled_from(["ann", "bob", "cleo", "eve", "speech"])
ROLES = st.sampled_from([MANAGER, MANAGER, "speech", "bob"])
KEYS = [Ed25519PrivateKey.generate() for _ in range(5)]
NUMBERS = st.integers(0, len(KEYS) - 1)
SIGNERS = st.one_of(NUMBERS, NUMBERS, NUMBERS, st.tuples(NAMES, NUMBERS))
"""Mostly somebody who counts, by number; else anybody's name with whatever key."""


Signer = int | tuple[str, int]


class People(RuleBasedStateMachine):
    """`here` says who counts by the rules in plain words: name → (role, number of the key)."""

    @initialize()
    def begin(self) -> None:
        self.home = Path(tempfile.mkdtemp())
        self.store = Store.open(Settings(home=self.home / "home"), ManualClock(START))
        self.here: dict[str, tuple[str, int]] = {}
        self.owners: dict[int, set[str]] = {key: set() for key in range(len(KEYS))}
        self.begun = False

    def teardown(self) -> None:
        if hasattr(self, "home"):
            self.store.database.engine.dispose()
            shutil.rmtree(self.home)

    @rule(name=NAMES, role=ROLES, key=NUMBERS, who=SIGNERS)
    def add(self, name: str, role: str, key: int, who: Signer) -> None:
        by, signs = self._signer(who)
        fresh = self._fresh(name, role, key)
        allowed = self._manager(by, signs) if self.begun else role == MANAGER
        try:
            enrol(self.store, name, role, _pem(key), PersonKey(by, CryptoSigner(KEYS[signs])))
            done = True
        except (PersonRefusedError, UnknownPersonError):
            done = False
        assert done == (fresh and allowed)
        if done:
            self._in(name, role, key)

    @rule(name=NAMES, who=SIGNERS)
    def take_out(self, name: str, who: Signer) -> None:
        by, signs = self._signer(who)
        others = [n for n, (role, _) in self.here.items() if n != name and role == MANAGER]
        may = self._manager(by, signs) or (by == name and self._holds(by, signs))
        stays = self.here.get(name, ("", 0))[0] == MANAGER and not others
        try:
            remove(self.store, name, PersonKey(by, CryptoSigner(KEYS[signs])))
            done = True
        except (PersonRefusedError, UnknownPersonError):
            done = False
        assert done == (name in self.here and may and not stays)
        if done:
            del self.here[name]

    @rule(name=NAMES, role=ROLES, key=NUMBERS)
    def begin_anew(self, name: str, role: str, key: int) -> None:
        try:
            found_anew(self.store, name, role, "lost", _pem(key))
            done = True
        except PersonRefusedError:
            done = False
        assert done == (self.begun and role == MANAGER and self.owners[key] <= {name})
        if done:
            self.here.clear()
            self._in(name, role, key)

    @rule(name=NAMES, role=ROLES, key=NUMBERS)
    def forge_a_founding(self, name: str, role: str, key: int) -> None:
        """Past the commands, with whatever role. Nobody signs a founding, so it counts and is told of for ever, unless
        the key is or was another person's."""
        pem, fingerprint = as_stored(KEYS[key].public_key())
        payload = {"role": role, "public_key": pem, "fingerprint": fingerprint, "reason": "lost"}
        self.store.ledger.append(PersonEvent.FOUNDED_ANEW, name, payload, "mallory")
        if self.begun and self.owners[key] <= {name}:
            self.here.clear()
            self._in(name, role, key)

    @rule(
        event=st.sampled_from([PersonEvent.ENROLLED, PersonEvent.REMOVED]),
        name=NAMES,
        role=ROLES,
        key=NUMBERS,
        who=SIGNERS,
        stale=st.booleans(),
    )
    def forge(self, event: PersonEvent, name: str, role: str, key: int, who: Signer, stale: bool) -> None:
        """A line past the commands. It counts if who signs it counts, with their own key, upon the line before, and
        name and key are nobody else's."""
        if not self.begun:
            return
        by, signs = self._signer(who)
        pem, fingerprint = as_stored(KEYS[key].public_key())
        if event is PersonEvent.REMOVED and name in self.here:
            role, key = self.here[name]
            fingerprint = as_stored(KEYS[key].public_key())[1]
        upon = "0" * 64 if stale else self.store.ledger.lines()[-1].hash
        said = PersonStatement(
            event=event, name=name, role=role, fingerprint=fingerprint, at=self.store.now(), upon=upon
        )
        envelope = PersonKey(by, CryptoSigner(KEYS[signs])).sign(canonical_json(said), PAYLOAD_TYPE)
        public = {"public_key": pem} if event is PersonEvent.ENROLLED else {}
        payload = {"role": role, "fingerprint": fingerprint, **public, "envelope": envelope}
        self.store.ledger.append(event, name, payload, by)
        if stale or not self._holds(by, signs):
            return
        if event is PersonEvent.ENROLLED and self._fresh(name, role, key):
            self._in(name, role, key)
        elif event is PersonEvent.REMOVED:
            self.here.pop(name, None)

    @rule(number=st.integers(0, 30))
    def replay(self, number: int) -> None:
        """An old line about people, said again as it was; only a founding, which nobody signs, does anything."""
        lines = [line for line in self.store.ledger.lines() if line.kind != PersonEvent.FOUNDED_ANEW]
        if lines:
            line = lines[number % len(lines)]
            self.store.ledger.append(line.kind, line.subject, line.payload, line.actor)

    @invariant()
    def only_who_was_introduced_counts(self) -> None:
        if not hasattr(self, "home"):
            return
        counted = {p.name: (p.role, p.fingerprint) for p in roll_of(self.store).here}
        assert counted == {n: (role, as_stored(KEYS[k].public_key())[1]) for n, (role, k) in self.here.items()}

    def _fresh(self, name: str, role: str, key: int) -> bool:
        roles = {other for other, _ in self.here.values()}
        clash = name in {*self.here, *roles} or role in self.here
        return not clash and self.owners[key] <= {name}

    def _in(self, name: str, role: str, key: int) -> None:
        self.here[name], self.begun = (role, key), True
        self.owners[key].add(name)

    def _signer(self, who: Signer) -> tuple[str, int]:
        if not isinstance(who, int):
            return who
        if not self.here:
            return "ann", who
        name = sorted(self.here)[who % len(self.here)]
        return name, self.here[name][1]

    def _holds(self, name: str, key: int) -> bool:
        return name in self.here and self.here[name][1] == key

    def _manager(self, name: str, key: int) -> bool:
        return self._holds(name, key) and self.here[name][0] == MANAGER


def _pem(key: int) -> bytes:
    return as_stored(KEYS[key].public_key())[0].encode()


TestPeople = People.TestCase
TestPeople.settings = settings(
    max_examples=30, stateful_step_count=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
