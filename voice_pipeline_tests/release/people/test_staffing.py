"""Telling people that the roll changed: of each line once, of who may not have written it, and cheaply."""

from __future__ import annotations

import pytest
from sqlalchemy import event

from voice_pipeline.release.controller import tick
from voice_pipeline.release.people import staffing
from voice_pipeline.release.people.enrolment import enrol, person_key, remove
from voice_pipeline.release.people.keys import PersonKey
from voice_pipeline.release.people.roll import PAYLOAD_TYPE, enrolled
from voice_pipeline.release.people.staffing import tell_untold
from voice_pipeline.release.policy import standing_policy
from voice_pipeline.schema.canonical import canonical_json
from voice_pipeline.schema.release import PersonEvent
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import ReleasePolicy
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import alerts
from voice_pipeline_tests.release.people.test_signed_people import MANAGER, new_key, said_of
from voice_pipeline_tests.release.test_controller import in_stage
from voice_pipeline_tests.release.world import Behaviour, World

CHANGED = "who may decide about releases changed"
BY_WHO_MAY_NOT = "who may decide about releases was changed by somebody who may not"


@pytest.fixture
def policy(store: Store) -> ReleasePolicy:
    return standing_policy(store).policy


@pytest.fixture
def bob(store: Store, policy: ReleasePolicy) -> PersonKey:
    """Who counts, but may not enrol; ann, who may, is there too."""
    enrol(store, "ann", MANAGER)
    enrol(store, "bob", "speech", by=person_key(store, "ann"))
    tell_untold(store, policy)
    return person_key(store, "bob")


def titles(store: Store) -> list[str]:
    return [row["title"] for row in store.database.rows(alerts.select().order_by(alerts.c.at))]


def test_who_may_not_enrol_and_signs_past_the_commands_is_told_of(
    store: Store, policy: ReleasePolicy, bob: PersonKey
) -> None:
    plain = {"role": MANAGER, **new_key()}
    envelope = bob.sign(canonical_json(said_of(store, plain)), PAYLOAD_TYPE)
    store.ledger.append(PersonEvent.ENROLLED, "eve", {**plain, "envelope": envelope}, "bob")
    assert titles(store) == [CHANGED, CHANGED]
    (told,) = tell_untold(store, policy)
    assert told.startswith(
        f"eve enrolled as {MANAGER} by bob (speech), who may not: policy/release.yaml names {MANAGER};"
    )
    ann = enrolled(store)[0]
    plain = {"role": MANAGER, "fingerprint": ann.fingerprint}
    said = said_of(store, plain, event=PersonEvent.REMOVED, name="ann")
    payload = {**plain, "envelope": bob.sign(canonical_json(said), PAYLOAD_TYPE)}
    store.ledger.append(PersonEvent.REMOVED, "ann", payload, "bob")
    (told,) = tell_untold(store, policy)
    assert told.startswith("ann removed by bob (speech), who may not: policy/release.yaml names ")
    assert sorted(titles(store)) == [CHANGED, CHANGED, BY_WHO_MAY_NOT, BY_WHO_MAY_NOT]


def test_everyone_may_remove_themselves(store: Store, policy: ReleasePolicy, bob: PersonKey) -> None:
    remove(store, "bob", bob)
    (told,) = tell_untold(store, policy)
    assert told.startswith("bob removed by bob; key ")
    assert titles(store) == [CHANGED] * 3


def test_without_news_it_costs_as_little_however_many_lines_there_are(
    store: Store, policy: ReleasePolicy, bob: PersonKey
) -> None:
    """Every tick asks."""
    statements: list[str] = []
    event.listen(store.database.engine, "before_cursor_execute", lambda _c, _cursor, text, *_: statements.append(text))
    assert tell_untold(store, policy) == []
    few = len(statements)
    for number in range(4):
        enrol(store, f"p{number}", "speech", by=person_key(store, "ann"))
    assert len(tell_untold(store, policy)) == 4
    statements.clear()
    assert tell_untold(store, policy) == []
    assert len(statements) == few


def test_harm_is_undone_and_told_even_when_a_line_about_people_cannot_be(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = in_stage(world, S.CANARY_5, Behaviour(correction=0.9))
    world.person("ann")
    world.report(minutes=5)

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(staffing, "raise_alert", full_disk)
    with pytest.raises(OSError, match="No space"):
        tick(world.store, world.policy)
    assert world.view(model).state is S.ROLLED_BACK
    assert len(world.alerts("rolled back")) == 1
    monkeypatch.undo()
    tick(world.store, world.policy)
    assert any(body.startswith("ann enrolled") for body in world.alerts("who may decide"))
