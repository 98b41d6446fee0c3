"""A hypothesis state machine over the whole engine: whatever people, devices and controllers do, in whatever order, the
promises hold after every step.
"""

from __future__ import annotations

import shutil
import tempfile
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from voice_pipeline.release.assignment import bucket
from voice_pipeline.release.controller import advance, tick
from voice_pipeline.release.decisions import approval_of, record_decision
from voice_pipeline.release.errors import DecisionRefusedError, MissingEvidenceError, ReleaseError
from voice_pipeline.release.evidence import GATES, VERDICT
from voice_pipeline.release.machine import TRANSITIONS
from voice_pipeline.schema.release import EXPOSURE_PERCENT, Decision
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.releases import ENDED, ROLLING_OUT, live, release_views, rolling_out
from voice_pipeline_tests.release.conftest import SMALL_FLEET, START
from voice_pipeline_tests.release.world import Behaviour, World, add_suite, open_world

DEVICES = 40
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
    """People, devices, controllers and a vandal around one engine."""

    @initialize(kind=st.sampled_from([None, "better", "better", "same", "harmful"]))
    def begin(self, kind: str | None) -> None:
        """Mostly with a first model live and a second one registered, so that short stories come far."""
        self.home = Path(tempfile.mkdtemp())
        clock = ManualClock(START)
        store = open_world(self.home / "home", clock, SMALL_FLEET)
        self.world = World(store, clock, add_suite(store), devices=DEVICES, dictations=4)
        self.models: list[str] = []
        self.changed: dict[str, bytes] = {}
        self.wer = 0.4
        if kind is not None:
            self.publish("same", True)
            self.a_working_day()
            self.publish(kind, True)

    @precondition(lambda self: len(self.models) < 4)
    @rule(kind=st.sampled_from(sorted(KINDS)), offline_better=st.sampled_from([True, True, True, False]))
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

    @precondition(lambda self: self.models)
    @rule(data=st.data(), decision=st.sampled_from(Decision))
    def decide(self, data: st.DataObject, decision: Decision) -> None:
        view = self.world.view(data.draw(st.sampled_from(self.models)))
        try:
            record_decision(self.world.store, view.release_id, decision, "demo", "because")
        except DecisionRefusedError:
            return

    @rule(minutes=st.sampled_from([5, 35, 35, 200]))
    def devices_report(self, minutes: int) -> None:
        self.world.report(minutes)

    @rule(hours=st.sampled_from([1, 1, 5, 24 * 15]))
    def time_passes(self, hours: int) -> None:
        self.world.clock.advance(timedelta(hours=hours))

    @rule()
    def tick_only(self) -> None:
        tick(self.world.store, self.world.policy)

    @rule()
    def tick_and_run(self) -> None:
        for step in tick(self.world.store, self.world.policy).due:
            if step.to_state is S.CANDIDATE:
                self.register(step.model_version)
            else:
                advance(self.world.store, self.world.policy, step.model_version, step.to_state)

    @rule()
    def a_working_day(self) -> None:
        """What usually happens, so that rollouts do come far."""
        for view in release_views(self.world.store):
            if view.state is S.AWAITING_SIGN_OFF and approval_of(self.world.store, view) is None:
                record_decision(self.world.store, view.release_id, Decision.APPROVE, "demo", "because")
        self.tick_and_run()
        for _ in range(2):
            self.world.report(35)
            self.tick_and_run()

    @precondition(lambda self: self.models)
    @rule(data=st.data(), to_state=st.sampled_from(S))
    def advance_by_hand(self, data: st.DataObject, to_state: S) -> None:
        try:
            advance(self.world.store, self.world.policy, data.draw(st.sampled_from(self.models)), to_state, "somebody")
        except ReleaseError:
            return

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def vandal(self, data: st.DataObject) -> None:
        model = data.draw(st.sampled_from(self.models))
        if model in self.changed:
            self.world.restore_bundle(model, self.changed.pop(model))
        else:
            self.changed[model] = self.world.change_bundle(model)

    @invariant()
    def at_most_one_live_and_one_rolling_out(self) -> None:
        states = [view.state for view in release_views(self.world.store)]
        assert states.count(S.PRODUCTION) <= 1
        assert sum(state in ROLLING_OUT for state in states) <= 1

    @invariant()
    def exposure_is_never_above_the_stage(self) -> None:
        store = self.world.store
        candidate, now_live = rolling_out(store), live(store)
        salt = store.subject_salt
        for number in range(DEVICES):
            given = self.world.assignment(number)
            if now_live is None:
                assert given.model_version is None
            elif candidate and given.model_version == candidate.model_version:
                percent = EXPOSURE_PERCENT.get(candidate.stage, 0)
                assert bucket(salt, candidate.release_id, f"device-{number:04d}") < percent
            else:
                assert given.release_id == now_live.release_id

    @invariant()
    def every_exposed_bundle_had_complete_verdicts(self) -> None:
        lines = self.world.store.ledger.lines()
        for line in lines:
            payload = line.payload
            rolls = line.kind == "transition" and payload["from"] != "superseded"
            if not rolls or payload["to"] not in {"shadow", "canary_5", "canary_25", "canary_50", "production"}:
                continue
            newest = {
                v.payload["gate"]: v.payload
                for v in lines
                if v.kind == VERDICT and v.seq < line.seq and v.subject == payload["bundle_digest"]
            }
            assert set(newest) == set(GATES)
            assert all(v["policy_digest"] == payload["policy_digest"] for v in newest.values())
            assert all(v["outcome"] == "pass" for v in newest.values())

    @invariant()
    def the_story_of_each_release_follows_the_table(self) -> None:
        self.world.store.ledger.verify()
        for view in release_views(self.world.store):
            for step in view.transitions:
                assert step.to_state in TRANSITIONS[step.from_state]

    def teardown(self) -> None:
        if hasattr(self, "home"):
            shutil.rmtree(self.home, ignore_errors=True)


@pytest.mark.timeout(300)
class TestEngine(Engine.TestCase):  # type: ignore[name-defined]
    settings = settings(
        max_examples=20,
        stateful_step_count=20,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),  # a story is short enough to be read unshrunk
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
