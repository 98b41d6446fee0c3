"""What of the policy nobody who is enrolled can do, or one person only; and telling people that the roll changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import select

from voice_pipeline.release.people.roll import Person, Roll
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.release import Decision, PersonEvent
from voice_pipeline.schema.release_policy import ANYONE, ReleasePolicy
from voice_pipeline.store.alerts import raise_alert
from voice_pipeline.store.ledger import LedgerLine
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import alerts

MAY_NOT = "who may decide about releases was changed by somebody who may not"
"""Title of an alert."""


def gaps(policy: ReleasePolicy, people: Sequence[Person]) -> list[str]:
    """One line for each thing that the enrolled people should know about who of them may what; none of nobody."""
    return list(_gaps(policy, people)) if people else []


def tell_untold(store: Store, policy: ReleasePolicy) -> list[str]:
    """Alert of each line about people that nobody was told of yet; returns what was told. A line has one alert, by its
    hash: its number can come again in a catalogue that was restored. Lines are told of in order, so that of the last
    one says whether there is news at all; a tick without news costs no signature.
    """
    told, lines = [], _lines(store)
    if not lines or _is_told(store, lines[-1]):
        return []
    for line, title, body in _each(lines, policy):
        if not _is_told(store, line):
            raise_alert(store, _cause(line), title, body)
            told.append(body)
    return told


def unnamed(policy: ReleasePolicy, name: str, role: str) -> str:
    """What to know about an enrolled person whom the policy names nowhere; "" of one whom it does."""
    lists = [*policy.authority.values(), *policy.overrides.values(), policy.people]
    words = {word for named in lists for word in named} - {ANYONE}
    if {name, role} & words:
        return ""
    anyones = ", ".join(decision for decision, named in policy.authority.items() if ANYONE in named) or "nothing"
    return (
        f"policy/release.yaml names neither {name} nor {role}, so {name} may do what anyone enrolled may: {anyones}; "
        f"it names {', '.join(sorted(words)) or 'nobody'}"
    )


def changed_by_who_may_not(store: Store, policy: ReleasePolicy) -> list[str]:
    """What people changed about the roll who, by the policy as it is now, may not: the roll itself asks for a signature
    of somebody who counts, no more, since no ledger line says what the policy was.
    """
    return [
        f"by policy/release.yaml as it is: {body}"
        for _, title, body in _each(_lines(store), policy)
        if title == MAY_NOT
    ]


def _lines(store: Store) -> list[LedgerLine]:
    lines = (line for kind in PersonEvent for line in store.ledger.lines(kind=kind))
    return sorted(lines, key=lambda line: line.seq)


def _each(lines: Sequence[LedgerLine], policy: ReleasePolicy) -> Iterator[tuple[LedgerLine, str, str]]:
    """Each line with title and text of its alert."""
    roll = Roll()
    for line in lines:
        before, roll = roll, roll.after(line)
        yield line, *_news(line, before, roll, policy)


def _cause(line: LedgerLine) -> dict[str, str]:
    return {"event": "people", "ledger_line": line.hash}


def _is_told(store: Store, line: LedgerLine) -> bool:
    return store.database.row(select(alerts.c.alert_id).where(alerts.c.alert_id == digest(_cause(line)))) is not None


def _gaps(policy: ReleasePolicy, people: Sequence[Person]) -> Iterator[str]:
    entitled = [person.name for person in people if policy.may_enrol(person.name, person.role)]
    named = ", ".join(policy.people)
    if not entitled:
        yield f"nobody who is enrolled may enrol or remove people; policy/release.yaml names {named}"
    if len(entitled) == 1:
        yield (
            f"only {entitled[0]} may enrol and remove people; if that key is lost nobody can: enrol a second person "
            f"({named}) with `voice-pipeline release people add NAME --role ROLE --as {entitled[0]}`"
        )
    wanted: list[tuple[str, Decision, str | None]] = [(said.value, said, None) for said in policy.authority]
    wanted += [(f"override {gate}", Decision.OVERRIDE, gate) for gate in policy.overrides]
    missing = {
        said: policy.named(decision, gate)
        for said, decision, gate in wanted
        if not any(policy.may(person.name, person.role, decision, gate) for person in people)
    }
    if missing:
        able = ", ".join(sorted({word for words in missing.values() for word in words})) or "nobody"
        yield f"nobody who is enrolled may {', '.join(missing)}; policy/release.yaml names {able}"


def _news(line: LedgerLine, before: Roll, after: Roll, policy: ReleasePolicy) -> tuple[str, str]:
    """Title and text of the alert about a line, given the roll before it and with it."""
    if len(after.refused) > len(before.refused):
        return "a line about people counts for nothing", after.refused[-1]
    if line.kind == PersonEvent.FOUNDED_ANEW:
        gone = ", ".join(person.name for person in before.here) or "nobody"
        return (
            "people were founded anew: nobody signed for who may decide now",
            f"{after.founded_anew[-1]}; fingerprint {after.people[-1].fingerprint}; counts no more: {gone}",
        )
    title, signer = "who may decide about releases changed", before.named(line.actor)
    by = "as the first person, signed by nobody"
    if signer:
        by = f"by {signer.name}"
        if line.subject != signer.name and not policy.may_enrol(signer.name, signer.role):
            title = MAY_NOT
            by += f" ({signer.role}), who may not: policy/release.yaml names {', '.join(policy.people)}"
    if line.kind == PersonEvent.REMOVED:
        return title, f"{line.subject} removed {by}; key {line.payload['fingerprint'][:16]} counts no more"
    new = after.people[-1]
    return title, f"{new.name} enrolled as {new.role} {by}; fingerprint {new.fingerprint}"
