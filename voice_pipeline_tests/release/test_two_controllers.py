"""Several processes on one home: each transition happens once, what was decided upon a state that is gone is refused,
and neither a rival nor a busy ledger keeps harm from being undone.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from voice_pipeline.release import controller
from voice_pipeline.release.analysis.looks import ANALYSIS
from voice_pipeline.release.controller import advance, tick
from voice_pipeline.release.errors import ReleaseRefusedError
from voice_pipeline.release.people.decisions import record_decision
from voice_pipeline.release.policy import release_policy
from voice_pipeline.schema.monitoring import IncidentKind
from voice_pipeline.schema.release import Decision
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.database import Database
from voice_pipeline.store.errors import LedgerConflictError
from voice_pipeline.store.incidents import incidents
from voice_pipeline.store.releases import TRANSITION, live, release_views
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import alerts
from voice_pipeline_tests.release.test_controller import in_stage
from voice_pipeline_tests.release.world import Behaviour, World

HARM = Behaviour(correction=0.95, latency_ms=400, crash=0.9)
PATIENCE_S = 60
CONFLICTED = 3


class SharedClock:
    """One time for parent and children: 8 bytes of memory that both see, and a flag that ends the children."""

    def __init__(self, now: datetime) -> None:
        self._memory = mmap.mmap(-1, 16)
        self.set(now)

    def set(self, now: datetime) -> None:
        self._memory[:8] = struct.pack("d", now.timestamp())

    def now(self) -> datetime:
        return datetime.fromtimestamp(struct.unpack("d", self._memory[:8])[0], UTC)

    def stop(self) -> None:
        self._memory[8] = 1

    @property
    def stopped(self) -> bool:
        return bool(self._memory[8])


def forked(world: World, work: Callable[[], object]) -> int:
    """The id of a child that does `work` and ends: 0 when it comes to its end, CONFLICTED, or 1 if it failed."""
    world.store.database.engine.dispose()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except LedgerConflictError:
        status = CONFLICTED
    except BaseException:  # noqa: BLE001 - nothing may come back from here into the tests
        traceback.print_exc()
    os._exit(status)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextmanager
def controllers(world: World, clock: SharedClock, number: int) -> Iterator[None]:
    """That many processes which tick and advance as fast as they can, as the daemon and its runs do."""

    def control() -> None:
        store = Store.open(world.store.settings, clock)
        while not clock.stopped:
            for due in tick(store, release_policy(store)).due:
                try:
                    advance(store, release_policy(store), due.model_version, due.to_state)
                except (ReleaseRefusedError, LedgerConflictError):
                    continue

    children = [forked(world, control) for _ in range(number)]
    try:
        yield
    finally:
        clock.stop()
        assert [ended(child) for child in children] == [0] * number


def until(reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.05)


def test_two_controllers_at_once_take_each_step_once(small: World) -> None:
    first = small.model(0.2, network_bytes=1000)
    small.bootstrap(first)
    small.report()
    second, third = (small.model(wer, network_bytes=1000) for wer in (0.1, 0.05))
    small.register(second)
    clock = SharedClock(small.clock.now())
    small.behaviour[third] = small.shadow[third] = HARM
    with controllers(small, clock, 2):
        for model, end in ((second, S.PRODUCTION), (third, S.ROLLED_BACK)):
            small.register(model)
            for _ in range(24):
                if small.view(model).state is end:
                    break
                before = len(small.store.ledger.lines(kind=ANALYSIS)) + len(small.view(model).transitions)
                small.report()
                clock.set(small.clock.now())
                until(
                    lambda before=before, model=model: (  # type: ignore[misc]
                        len(small.store.ledger.lines(kind=ANALYSIS)) + len(small.view(model).transitions) > before
                    ),
                    f"a look or a step of {model}",
                )
                time.sleep(0.3)  # what the look allows is taken before time moves on
            assert small.view(model).state is end
    told(small, rolled_back=1)
    steps = Counter((line.subject, line.payload["from"], line.payload["to"]) for line in transitions(small))
    assert set(steps.values()) == {1}
    now = live(small.store)
    assert now is not None
    assert now.model_version == second
    assert [view.state for view in release_views(small.store)] == [S.SUPERSEDED, S.PRODUCTION, S.ROLLED_BACK]


def transitions(world: World) -> list:
    return world.store.ledger.lines(kind=TRANSITION)


def told(world: World, rolled_back: int) -> None:
    """The ledger verifies, and each rollback has one incident, one alert and one line in the log."""
    world.store.ledger.verify()
    Store.open(world.store.settings, world.clock).ledger.verify()
    assert len(incidents(world.store, IncidentKind.RELEASE_HARM)) == rolled_back
    titles = [row["title"] for row in world.store.database.rows(alerts.select())]
    lines = (world.store.settings.reports / "alerts.log").read_text().splitlines()
    assert sum(title.startswith("rolled back") for title in titles) == rolled_back
    assert len(lines) == len(set(lines)) == len(titles)


@contextmanager
def stopped_before_it_writes(world: World, work: Callable[[Store], object]) -> Iterator[Callable[[], int]]:
    """A child that stops itself (SIGSTOP) when it has decided and is about to write; what it yields lets it go on, and
    gives its exit status.
    """

    def decide() -> None:
        write, stopped = Database.write, []

        def pause(database: Database) -> object:
            if not stopped:
                stopped.append(True)
                os.kill(os.getpid(), signal.SIGSTOP)
            return write(database)

        store = Store.open(world.store.settings, world.clock)
        Database.write = pause  # type: ignore[assignment, method-assign]
        work(store)

    child, over = forked(world, decide), []

    def go_on() -> int:
        os.kill(child, signal.SIGCONT)
        over.append(ended(child))
        return over[0]

    try:
        assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
        yield go_on
    finally:
        if not over:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_a_controller_that_slept_through_a_rollback_does_not_promote(small: World) -> None:
    model = in_stage(small, S.CANARY_25)
    small.report()
    due = tick(small.store, small.policy).due
    assert [step.to_state for step in due] == [S.CANARY_50]
    promote = stopped_before_it_writes(small, lambda store: advance(store, release_policy(store), model, S.CANARY_50))
    with promote as go_on:
        record_decision(small.store, small.view(model).release_id, Decision.ROLLBACK, small.person(), "complaints")
        assert go_on() == CONFLICTED
    assert small.view(model).state is S.ROLLED_BACK
    told(small, rolled_back=1)


def test_a_controller_that_slept_through_the_same_rollback_does_not_repeat_it(small: World) -> None:
    """Its tick is refused, reads again, and finds nothing left to do."""
    model = in_stage(small, S.CANARY_25, HARM)
    for _ in range(3):
        small.report(minutes=5)
    with stopped_before_it_writes(small, lambda store: tick(store, release_policy(store))) as go_on:
        assert tick(small.store, small.policy).rolled_back
        assert go_on() == 0
    assert [step.to_state for step in small.view(model).transitions].count(S.ROLLED_BACK) == 1
    told(small, rolled_back=1)


UNRELATED = ("erasure", "preflight", "bundle_exported", "bundle_published", "verdict", "decision", "analysis")


def test_lines_that_have_nothing_to_do_with_it_never_delay_a_rollback(
    small: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time the controller is about to write, somebody else was first, with one line of each kind."""
    model = in_stage(small, S.CANARY_25, HARM)
    for _ in range(3):
        small.report(minutes=5)
    others = Store.open(small.store.settings, small.clock)
    write = Database.write
    conflicts: list[str] = []

    def somebody_was_first(database: Database) -> object:
        if database is small.store.database:
            for kind in UNRELATED:
                others.ledger.append(kind, "something else", {"to": "live"}, "somebody")
        return write(database)

    once = controller._decided_anew

    def decided_once(decide: Callable[[], object]) -> object:
        def noted() -> object:
            try:
                return decide()
            except LedgerConflictError as conflict:
                conflicts.append(str(conflict))
                raise

        return once(noted)

    monkeypatch.setattr(Database, "write", somebody_was_first)
    monkeypatch.setattr(controller, "_decided_anew", decided_once)
    assert tick(small.store, small.policy).rolled_back == (small.view(model).release_id,)
    assert conflicts == []
    monkeypatch.undo()
    told(small, rolled_back=1)


