"""The fleet against the real edge: models come verified, reports and clips arrive, draws repeat."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from voice_pipeline.device import client
from voice_pipeline.edge.server import EdgeServer
from voice_pipeline.fleet.answers import Answer, Answers, garble
from voice_pipeline.fleet.clients import OLD_APP
from voice_pipeline.fleet.devices import AFAR_A_TICK, EdgeRefusedError, SimulatedFleet
from voice_pipeline.fleet.scenario import Fault
from voice_pipeline.schema.clip import CaptureEvent, DeviceClass
from voice_pipeline.schema.consent import Scope
from voice_pipeline.schema.inference import InferenceMode
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.schema.telemetry import TelemetryEvent
from voice_pipeline.settings import load_settings
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import inbox, telemetry
from voice_pipeline_tests.fleet.field import V1, V2, move, people, publish

LIVE = (ReleaseState.CANDIDATE, ReleaseState.PRODUCTION)
NOW = datetime(2026, 11, 2, 9, tzinfo=UTC)
DEVICES = 40


@dataclass(frozen=True)
class Published:
    """A home with V1 and V2 signed and published, to be copied; `digests` by model version."""

    home: Path
    digests: dict[str, str]


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    home = tmp_path_factory.mktemp("published") / "home"
    store = Store.open(load_settings(home), ManualClock(NOW))
    digests = {model: publish(store, model, seed) for seed, model in enumerate((V1, V2))}
    store.database.engine.dispose()
    return Published(home, digests)


@pytest.fixture
def store(published: Published, tmp_path: Path, clock: ManualClock) -> Store:
    """The published home, V1 live."""
    home = tmp_path / "home"
    shutil.copytree(published.home, home)
    store = Store.open(load_settings(home), clock)
    with store.database.write() as connection:  # the copy's bundles lie in the copy
        connection.exec_driver_sql("UPDATE bundles SET uri = replace(uri, ?, ?)", (str(published.home), str(home)))
    move(store, V1, published.digests[V1], *LIVE)
    return store


@pytest.fixture
def fleet(store: Store, tmp_path: Path) -> Iterator[SimulatedFleet]:
    """Forty devices of home people."""
    with EdgeServer(store) as edge:
        made = SimulatedFleet(DEVICES, 1, edge.url, tmp_path / "fleet", people())
        yield made
        made.close()


def events(store: Store) -> list[TelemetryEvent]:
    rows = store.database.rows(select(telemetry.c.event).order_by(telemetry.c.event_id))
    return [TelemetryEvent.model_validate(row["event"]) for row in rows]


def test_every_device_runs_the_live_model_and_every_dictation_is_reported(
    store: Store, fleet: SimulatedFleet, clock: ManualClock
) -> None:
    stats = fleet.tick(clock, 3)
    stored = events(store)
    assert stats.events == len(stored) == DEVICES * 3
    assert stats.by_model == {V1: DEVICES * 3}
    assert not stats.refused
    assert {event.device_id for event in stored} == {device.device_id for device in fleet.devices}
    assert {event.release_id for event in stored} == {f"{V1}-r1"}
    assert all(event.at <= clock.now() for event in stored)
    assert all(0 <= event.corrected_words <= event.words == 3 for event in stored)


def test_full_clients_answer_with_the_model_in_their_own_slot(
    store: Store, fleet: SimulatedFleet, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the others share must not answer for them: its answers are made worthless here."""
    fleet.tick(clock, 1)
    own = {device.device_id for device in fleet.devices if fleet._clients.holds(device.device_id)}
    assert 0 < len(own) <= len(DeviceClass)
    monkeypatch.setattr(Answers, "answer", lambda *_: Answer("", 0.001, 3, 3, {}))
    clock.advance(timedelta(hours=1))
    at = clock.now() - timedelta(minutes=1)
    fleet.tick(clock, 3)
    told = [event for event in events(store) if event.at >= at]
    assert {event.device_id for event in told if event.confidence == 0.001} == {
        device.device_id for device in fleet.devices if device.device_id not in own
    }
    assert len([event for event in told if event.device_id in own]) == 3 * len(own)


