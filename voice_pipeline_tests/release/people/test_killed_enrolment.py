"""`kill -9` of an enrolment, a removal or a founding at every step, and two processes at once."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from voice_pipeline.release.errors import PersonRefusedError
from voice_pipeline.release.people import keys, roll, staffing
from voice_pipeline.release.people.enrolment import enrol, found_anew, key_file, person_key, remove
from voice_pipeline.release.people.roll import enrolled, roll_of
from voice_pipeline.release.policy import standing_policy
from voice_pipeline.settings import load_settings
from voice_pipeline.store.store import Store
from voice_pipeline_tests.killing import interruptions
from voice_pipeline_tests.release.people.test_signed_people import MANAGER

Change = Callable[[Store], object]
CHANGES: dict[str, Change] = {
    "add": lambda store: enrol(store, "cleo", MANAGER, by=person_key(store, "ann")),
    "come back": lambda store: enrol(store, "dan", MANAGER, by=person_key(store, "ann")),
    "remove": lambda store: remove(store, "bob", person_key(store, "ann")),
    "found anew": lambda store: found_anew(store, "ann", MANAGER, "lost"),
}


@pytest.fixture
def peopled(store: Store) -> Store:
    """Two who may enrol; dan was removed, and his key lies here still."""
    enrol(store, "ann", MANAGER)
    enrol(store, "bob", MANAGER, by=person_key(store, "ann"))
    enrol(store, "dan", MANAGER, by=person_key(store, "ann"))
    remove(store, "dan", person_key(store, "ann"))
    staffing.tell_untold(store, standing_policy(store).policy)
    return store


@pytest.fixture
def keys_lost(peopled: Store, request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """For a founding, those of ann and bob lie elsewhere."""
    if request.getfixturevalue("change") == "found anew":
        for name in ("ann", "bob"):
            key_file(peopled, name).rename(tmp_path / f"{name}.pem")
    return peopled


def files(store: Store) -> dict[str, bytes]:
    """The keys at their places."""
    return {path.name: path.read_bytes() for path in key_file(store, "ann").parent.glob("*.pem")}


def can_sign(store: Store, elsewhere: Path) -> bool:
    """Whether all who count have their key still, here or where it lay before."""
    for person in enrolled(store):
        away = elsewhere / f"{person.name}.pem"
        away_signs = keys.held_at(away) == person.fingerprint
        if not person_key(store, person.name, away if away_signs else None).sign(b"{}", "application/json"):
            return False
    return True


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
def test_killed_before_any_write_nothing_or_all_is_done_and_who_counts_can_sign(
    keys_lost: Store, change: str, tmp_path: Path
) -> None:
    """A key is nobody's before the commit, and lies at its place or beside it after; until the commit, what lay at any
    place lies there still."""
    before, keys_before, source = enrolled(keys_lost), files(keys_lost), keys_lost.settings.root
    keys_lost.database.engine.dispose()
    homes = [tmp_path / "killed-0"]

    def opened(home: Path) -> Store:
        return Store.open(load_settings(home), keys_lost.clock)

    def prepare() -> Callable[[], object]:
        homes.append(shutil.copytree(source, tmp_path / f"killed-{len(homes)}"))
        return lambda: CHANGES[change](opened(homes[-1]))

    seen = set()
    for _ in interruptions(prepare):
        store = opened(homes[-1])
        store.ledger.verify()
        done = enrolled(store) != before
        seen.add(done)
        assert can_sign(store, tmp_path)
        if not done:
            assert files(store) == keys_before
            CHANGES[change](store)
            assert enrolled(store) != before
            assert can_sign(store, tmp_path)
        assert roll_of(store).refused == ()
    assert seen == {False, True}, "killed before the commit, and after it"


@pytest.mark.parametrize("change", CHANGES)
def test_killed_after_the_commit_it_is_done_and_the_next_command_tells(
    keys_lost: Store, change: str, tmp_path: Path
) -> None:
    store, before, policy = keys_lost, enrolled(keys_lost), standing_policy(keys_lost).policy

    def command(own: Store) -> None:
        CHANGES[change](own)
        staffing.tell_untold(own, policy)

    assert ended(in_a_child(store, command, staffing, "raise_alert")) == -signal.SIGKILL
    assert enrolled(store) != before
    assert can_sign(store, tmp_path)
    (told,) = staffing.tell_untold(store, policy)
    said = {"add": "cleo enrolled", "come back": "dan enrolled", "remove": "bob removed", "found anew": "founded anew"}
    assert said[change] in told
    assert staffing.tell_untold(store, policy) == []


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
