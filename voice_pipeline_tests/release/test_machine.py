"""A hypothesis state machine over the whole engine: whatever people, devices, controllers, clocks and vandals do, in
whatever order, the promises (`promises.Account`) hold after every step.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import Connection, delete, insert, update

from voice_pipeline.release.assignment import bucket
from voice_pipeline.release.carrying_out import override_gate
from voice_pipeline.release.controller import advance, tick
from voice_pipeline.release.errors import DecisionRefusedError, MissingEvidenceError, ReleaseError, ReleaseRefusedError
from voice_pipeline.release.machine import TRANSITIONS, step_of, write_steps
from voice_pipeline.release.people.decisions import approval_of, record_decision
from voice_pipeline.schema.release import Decision
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.settings import Settings
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.errors import LedgerBrokenError, LedgerConflictError
from voice_pipeline.store.releases import ENDED, ReleaseView, live, release_views, releases_at_head
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import ledger as ledger_table
from voice_pipeline_tests.release.conftest import SMALL_FLEET, START
from voice_pipeline_tests.release.promises import EVERY_GATE, Account
from voice_pipeline_tests.release.world import Behaviour, World, add_suite, open_world

DEVICES = 60
KINDS = {
    "better": Behaviour(correction=0.15),
    "same": Behaviour(correction=0.2),
    "harmful": Behaviour(correction=0.95, latency_ms=300),
    "silent": Behaviour(silent=True),
}


def test_every_state_that_is_no_end_can_be_undone_in_one_step() -> None:
    for state in set(S) - ENDED:
        assert {S.REJECTED, S.ROLLED_BACK} & set(TRANSITIONS[state])


def test_no_stage_can_be_skipped_in_the_table() -> None:
    order = [S.SHADOW, S.CANARY_5, S.CANARY_25, S.CANARY_50, S.PRODUCTION]
    for here, following in pairwise(order):
        assert [s for s in TRANSITIONS[here] if s in order] == ([following] if here is not S.PRODUCTION else [])
    leads_to_production = {s for s, targets in TRANSITIONS.items() if S.PRODUCTION in targets}
    assert leads_to_production == {S.CANARY_50, S.AWAITING_SIGN_OFF, S.SUPERSEDED}


class Engine(RuleBasedStateMachine):
    """People, devices, controllers, clocks and vandals around one engine."""

    @initialize(
        kind=st.sampled_from(["better", "better", "harmful", "better", None]),
        passes=st.sampled_from([True, True, False]),
        days=st.sampled_from([2, 1, 3, 0]),
    )
    def begin(self, kind: str | None, passes: bool, days: int) -> None:
        """Mostly with a first model live and a second one on its way, by its gates or by an override, so that short
        stories come far.
        """
        self.home = Path(tempfile.mkdtemp())
        clock = ManualClock(START)
        store = open_world(self.home / "home", clock, SMALL_FLEET)
        self.world = World(store, clock, add_suite(store), devices=DEVICES, dictations=4)
        self.policies = {self.world.policy.digest: self.world.policy}
        self.models: list[str] = []
        self.changed: dict[str, bytes] = {}
        self.remembered = releases_at_head(store)
        self.wer = 0.4
        if kind is not None:
            self.publish("same", True)
            self.a_working_day()
            self.publish(kind, passes)
            if not passes:
                self.settle_gate(self.models[-1], "noisy_wer_improvement")
            for _ in range(days):
                self.a_working_day()

    # --- models and devices -------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.models) < 4)
    @rule(kind=st.sampled_from(sorted(KINDS)), offline_better=st.booleans())
    def publish(self, kind: str, offline_better: bool) -> None:
        self.wer *= 0.8 if offline_better else 1.0
        model = self.world.model(self.wer, network_bytes=1000)
        self.models.append(model)
        self.world.behaviour[model] = KINDS[kind]
        self.register(model)

    def register(self, model: str) -> None:
        """Judged again are both models; where the vandal was at either, no verdict can be given."""
        try:
            self.world.register(model)
        except MissingEvidenceError:
            assert self.changed

    @rule(minutes=st.sampled_from([5, 35, 35, 200]), share=st.sampled_from([1.0, 1.0, 0.5]))
    def devices_report(self, minutes: int, share: float) -> None:
        """Half of them may have fallen silent."""
        self.world.devices = int(DEVICES * share)
        self.world.report(minutes)
        self.world.devices = DEVICES

    @rule(hours=st.sampled_from([1, 1, 5, 24 * 15]))
    def time_passes(self, hours: int) -> None:
        self.world.clock.advance(timedelta(hours=hours))

    @rule()
    def clock_is_set_back(self) -> None:
        self.world.clock._now -= timedelta(minutes=17, seconds=13)

    # --- people -------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.models)
    @rule(data=st.data(), decision=st.sampled_from(sorted(Decision)), actor=st.sampled_from(["demo", "demo", "guest"]))
    def decide(self, data: st.DataObject, decision: Decision, actor: str) -> None:
        view = self.world.view(data.draw(st.sampled_from(self.models)))
        with suppress(DecisionRefusedError):
            record_decision(self.world.store, view.release_id, decision, self.world.person(actor), "because")

    @precondition(lambda self: self.models)
    @rule(data=st.data(), gate=st.sampled_from(["noisy_wer_improvement", "any"]))
    def override(self, data: st.DataObject, gate: str) -> None:
        """Somebody wants a model out in spite of a gate, mostly of one that rejected it."""
        rejected = [model for model in self.models if self.world.view(model).state is S.REJECTED]
        model = data.draw(st.sampled_from(rejected or self.models))
        gate = data.draw(st.sampled_from(sorted(EVERY_GATE))) if gate == "any" else gate
        self.settle_gate(model, gate)

    def settle_gate(self, model: str, gate: str) -> None:
        """Override it, if that may be, and have the model judged once more."""
        release = self.world.view(model).release_id
        with suppress(DecisionRefusedError):
            override_gate(self.world.store, release, gate, self.world.person(), "it is needed")
        self.register(model)

    @precondition(lambda self: self.models)
    @rule(data=st.data(), actor=st.sampled_from(["demo", "demo", "guest"]))
    def readmit(self, data: st.DataObject, actor: str) -> None:
        """Somebody wants a model back that ended, past what the command line would say to that."""
        ended = [model for model in self.models if self.world.view(model).ended]
        model = data.draw(st.sampled_from(ended or self.models))
        release = self.world.view(model).release_id
        with suppress(DecisionRefusedError):
            record_decision(self.world.store, release, Decision.READMIT, self.world.person(actor), "it was a mistake")
        self.register(model)

    @rule()
    def policy_is_edited(self) -> None:
        """Mid-rollout or not: what was gathered under the rules before promotes no more."""
        path = self.world.store.settings.policy_dir / "release.yaml"
        before = self.world.policy.version
        path.write_text(path.read_text().replace(f"version: {before}\n", f"version: {before + 1}\n"))
        assert self.world.policy.version == before + 1
        self.policies[self.world.policy.digest] = self.world.policy

    # --- controllers --------------------------------------------------------------------------------------------------

    @rule()
    def tick_only(self) -> None:
        tick(self.world.store, self.world.policy)

    @rule()
    def tick_and_run(self) -> None:
        self.act(self.world.store)

    def act(self, store: Store) -> None:
        """What a controller does: a tick, and the runs that it asks for."""
        for step in tick(store, self.world.policy).due:
            if step.to_state is S.CANDIDATE:
                self.register(step.model_version)
            else:
                advance(store, self.world.policy, step.model_version, step.to_state)

    @rule()
    def a_working_day(self) -> None:
        """What usually happens, so that rollouts do come far."""
        for view in release_views(self.world.store):
            if view.state is S.AWAITING_SIGN_OFF and approval_of(self.world.store, self.world.policy, view) is None:
                record_decision(self.world.store, view.release_id, Decision.APPROVE, self.world.person(), "because")
        self.tick_and_run()
        for _ in range(2):
            self.world.report(35)
            self.tick_and_run()

    @precondition(lambda self: self.models)
    @rule(data=st.data(), to_state=st.sampled_from(sorted(S)))
    def advance_by_hand(self, data: st.DataObject, to_state: S) -> None:
        with suppress(ReleaseError):
            advance(self.world.store, self.world.policy, data.draw(st.sampled_from(self.models)), to_state, "somebody")

    @rule()
    def two_controllers(self) -> None:
        """Between what one reads and its first write, a rival does all that there is to do."""
        rival = Store.open(self.world.store.settings, self.world.clock)
        with (
            _before_the_first_write(self.world.store, lambda: self.act(rival)),
            suppress(LedgerConflictError, ReleaseRefusedError),
        ):
            self.act(self.world.store)

    @rule()
    def remember(self) -> None:
        """A controller reads, and is then held up for as long as the story likes."""
        self.remembered = releases_at_head(self.world.store)

    @rule(to_state=st.sampled_from([S.REJECTED, S.HELD, S.ROLLED_BACK, S.SHADOW, S.CANARY_5, S.PRODUCTION]))
    def write_upon_what_was_remembered(self, to_state: S) -> None:
        """The controller wakes up and writes what it decided: refused if any release moved meanwhile."""
        head, views = self.remembered
        lines = self.world.store.ledger.lines(kind="transition")
        if not views or not any(line.seq > head for line in lines):
            return
        with pytest.raises((LedgerConflictError, ReleaseRefusedError)):
            write_steps(self.world.store, head, views, [step_of(views[-1], to_state, "late")], "p", "somebody")
        assert self.world.store.ledger.lines(kind="transition") == lines

    @rule()
    def restart(self) -> None:
        """Nothing is kept in memory that the store does not have."""
        before = release_views(self.world.store)
        self.world.store.database.engine.dispose()
        self.world.store = Store.open(self.world.store.settings, self.world.clock)
        assert release_views(self.world.store) == before

    # --- vandals ------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def vandal(self, data: st.DataObject) -> None:
        model = data.draw(st.sampled_from(self.models))
        if model in self.changed:
            self.world.restore_bundle(model, self.changed.pop(model))
        else:
            self.changed[model] = self.world.change_bundle(model)

    @precondition(lambda self: self.models)
    @rule(data=st.data(), how=st.sampled_from(["payload", "actor", "at", "removed"]))
    def ledger_is_tampered_with(self, data: st.DataObject, how: str) -> None:
        """Everything is refused, nothing is written, until the line is as it was."""
        store, model = self.world.store, data.draw(st.sampled_from(self.models))
        line = data.draw(st.sampled_from(store.ledger.lines()))
        head = store.ledger.head()
        with _tampered(store, line.seq, how):
            for attempt in (
                lambda: tick(store, self.world.policy),
                lambda: advance(store, self.world.policy, model, S.PRODUCTION),
                lambda: self.world.register(model),
                lambda: tick(Store.open(store.settings, self.world.clock), self.world.policy),
            ):
                with pytest.raises(LedgerBrokenError):
                    attempt()
            assert store.ledger.head() == (head - 1 if how == "removed" and line.seq == head else head)
        store.ledger.verify()

    # --- promises -----------------------------------------------------------------------------------------------------

    @invariant()
    def the_ledger_gives_a_good_account(self) -> None:
        """Never two live, never live or exposed without complete, fresh verdicts about this bundle, and a look."""
        self.world.store.ledger.verify()
        account = Account(self.world.store.ledger.lines(), self.policies)
        assert account.broken == []
        assert account.state == {view.release_id: view.state for view in release_views(self.world.store)}

    @invariant()
    def exposure_is_never_above_the_stage(self) -> None:
        store = self.world.store
        share, now_live = Account(store.ledger.lines(), self.policies).share(), live(store)
        for number in range(DEVICES):
            given = self.world.assignment(number)
            if now_live is None:
                assert given.model_version is None
            elif given.release_id in share:
                place = bucket(store.subject_salt, given.release_id, f"device-{number:04d}")
                assert place < share[given.release_id]
            else:
                assert given.release_id == now_live.release_id

    @invariant()
    def the_story_of_each_release_follows_the_table(self) -> None:
        for view in release_views(self.world.store):
            for step in view.transitions:
                assert step.to_state in TRANSITIONS[step.from_state]

    @rule()
    def anything_can_be_undone(self) -> None:
        """On a copy of this home, whatever it holds now: a person's word and a tick end each release in turn."""
        self.world.store.database.engine.dispose()
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "home"
            shutil.copytree(self.home / "home", copy)
            store = Store.open(Settings(home=copy, policy_dir=copy / "policy"), self.world.clock)
            undoing = World(store, self.world.clock, self.world.suite)
            while going := _going(release_views(store)):
                view = going[0]
                word = Decision.ROLLBACK if S.ROLLED_BACK in TRANSITIONS[view.state] else Decision.REJECT
                record_decision(store, view.release_id, word, undoing.person(), "away with it")
                tick(store, undoing.policy)
                assert undoing.view(view.model_version).release_id == view.release_id
                assert undoing.view(view.model_version).state in (S.ROLLED_BACK, S.REJECTED)
            store.database.engine.dispose()

    def teardown(self) -> None:
        if hasattr(self, "home"):
            shutil.rmtree(self.home, ignore_errors=True)