def test_home_people_give_no_clips_away(store: Store, fleet: SimulatedFleet, clock: ManualClock) -> None:
    assert fleet.tick(clock, 3).captured == {}
    assert not store.database.rows(select(inbox.c.event_id))


def test_new_people_give_each_recording_once_under_their_own_consent(
    store: Store, fleet: SimulatedFleet, clock: ManualClock
) -> None:
    admitted = fleet.admit_new_population(0.5)
    assert admitted == DEVICES // 2
    captured = dict(fleet.tick(clock, 3).captured)
    clock.advance(timedelta(hours=1))
    captured |= fleet.tick(clock, 3).captured
    rows = store.database.rows(select(inbox.c.event))
    stored = [CaptureEvent.model_validate(row["event"]) for row in rows]
    assert {event.clip_id for event in stored} == set(captured)
    assert 0 < len(captured) <= 30, "there are thirty recordings of new people"
    assert set(captured.values()) == {"one two three"}
    assert {event.model_version for event in stored} == {V1}
    scopes = {event.consent.subject_token: event.consent.scopes for event in stored}
    trainable = [token for token, allowed in scopes.items() if Scope.TRAIN in allowed]
    assert 0 < len(trainable) < len(scopes), "some allow evaluation only"


def test_the_new_population_sounds_like_a_telephone_in_noise(fleet: SimulatedFleet) -> None:
    before = {device.person.name for device in fleet.devices}
    fleet.admit_new_population(1.0)
    assert before.isdisjoint({device.person.name for device in fleet.devices})
    plain = people().home.people[0].clips[0].heard()[1]
    heard = fleet.devices[0].person.clips[0].heard()[1]
    assert heard.band_high < 0.65 * plain.band_high


def test_a_canary_reaches_only_its_share_of_devices_with_the_verified_bundle(
    store: Store, published: Published, fleet: SimulatedFleet, clock: ManualClock
) -> None:
    move(store, V2, published.digests[V2], ReleaseState.CANDIDATE, ReleaseState.CANARY_25)
    stats = fleet.tick(clock, 2)
    share = stats.by_model[V2] / stats.events
    assert 0.05 < share < 0.5
    assert not stats.refused


def test_a_rolled_back_model_answers_on_no_full_client_at_its_next_poll(
    store: Store, fleet: SimulatedFleet, clock: ManualClock, published: Published
) -> None:
    """At 5 %, too, a device that tries the candidate is a full client, and goes back with the others."""
    move(store, V2, published.digests[V2], ReleaseState.CANDIDATE, ReleaseState.CANARY_5)
    fleet.tick(clock, 1)
    tried = {device for device, model in fleet.answering().items() if model == V2}
    assert tried
    move(store, V2, published.digests[V2], ReleaseState.ROLLED_BACK)
    back = fleet.answering()
    assert back.keys() >= tried
    assert set(back.values()) == {V1}


