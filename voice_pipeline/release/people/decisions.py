"""What people say about a release: signed, checked against the policy's authority, kept in the ledger.

1. A person signs a `DecisionStatement` (`record_decision`): the release, its bundle's digest, what they decide and why,
   and the last transition that they saw. The DSSE envelope is stored in a ledger line of kind `decision`.
2. `hold`, `rollback`: devices are waiting, so the line and the transition that it asks for are one transaction, at once
   and in this process. No sensor has to run.
3. `approve`, `reject`, `resume`: a row beside the line is the queue, which `rollout_sensor` empties
   (`release.carrying_out`; an approval is carried out by `release.controller.advance`). A sign-off is never a run that
   waits.
4. `override`, `readmit`: evidence from then on (`release.people.overrides`, `release.people.readmission`).

Whoever acts on a decision verifies it again (`verified`), from the ledger line alone: a row or a line that somebody
wrote into the database, a signature by another key, a person who was enrolled later or removed since, a statement that
was made about another release, bundle or state, or signed at another time, all count for nothing.
"""

from __future__ import annotations

import copy
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from sqlalchemy import insert, select

from voice_pipeline.release.errors import DecisionRefusedError, UnknownReleaseError, UnverifiedDecisionError
from voice_pipeline.release.machine import Step, step_of, write_steps
from voice_pipeline.release.people.fitting import FITS, QUEUED, instead
from voice_pipeline.release.people.keys import PersonKey, check_signed
from voice_pipeline.release.people.roll import CLOCKS_APART, Person, enrolments, find_person
from voice_pipeline.release.policy import standing_policy
from voice_pipeline.release.rollback import rollback_steps, tell_untold
from voice_pipeline.schema.canonical import canonical_json
from voice_pipeline.schema.release import Decision, DecisionStatement
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import ReleasePolicy
from voice_pipeline.store.errors import LedgerConflictError
from voice_pipeline.store.ledger import LedgerLine
from voice_pipeline.store.releases import ReleaseView, release_stream, releases_at_head
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import decisions
from voice_pipeline.trust import MALFORMED

DECISION = "decision"
PAYLOAD_TYPE = "application/vnd.voice-pipeline.release-decision+json"
TRIES = 5


@dataclass(frozen=True)
class SignedDecision:
    """A decision whose signature was found good. `seq` and `recorded_at` are those of its ledger line."""

    statement: DecisionStatement
    actor: str
    seq: int
    recorded_at: datetime

    @property
    def decision_id(self) -> str:
        return self.statement.decision_id

    @property
    def reason(self) -> str:
        return self.statement.reason

    @property
    def at(self) -> str:
        """ISO time at which it was recorded."""
        return self.recorded_at.isoformat()

    @property
    def said(self) -> str:
        return f"{self.statement.decision} by {self.actor}: {self.reason}"


@dataclass(frozen=True)
class QueuedDecision:
    """A row that says that a decision waits; what was decided, only the ledger line says."""

    decision_id: str
    release_id: str


def record_decision(
    store: Store, release_id: str, decision: Decision, person: PersonKey, reason: str, gate: str | None = None
) -> SignedDecision:
    """Sign and store what `person` decided. Hold and rollback are in force when this returns.

    Args:
        gate: with an override, and with nothing else, the gate that is overridden.

    Raises:
        UnknownReleaseError: no such release.
        UnknownPersonError: the person was removed.
        DecisionRefusedError: they may not, the reason is empty, or the decision does not fit the state.
        LedgerConflictError: the release moved meanwhile; look again. (A stop is decided anew, `TRIES` times.)
        LedgerBrokenError: the ledger does not verify; nobody can tell what would be decided about.
    """
    store.ledger.verify()
    for _ in range(0 if decision in QUEUED else TRIES - 1):
        try:
            return _record(store, release_id, decision, person, reason, gate)
        except LedgerConflictError:
            continue
    return _record(store, release_id, decision, person, reason, gate)


def _record(
    store: Store, release_id: str, decision: Decision, person: PersonKey, reason: str, gate: str | None
) -> SignedDecision:
    policy = standing_policy(store).policy
    with store.database.write() as connection:  # nobody else writes from here on, so what is read stays true
        head, views = releases_at_head(store)
        view = next((v for v in views if v.release_id == release_id), None)
        if view is None:
            raise UnknownReleaseError(f"release {release_id} does not exist; `voice-pipeline release status` lists all")
        statement = _statement(store, policy, view, decision, reason, gate)
        _check(store, policy, view, statement, person.name)
        if (waits := waiting_decision(store, policy, view)) and waits.statement.decision is decision:
            raise DecisionRefusedError(f"{release_id} waits for rollout_sensor to carry out: {waits.said}")
        payload = {**_plain(statement), "envelope": person.sign(canonical_json(statement), PAYLOAD_TYPE)}
        stream = release_stream(release_id, view.bundle_digest)
        line = store.ledger.append(DECISION, release_id, payload, person.name, head, connection, stream)
        signed = verified(store, policy, line, view)
        if decision in QUEUED:
            row = {"release_id": release_id, "actor": person.name, "at": statement.at.isoformat()}
            row |= {name: _plain(statement)[name] for name in ("decision_id", "decision", "reason")}
            connection.execute(insert(decisions).values(row))
        elif steps := _stop(view, views, signed):
            write_steps(store, line.seq, views, steps, policy.digest, person.name, connection=connection)
    if decision is Decision.ROLLBACK:
        tell_untold(store)
    return signed