def _going(views: Sequence[ReleaseView]) -> list[ReleaseView]:
    """What devices could still see of these releases, or may come to see: neither ended nor superseded."""
    return [view for view in views if not view.ended]


@contextmanager
def _before_the_first_write(store: Store, rival: Callable[[], None]) -> Iterator[None]:
    """Whoever opens a transaction on `store` first lets `rival` go ahead of it."""
    database, write = store.database, store.database.write
    moves = [rival]

    def behind_the_rival() -> object:
        if moves:
            moves.pop()()
        return write()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(database, "write", behind_the_rival)
        yield


@contextmanager
def _tampered(store: Store, seq: int, how: str) -> Iterator[None]:
    """One line of the ledger is not what it was, by somebody who has the database and not the rules."""
    mine = ledger_table.c.seq == seq
    row = store.database.row(ledger_table.select().where(mine))
    assert row is not None
    if how == "removed":
        change = delete(ledger_table).where(mine)
    else:
        value = {"payload": "{}", "actor": "nobody", "at": "2026-11-02T09:00:00+00:01"}[how]
        change = update(ledger_table).where(mine).values({how: value})
    with _by_hand(store) as connection:
        connection.execute(change)
    try:
        yield
    finally:
        with _by_hand(store) as connection:
            connection.execute(delete(ledger_table).where(mine))
            connection.execute(insert(ledger_table).values(**dict(row)))


@contextmanager
def _by_hand(store: Store) -> Iterator[Connection]:
    with store.database.engine.begin() as connection:
        yield connection


@pytest.mark.timeout(300)
class TestEngine(Engine.TestCase):  # type: ignore[name-defined]
    settings = settings(
        max_examples=16,
        stateful_step_count=16,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),  # a story is short enough to be read unshrunk
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