def test_a_fault_slows_and_garbles_its_model_only_and_not_in_shadow(
    store: Store, published: Published, fleet: SimulatedFleet, clock: ManualClock
) -> None:
    digest = published.digests[V2]
    move(store, V2, digest, ReleaseState.CANDIDATE, ReleaseState.SHADOW)
    fleet.inject(Fault(V2, latency_factor=50.0, corrupt=True))
    fleet.tick(clock, 4)
    shadowed = [event for event in events(store) if event.shadow_model_version == V2]
    assert shadowed
    assert max(event.shadow_latency_ms or 0 for event in shadowed) < 50 * min(e.latency_ms for e in shadowed)
    clock.advance(timedelta(hours=1))
    move(store, V2, digest, ReleaseState.CANARY_50)
    fleet.tick(clock, 4)
    slow = sorted(event.latency_ms for event in events(store) if event.model_version == V2)
    usual = sorted(event.latency_ms for event in events(store) if event.model_version == V1)
    assert slow[len(slow) // 2] > 10 * usual[len(usual) // 2]


def test_a_bundle_that_was_tampered_with_is_refused_by_the_whole_fleet(
    store: Store, fleet: SimulatedFleet, clock: ManualClock
) -> None:
    publish_folder = store.settings.tuf / "repository" / "targets"
    archives = [path for path in publish_folder.rglob("*.tar.xz") if V1 in path.name]
    assert archives
    for archive in archives:
        data = bytearray(archive.read_bytes())
        data[len(data) // 2] ^= 1
        archive.write_bytes(bytes(data))
    stats = fleet.tick(clock, 1)
    assert stats.events == 0
    assert V1 in stats.refused


def test_the_same_seed_and_time_draw_the_same_dictations(store: Store, fleet: SimulatedFleet, tmp_path: Path) -> None:
    twin = SimulatedFleet(DEVICES, 1, "http://127.0.0.1:9", tmp_path / "twin", people())
    assert [(d.device_id, d.person.name, d.context) for d in twin.devices] == [
        (d.device_id, d.person.name, d.context) for d in fleet.devices
    ]
    assert json.dumps(garble("call mary now", "home-1")) == json.dumps(garble("call mary now", "home-1"))
    assert garble("call mary now", "home-1") != "call mary now"


def test_an_edge_that_is_away_is_said_in_one_line(tmp_path: Path, clock: ManualClock) -> None:
    fleet = SimulatedFleet(4, 1, "http://127.0.0.1:9", tmp_path / "fleet", people())
    with pytest.raises(EdgeRefusedError, match="edge"):
        fleet.tick(clock, 1)


def test_a_device_that_no_model_fits_has_the_edge_dictate_and_says_so(
    store: Store, published: Published, clock: ManualClock, tmp_path: Path
) -> None:
    with EdgeServer(store) as edge:
        fleet = SimulatedFleet(8, 1, edge.url, tmp_path / "fleet", people(), old_apps=2)
        stats = fleet.tick(clock, 3)
        fleet.close()
    stored = events(store)
    afar = [event for event in stored if event.device_id in ("device-0008", "device-0009")]
    assert (stats.devices, stats.events, stats.remote) == (10, len(stored), len(afar))
    assert len(afar) == 2 * AFAR_A_TICK
    assert {(event.model_version, event.release_id, event.context.app_version) for event in afar} == {
        (V1, None, OLD_APP)
    }
    assert all(event.fallback is False for event in afar), "the flag asked for it"
    assert {event.answered for event in afar} == {InferenceMode.REMOTE}
    assert {event.answered for event in stored if event not in afar} == {InferenceMode.LOCAL}
    assert not stats.refused


def test_nobody_elses_voice_goes_to_the_edge(
    store: Store, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = client.transcribe_remotely
    monkeypatch.setattr(client, "transcribe_remotely", lambda *rest: asked.append("x") or real(*rest))
    with EdgeServer(store) as edge:
        fleet = SimulatedFleet(8, 1, edge.url, tmp_path / "fleet", people(), old_apps=1)
        unwilling = replace(fleet.devices[-1].person, remote_allowed=False)
        fleet.devices[-1] = replace(fleet.devices[-1], person=unwilling)
        stats = fleet.tick(clock, 3)
        fleet.close()
    assert (stats.remote, asked, stats.events) == (0, [], 24)


def test_devices_left_behind_change_nothing_for_the_others(store: Store, clock: ManualClock, tmp_path: Path) -> None:
    with EdgeServer(store) as edge:
        alone = SimulatedFleet(8, 1, edge.url, tmp_path / "alone", people())
        beside = SimulatedFleet(8, 1, edge.url, tmp_path / "beside", people(), old_apps=1)
        assert alone.admit_new_population(0.5) == beside.admit_new_population(0.5) == 4
        drawn = [[(d.device_id, d.person.name, d.context) for d in fleet.devices[:8]] for fleet in (alone, beside)]
        assert drawn[0] == drawn[1]
        assert beside.devices[8].context.app_version == OLD_APP
        alone.close()
        beside.close()
