"""Both flags through a whole rollout, as the OpenFeature Python client reads them from a real edge over HTTP.

Every answer below came through `openfeature-sdk` and its OFREP provider; only the ETag, which the provider does not
send back, is asked with a plain HTTP client on the same edge.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext

from voice_pipeline.edge.flags import MODE_FLAG, MODEL_FLAG
from voice_pipeline.edge.server import EdgeServer
from voice_pipeline.release.people.decisions import record_decision
from voice_pipeline.schema.inference_policy import FILE_NAME as INFERENCE_POLICY
from voice_pipeline.schema.release import EXPOSURE_PERCENT, Decision
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import FILE_NAME as RELEASE_POLICY
from voice_pipeline.settings import PROJECT_ROOT
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline_tests.release.conftest import SMALL_FLEET, START
from voice_pipeline_tests.release.test_controller import in_stage
from voice_pipeline_tests.release.world import APP, Behaviour, World, add_suite, open_world

NEWER, OLDER, TOO_OLD = "1.4.0", APP, "0.9.0"
ROLLOUT = (S.CANARY_5, S.CANARY_25, S.CANARY_50, S.PRODUCTION)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """60 devices; every policy that the edge reads is beside the release policy."""
    clock = ManualClock(START)
    store = open_world(tmp_path / "home", clock, SMALL_FLEET)
    shipped = (PROJECT_ROOT / "policy" / INFERENCE_POLICY).read_text()
    (store.settings.policy_dir / INFERENCE_POLICY).write_text(shipped)
    return World(store, clock, add_suite(store), devices=60)


@dataclass
class Fleet:
    """Devices that ask an edge through OpenFeature."""

    client: OpenFeatureClient
    url: str
    devices: int

    def details(self, number: int, app: str = OLDER) -> Any:
        return self.client.get_object_details(MODEL_FLAG, {}, _context(number, app))

    def mode(self, number: int, app: str = OLDER) -> str:
        return self.client.get_string_value(MODE_FLAG, "unanswered", _context(number, app))

    def models(self, app: str = OLDER) -> dict[int, str | None]:
        """What every device is told to run; each answer is complete and free of errors."""
        told = {}
        for number in range(self.devices):
            found = self.details(number, app)
            assert found.error_code is None, found.error_message
            assert found.variant == (found.value["model_version"] or "none")
            told[number] = found.value["model_version"]
        return told

    def on(self, model: str, app: str = OLDER) -> set[int]:
        return {number for number, told in self.models(app).items() if told == model}


def _context(number: int, app: str) -> EvaluationContext:
    return EvaluationContext(f"device-{number:04d}", {"app_version": app, "device_class": "phone_mid"})


@contextmanager
def edge_of(store: Store, devices: int) -> Iterator[Fleet]:
    """A real edge on this store, and an OpenFeature client of it."""
    with EdgeServer(store) as edge:
        api.set_provider(OFREPProvider(edge.url), domain=edge.url)
        yield Fleet(api.get_client(domain=edge.url), edge.url, devices)


@pytest.fixture(autouse=True)
def no_provider_is_left() -> Iterator[None]:
    yield
    api.clear_providers()


def go_on(world: World, model: str) -> S:
    """Devices report until the release comes into its next stage."""
    before = world.view(model).state
    for _ in range(6):
        world.report()
        world.settle()
        if world.view(model).state is not before:
            break
    return world.view(model).state


def test_a_rollout_is_nested_and_sticky_over_restarts_of_the_edge(world: World) -> None:
    model = in_stage(world, S.SHADOW)
    reached: list[set[int]] = [set()]
    with edge_of(world.store, world.devices) as fleet:
        assert fleet.on(model) == set(), "in shadow nobody is answered by the candidate"
        shadowed = {n for n in range(fleet.devices) if fleet.details(n).value["shadow_model_version"] == model}
        assert 0 < len(shadowed) < fleet.devices / 2
        for stage in ROLLOUT:
            assert go_on(world, model) is stage, world.view(model).transitions[-1].reason
            told = fleet.models()
            reached.append({number for number, one in told.items() if one == model})
            assert fleet.models() == told, "asked twice"
            restarted = Store.open(world.store.settings, world.clock)
            with edge_of(restarted, world.devices) as other:
                assert other.models() == told, "asked another edge on the same home"
    assert all(smaller <= larger for smaller, larger in pairwise(reached))
    for stage, devices in zip(ROLLOUT, reached[1:], strict=True):
        assert len(devices) == pytest.approx(world.devices * EXPOSURE_PERCENT[stage] / 100, abs=8)
    assert reached[-1] == set(range(world.devices))


@pytest.mark.parametrize("cause", ["harm", "person"])
def test_a_rollback_brings_every_device_back_to_the_model_before_at_its_next_question(world: World, cause: str) -> None:
    model = in_stage(world, S.CANARY_50)
    with edge_of(world.store, world.devices) as fleet:
        before = fleet.models()
        previous = next(told for told in before.values() if told != model)
        assert model in before.values()
        if cause == "harm":
            world.behaviour[model] = Behaviour(crash=1.0)
            go_on(world, model)
        else:
            release_id = world.view(model).release_id
            record_decision(world.store, release_id, Decision.ROLLBACK, world.person(), "bad feedback")
            world.settle()
        assert world.view(model).state is S.ROLLED_BACK
        assert fleet.models() == dict.fromkeys(range(world.devices), previous)
        assert {fleet.details(n).reason for n in range(world.devices)} == {"DEFAULT"}


def test_a_rollback_of_the_live_model_brings_back_the_one_before(world: World) -> None:
    first = world.model(0.2)
    world.bootstrap(first)
    with edge_of(world.store, world.devices) as fleet:
        assert fleet.on(first) == set(range(world.devices))
        world.report()
        model = world.model(0.1)
        world.register(model)
        world.settle()
        for _ in ROLLOUT:
            go_on(world, model)
        assert fleet.on(model) == set(range(world.devices))
        record_decision(world.store, world.view(model).release_id, Decision.ROLLBACK, world.person(), "bad feedback")
        world.settle()
        assert fleet.on(first) == set(range(world.devices))


def test_each_app_is_told_a_model_within_its_range_and_one_too_old_to_ask_the_edge(world: World) -> None:
    first = world.model(0.2)
    world.bootstrap(first)
    world.apps, world.devices = (NEWER, OLDER), 200
    world.report()
    model = world.model(0.1, min_app=NEWER)
    world.register(model)
    world.settle()
    with edge_of(world.store, 30) as fleet:
        for _ in range(6):
            assert fleet.on(model, OLDER) == set()
            if go_on(world, model) is S.PRODUCTION:
                break
        everyone = set(range(fleet.devices))
        assert (fleet.on(model, NEWER), fleet.on(first, OLDER)) == (everyone, everyone)
        nothing = fleet.details(1, TOO_OLD)
        assert (nothing.value["model_version"], nothing.variant, nothing.reason) == (None, "none", "DISABLED")
        assert [fleet.mode(1, app) for app in (NEWER, OLDER, TOO_OLD)] == ["local", "local", "remote"]
        path = world.store.settings.policy_dir / RELEASE_POLICY
        content = yaml.safe_load(path.read_text())
        content["compatibility"]["last_app_of_format"] = {2: "1.3.0"}
        path.write_text(yaml.safe_dump(content))
        assert (fleet.on(model, NEWER), fleet.on(first, OLDER)) == (set(), everyone)
        assert fleet.mode(1, NEWER) == "remote"


def test_an_etag_holds_until_the_answer_changes_and_over_a_restart(world: World) -> None:
    model = in_stage(world, S.CANARY_25)
    keys = ("", f"/{MODEL_FLAG}", f"/{MODE_FLAG}")

    def ask(url: str, number: int, key: str, tag: str = "") -> httpx.Response:
        body = {"context": {"targetingKey": f"device-{number:04d}", "app_version": OLDER}}
        headers = {"If-None-Match": tag} if tag else {}
        return httpx.post(f"{url}/ofrep/v1/evaluate/flags{key}", json=body, headers=headers, timeout=30)

    with edge_of(world.store, world.devices) as fleet:
        told = fleet.models()
        chosen = next(number for number, one in told.items() if one == model)
        other = next(number for number, one in told.items() if one != model)
        tags = {(n, key): ask(fleet.url, n, key).headers["etag"] for n in (chosen, other) for key in keys}
    with edge_of(Store.open(world.store.settings, world.clock), world.devices) as fleet:
        for (number, key), tag in tags.items():
            again = ask(fleet.url, number, key, tag)
            assert (again.status_code, again.content) == (304, b"")
        record_decision(world.store, world.view(model).release_id, Decision.ROLLBACK, world.person(), "bad feedback")
        world.settle()
        changed = {who: ask(fleet.url, *who, tag).status_code for who, tag in tags.items()}
        for key in keys:
            assert changed[other, key] == 304, "nothing changed for a device that was on the live model"
            assert changed[chosen, key] == (304 if key == f"/{MODE_FLAG}" else 200)