def verified(store: Store, policy: ReleasePolicy, line: LedgerLine, view: ReleaseView) -> SignedDecision:
    """The decision of a ledger line about `view`, if it is all that it has to be.

    Raises:
        UnverifiedDecisionError: says what is wrong with which line.
    """
    person = _signer(line, enrolments(store))
    if person.removed_seq is not None:
        raise _unverified(line, f"{person.name} was removed since")
    statement = signed_statement(line, person)
    before = [step.seq for step in view.transitions if step.seq < line.seq]
    if (statement.release_id, statement.bundle_digest) != (view.release_id, view.bundle_digest):
        raise _unverified(line, f"it was signed for {statement.release_id}, bundle {statement.bundle_digest[:12]}")
    if not before or statement.seen_seq != before[-1]:
        raise _unverified(line, f"it was signed when ledger line {statement.seen_seq} was the last of the release")
    recorded_at = datetime.fromisoformat(line.at)
    if abs(recorded_at - statement.at) > CLOCKS_APART:
        raise _unverified(line, f"it was signed at {statement.at:%Y-%m-%d %H:%M}, not when it was recorded")
    if any(_id(other) == _id(line) for other in _lines(store, view.release_id) if other.seq < line.seq):
        raise _unverified(line, "it is a copy of an earlier line")
    if not policy.may(person.name, person.role, statement.decision, statement.gate):
        raise _unverified(line, f"{person.name} may not {statement.decision}")
    return SignedDecision(statement, person.name, line.seq, recorded_at)


