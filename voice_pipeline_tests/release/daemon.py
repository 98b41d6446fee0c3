"""Dagster's daemon as far as the release sensors meet it: asset events are stored, then the cursor, then come runs.

(`dagster._daemon.sensor`: `_evaluate_sensor` reports the events of a tick before it writes the tick's cursor.)
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dagster import AssetKey, AssetRecordsFilter, DagsterInstance, EventLogRecord

from voice_pipeline.release import assets
from voice_pipeline.release.sensors import rollout_sensor, signed_bundle_sensor
from voice_pipeline.release.story.presentation import LEDGER_LINE
from voice_pipeline.schema.release import Decision
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline_tests.release.test_shell import evaluate, run
from voice_pipeline_tests.release.world import Behaviour, World, record_decision

TYPED = "first model: heard it myself | <b>fine</b>\n[for now](javascript:alert) ![](x.png) `all` **well**"
"""A reason that would be markup if it were not kept text."""

RELEASE_ASSETS = ("release_candidate", "shadow_release", "canary_release", "production_release")


@dataclass
class Daemon:
    """Runs on a world and an instance until nothing is asked any more."""

    world: World
    instance: DagsterInstance
    cursors: dict[str, str | None] = field(default_factory=dict)

    def tick(self) -> int:
        """Evaluate both sensors, store what they tell, run what they ask for; returns how many runs."""
        ran = 0
        for sensor in (signed_bundle_sensor, rollout_sensor):
            result = evaluate(self.world, self.instance, sensor, self.cursors.get(sensor.name))
            for event in result.asset_events:
                self.instance.report_runless_asset_event(event)
            self.cursors[sensor.name] = result.cursor
            for request in result.run_requests or []:
                name = request.asset_selection[0].to_user_string() if request.asset_selection else RELEASE_ASSETS[0]
                done = run(self.world, self.instance, getattr(assets, name), str(request.partition_key), **request.tags)
                assert done.success, f"{name} of {request.partition_key}"
                ran += 1
        return ran

    def settle(self) -> None:
        while self.tick():
            pass

    def model(self, wer: float) -> str:
        """A published model, registered and judged."""
        model = self.world.model(wer)
        self.instance.add_dynamic_partitions("model_version", [model])
        self.settle()
        return model

    def decide(self, model: str, decision: Decision, reason: str) -> None:
        record_decision(self.world.store, self.world.view(model).release_id, decision, self.world.person(), reason)
        self.settle()

    def until(self, model: str, state: S, minutes: float = 35, ticks: int = 30) -> None:
        """Healthy or harmful traffic until the model is in `state`."""
        for _ in range(ticks):
            if self.world.view(model).state is state:
                return
            self.world.report(minutes)
            self.settle()
        raise AssertionError(f"{model} is {self.world.view(model).state}, never came to {state}")

    def told(self, asset: str, model: str) -> list[EventLogRecord]:
        """Every event on the asset's partition, oldest first."""
        wanted = AssetRecordsFilter(AssetKey(asset), asset_partitions=[model])
        found = [
            *self.instance.fetch_materializations(wanted, limit=1000).records,
            *self.instance.fetch_observations(wanted, limit=1000).records,
        ]
        return sorted(found, key=lambda record: record.storage_id)

    def told_lines(self, model: str) -> list[str]:
        """The ledger lines told on any release asset of a model, with repetitions."""
        return [str(metadata_of(r)[LEDGER_LINE]) for asset in RELEASE_ASSETS for r in self.told(asset, model)]


def metadata_of(record: EventLogRecord) -> dict[str, object]:
    entry = record.event_log_entry
    event = entry.asset_materialization or entry.asset_observation
    assert event is not None
    return {name: value.value for name, value in event.metadata.items()}


@dataclass(frozen=True)
class Rollouts:
    """Three models: the first, one that was held, resumed and went live, and one that was rolled back."""

    first: str
    live: str
    rolled_back: str


def tell_rollouts(daemon: Daemon) -> Rollouts:
    """A home worth looking at."""
    first = daemon.model(0.2)
    daemon.decide(first, Decision.APPROVE, TYPED)
    daemon.world.report()
    live = daemon.model(0.1)
    daemon.until(live, S.CANARY_5)
    daemon.decide(live, Decision.HOLD, "wait for Monday")
    daemon.world.report(180)
    daemon.settle()
    daemon.decide(live, Decision.RESUME, "Monday")
    daemon.until(live, S.PRODUCTION)
    harmful = daemon.model(0.05)
    daemon.until(harmful, S.CANARY_25)
    daemon.world.behaviour[harmful] = Behaviour(correction=0.6, crash=0.4)
    daemon.until(harmful, S.ROLLED_BACK, minutes=10)
    return Rollouts(first, live, harmful)
