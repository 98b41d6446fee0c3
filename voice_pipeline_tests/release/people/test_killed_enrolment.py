"""`kill -9` of an enrolment, a removal or a founding at every step, and two processes at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import ModuleType

import pytest

from voice_pipeline.release.errors import PersonRefusedError
from voice_pipeline.release.people import enrolment, keys, roll, staffing
from voice_pipeline.release.people.enrolment import enrol, found_anew, key_file, person_key, remove
from voice_pipeline.release.people.roll import enrolled, roll_of
from voice_pipeline.store import ledger
from voice_pipeline.store.store import Store
from voice_pipeline_tests.release.people.test_signed_people import MANAGER

CHANGES: dict[str, Callable[[Store], object]] = {
    "add": lambda store: enrol(store, "cleo", MANAGER, by=person_key(store, "ann")),
    "remove": lambda store: remove(store, "bob", person_key(store, "ann")),
    "found anew": lambda store: found_anew(store, "eve", MANAGER, "lost"),
}


@pytest.fixture
def peopled(store: Store) -> Store:
    enrol(store, "ann", MANAGER)
    enrol(store, "bob", MANAGER, by=person_key(store, "ann"))
    staffing.tell_untold(store)
    return store


def in_a_child(store: Store, what: Callable[[Store], object], module: ModuleType | None = None, name: str = "") -> int:
    """The id of a child that does `what` in its own store, and dies where it would call `name` of `module`."""
    store.database.engine.dispose()
    child = os.fork()
    if child == 0:
        if module is not None:
            setattr(module, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        try:
            what(Store.open(store.settings, store.clock))
        except PersonRefusedError:
            os._exit(3)
        os._exit(0)
    return child


def ended(child: int) -> int:
    """Its exit code; below 0 the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("module", "function"),
    [(enrolment, "_append"), (ledger, "insert"), (ledger, "after_commit")],
    ids=["key made", "signed", "written, not committed"],
)
def test_killed_before_the_commit_nothing_changed_and_it_can_be_done_again(
    peopled: Store, change: str, module: ModuleType, function: str
) -> None:
    before = enrolled(peopled)
    assert ended(in_a_child(peopled, CHANGES[change], module, function)) == -signal.SIGKILL
    peopled.ledger.verify()
    assert enrolled(peopled) == before
    assert all(person_key(peopled, person.name) for person in before)
    CHANGES[change](peopled)
    assert enrolled(peopled) != before
    assert roll_of(peopled).refused == ()
    assert all(person_key(peopled, person.name) for person in enrolled(peopled))
    assert [p.name for p in key_file(peopled, "ann").parent.iterdir() if p.suffix == ".tmp"] == []


@pytest.mark.parametrize("change", CHANGES)
def test_killed_after_the_commit_it_is_done_and_the_next_command_tells(peopled: Store, change: str) -> None:
    before = enrolled(peopled)

    def command(store: Store) -> None:
        CHANGES[change](store)
        staffing.tell_untold(store)

    assert ended(in_a_child(peopled, command, staffing, "raise_alert")) == -signal.SIGKILL
    assert enrolled(peopled) != before
    assert all(person_key(peopled, person.name) for person in enrolled(peopled))
    (told,) = staffing.tell_untold(peopled)
    assert {"add": "cleo enrolled", "remove": "bob removed", "found anew": "founded anew"}[change] in told
    assert staffing.tell_untold(peopled) == []


def test_a_kill_while_the_key_is_written_leaves_no_enrolment(peopled: Store) -> None:
    assert ended(in_a_child(peopled, CHANGES["add"], keys, "flush_folder")) == -signal.SIGKILL
    assert [person.name for person in enrolled(peopled)] == ["ann", "bob"]
    CHANGES["add"](peopled)
    assert person_key(peopled, "cleo")


def test_processes_that_enrol_at_once_are_all_heard_in_some_order(peopled: Store) -> None:
    names = [f"p{n}" for n in range(5)]
    children = [
        in_a_child(peopled, lambda store, name=name: enrol(store, name, "speech", by=person_key(store, "ann")))  # type: ignore[misc]
        for name in names
    ]
    assert [ended(child) for child in children] == [0] * 5
    assert {person.name for person in enrolled(peopled)} == {"ann", "bob", *names}
    assert roll_of(peopled).refused == ()
    peopled.ledger.verify()


def test_of_two_who_remove_each_other_at_once_one_stays(peopled: Store) -> None:
    ann, bob = person_key(peopled, "ann"), person_key(peopled, "bob")
    children = [
        in_a_child(peopled, lambda store: _removed(store, "bob", ann)),
        in_a_child(peopled, lambda store: _removed(store, "ann", bob)),
    ]
    assert sorted(ended(child) for child in children) == [0, 3]
    assert len(enrolled(peopled)) == 1
    assert roll_of(peopled).refused == ()


def _removed(store: Store, name: str, by: keys.PersonKey) -> None:
    try:
        remove(store, name, by)
    except roll.UnknownPersonError as error:  # the signer is gone
        raise PersonRefusedError from error