def signed_statement(line: LedgerLine, person: Person) -> DecisionStatement:
    """What `person` signed, if the line says the same.

    Raises:
        UnverifiedDecisionError: they signed nothing of the kind.
    """
    try:
        envelope = Envelope.from_dict(copy.deepcopy(line.payload["envelope"]))
        check_signed(person.public_key, envelope)
        statement = DecisionStatement.model_validate_json(envelope.payload)
        said = {key: value for key, value in line.payload.items() if key != "envelope"}
        if envelope.payload_type != PAYLOAD_TYPE or envelope.payload != canonical_json(statement):
            raise ValueError("what is signed is no decision")
        if said != _plain(statement) or line.subject != statement.release_id:
            raise ValueError("the line says something else than what is signed")
    except (*MALFORMED, VerificationError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _unverified(line, f"not signed by {person.name} ({first})") from error
    return statement


def pending_decisions(store: Store) -> list[QueuedDecision]:
    """Decisions that wait for the sensor, oldest first."""
    statement = select(decisions.c.decision_id, decisions.c.release_id).where(decisions.c.applied_seq.is_(None))
    return [QueuedDecision(**row) for row in store.database.rows(statement.order_by(decisions.c.at))]


def waiting_decision(store: Store, policy: ReleasePolicy, view: ReleaseView) -> SignedDecision | None:
    """The newest decision about a release that waits for the sensor and that it will carry out; None without one."""
    last = view.transitions[-1].seq
    fit = [signed for signed in _waiting(store, policy, view) if signed.statement.seen_seq == last]
    return fit[-1] if fit else None


def waiting_rejection(store: Store, policy: ReleasePolicy, view: ReleaseView) -> SignedDecision | None:
    """A rejection that waits for the sensor, whatever the release did since; None without one."""
    rejections = (one for one in _waiting(store, policy, view) if one.statement.decision is Decision.REJECT)
    return next(rejections, None)


def waiting_of(store: Store, name: str) -> list[SignedDecision]:
    """What a person signed that waits for the sensor."""
    policy, views = standing_policy(store).policy, releases_at_head(store)[1]
    return [signed for view in views for signed in _waiting(store, policy, view) if signed.actor == name]


def _waiting(store: Store, policy: ReleasePolicy, view: ReleaseView) -> Iterator[SignedDecision]:
    """What waits for the sensor about a release and verifies, oldest first."""
    for queued in pending_decisions(store):
        if queued.release_id == view.release_id:
            with suppress(UnverifiedDecisionError):  # the tick tells people of it
                yield queued_decision(store, policy, queued, view)


def queued_decision(
    store: Store, policy: ReleasePolicy, queued: QueuedDecision, view: ReleaseView | None
) -> SignedDecision:
    """What a row of the queue stands for, by the ledger.

    Raises:
        UnverifiedDecisionError: there is no such line or release, or the line does not verify.
    """
    lines = [line for line in _lines(store, queued.release_id) if _id(line) == queued.decision_id]
    if view is None or not lines:
        raise UnverifiedDecisionError(f"decision {queued.decision_id} has no ledger line about {queued.release_id}")
    signed = verified(store, policy, lines[0], view)
    if signed.statement.decision not in QUEUED:
        raise _unverified(lines[0], f"{signed.statement.decision} never waits: it was carried out when it was made")
    return signed


def approval_of(store: Store, policy: ReleasePolicy, view: ReleaseView) -> SignedDecision | None:
    """The approval of a release that awaits its sign-off, given since it began to wait; None without one."""
    since = next((t.seq for t in reversed(view.transitions) if t.to_state is S.AWAITING_SIGN_OFF), 0)
    for line in reversed(_lines(store, view.release_id)):
        if line.seq <= since or line.payload.get("decision") != Decision.APPROVE:
            continue
        try:
            return verified(store, policy, line, view)
        except UnverifiedDecisionError:
            continue  # the tick tells people of it
    return None


def signed_decisions(store: Store, release_id: str) -> list[SignedDecision]:
    """What people signed about a release who were enrolled then, carried out or not."""
    known, signed = enrolments(store), []
    for line in _lines(store, release_id):
        try:
            statement = signed_statement(line, _signer(line, known))
        except UnverifiedDecisionError:
            continue
        signed.append(SignedDecision(statement, line.actor, line.seq, datetime.fromisoformat(line.at)))
    return signed


def unsigned_decisions(store: Store) -> tuple[int, list[str]]:
    """How many decisions the ledger holds, and which of them nobody signed who was enrolled then, and why not."""
    lines, known = store.ledger.lines(kind=DECISION), enrolments(store)
    problems = []
    for line in lines:
        try:
            signed_statement(line, _signer(line, known))
        except UnverifiedDecisionError as problem:
            problems.append(str(problem))
    return len(lines), problems


def _signer(line: LedgerLine, known: tuple[Person, ...]) -> Person:
    """The enrolment under which the line was written. Raises `UnverifiedDecisionError`."""
    person = next((p for p in known if p.name == line.actor and p.counted_at(line.seq)), None)
    if person is None:
        raise _unverified(line, f"{line.actor} was not enrolled then")
    return person


def _statement(
    store: Store, policy: ReleasePolicy, view: ReleaseView, decision: Decision, reason: str, gate: str | None
) -> DecisionStatement:
    try:
        return DecisionStatement(
            decision_id=f"dec-{secrets.token_hex(8)}",
            release_id=view.release_id,
            bundle_digest=view.bundle_digest,
            policy_digest=policy.digest,
            decision=decision,
            gate=gate,
            reason=reason,
            at=store.now(),
            seen_seq=view.transitions[-1].seq,
        )
    except ValidationError as error:
        wrong = error.errors()[0]
        what = "needs a reason; give one" if "reason" in wrong["loc"] else wrong["msg"]
        raise DecisionRefusedError(f"{decision} of {view.release_id}: {what}") from error


def _plain(statement: DecisionStatement) -> dict[str, Any]:
    """What of a statement is in its ledger line in plain words."""
    plain: dict[str, Any] = statement.model_dump(mode="json", include={"decision_id", "decision", "gate", "reason"})
    return plain


def _check(store: Store, policy: ReleasePolicy, view: ReleaseView, statement: DecisionStatement, name: str) -> None:
    person, decision = find_person(store, name), statement.decision
    if not policy.may(person.name, person.role, decision, statement.gate):
        what = f"override gate {statement.gate} of" if statement.gate else decision
        named = ", ".join(policy.named(decision, statement.gate)) or "nobody"
        raise DecisionRefusedError(f"{name} ({person.role}) may not {what} releases; policy/release.yaml names {named}")
    if view.state not in FITS[decision]:
        fits = ", ".join(sorted(FITS[decision]))
        told = f"release {view.release_id} is {view.state}; {decision} fits only {fits}; {instead(view)}"
        raise DecisionRefusedError(told)


def _stop(view: ReleaseView, views: list[ReleaseView], signed: SignedDecision) -> list[Step]:
    """What a decision that does not wait does to the release."""
    if signed.statement.decision is Decision.HOLD:
        return [step_of(view, S.HELD, signed.said, {"decision_id": signed.decision_id})]
    if signed.statement.decision is Decision.ROLLBACK:
        return rollback_steps(view, views, signed.said, {"decision_id": signed.decision_id})
    return []


def _lines(store: Store, release_id: str) -> list[LedgerLine]:
    lines = store.ledger.lines(kind=DECISION, subject=release_id)
    return [line for line in lines if isinstance(line.payload, dict)]


def _id(line: LedgerLine) -> Any:
    return line.payload.get("decision_id")


def _unverified(line: LedgerLine, problem: str) -> UnverifiedDecisionError:
    return UnverifiedDecisionError(
        f"decision at ledger line {line.seq} about {line.subject} counts for nothing: {problem}"
    )