def test_a_conflicting_line_before_each_try_but_the_last_does_not_put_a_rollback_off(
    small: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transitions do overturn what was decided; the tick decides again at once, five times."""
    model = in_stage(small, S.CANARY_25, HARM)
    for _ in range(3):
        small.report(minutes=5)
    view = small.view(model)
    tries: list[int] = []
    steps = controller.rollback_steps

    def a_rival_registers_another(*arguments: object) -> list:
        tries.append(1)
        if len(tries) < 5:
            payload = small.store.ledger.lines(kind=TRANSITION, subject=view.release_id)[0].payload
            small.store.ledger.append(TRANSITION, f"m-other-r{len(tries)}", payload, "rival")
        return steps(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(controller, "rollback_steps", a_rival_registers_another)
    assert tick(small.store, small.policy).rolled_back == (view.release_id,)
    monkeypatch.undo()
    assert len(tries) == 5
    told(small, rolled_back=1)


def test_a_process_that_hammers_the_ledger_does_not_keep_harm_from_being_undone(small: World) -> None:
    model = in_stage(small, S.CANARY_25, HARM)
    for _ in range(3):
        small.report(minutes=5)
    clock = SharedClock(small.clock.now())

    def hammer() -> None:
        store = Store.open(small.store.settings, clock)
        while not clock.stopped:
            store.ledger.append("erasure", "somebody", {}, "device")

    head = small.store.ledger.head()
    child = forked(small, hammer)
    try:
        until(lambda: small.store.ledger.head() > head + 5, "the hammering")
        assert tick(small.store, small.policy).rolled_back == (small.view(model).release_id,)
    finally:
        clock.stop()
        assert ended(child) == 0
    told(small, rolled_back=1)
