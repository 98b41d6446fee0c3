"""Assignment: sticky, nested, drawn anew for each release, bounded by the app's version, and quick."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.release.assignment import assign, bucket
from voice_pipeline.release.policy import LAST_GOOD, release_policy
from voice_pipeline.schema.policy_file import PolicyError
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import FILE_NAME
from voice_pipeline.store.store import Store
from voice_pipeline_tests.release.test_controller import in_stage
from voice_pipeline_tests.release.world import APP, World


def exposed(world: World, model: str) -> set[int]:
    return {n for n in range(world.devices) if world.assignment(n).model_version == model}


@given(st.text(max_size=20), st.text(max_size=20), st.text(min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_a_bucket_is_a_pure_function_in_range(salt: str, release: str, device: str) -> None:
    assert 0 <= bucket(salt, release, device) < 100
    assert bucket(salt, release, device) == bucket(salt, release, device)


def test_buckets_are_spread_evenly_and_drawn_anew_for_each_release() -> None:
    first = [bucket("s", "m-1-r1", f"d{n}") for n in range(20_000)]
    second = [bucket("s", "m-2-r1", f"d{n}") for n in range(20_000)]
    assert abs(sum(b < 5 for b in first) / 20_000 - 0.05) < 0.006
    both = sum(a < 5 and b < 5 for a, b in zip(first, second, strict=True)) / 20_000
    assert both < 0.005


def test_without_a_live_model_devices_are_told_to_run_none(small: World) -> None:
    given_ = small.assignment(1)
    assert (given_.model_version, given_.reason) == (None, "DISABLED")


def test_devices_of_a_smaller_stage_stay_in_every_larger_one(small: World) -> None:
    model = in_stage(small, S.CANARY_5)
    reached = [exposed(small, model)]
    while small.view(model).state is not S.PRODUCTION:
        small.report()
        small.settle()
        reached.append(exposed(small, model))
    assert all(a <= b for a, b in pairwise(reached))
    assert len(reached[-1]) == small.devices


def test_a_restart_changes_no_assignment(small: World) -> None:
    model = in_stage(small, S.CANARY_25)
    before = [small.assignment(n) for n in range(small.devices)]
    again = Store.open(small.store.settings, small.clock)
    assert [assign(again, f"device-{n:04d}", "1.2.0") for n in range(small.devices)] == before
    assert model in {given_.model_version for given_ in before}


def test_in_shadow_nobody_is_answered_by_the_candidate(small: World) -> None:
    model = in_stage(small, S.SHADOW)
    assert exposed(small, model) == set()
    silent = [n for n in range(small.devices) if small.assignment(n).shadow_model_version == model]
    assert 0 < len(silent) < small.devices // 2


def test_an_app_that_is_too_old_gets_no_model_that_needs_a_newer_one(small: World) -> None:
    small.bootstrap(small.model(0.2))
    assert assign(small.store, "device-1", "0.9.9").model_version is None
    assert assign(small.store, "device-1", "1.0").model_version is not None
    assert assign(small.store, "device-1", "10.0.0").model_version is not None


@pytest.mark.parametrize(("live_app", "coming_app"), [("1.0.0", "1.4.0"), ("1.4.0", "1.0.0")])
def test_a_model_goes_to_all_apps_that_run_it_and_to_no_other_however_many_these_are(
    small: World, live_app: str, coming_app: str
) -> None:
    small.apps = ("1.2.0", "1.3.9", "1.4.0", "1.10.0")
    small.devices = 400
    everyone = set(range(small.devices))
    able = {"1.0.0": everyone, "1.4.0": {n for n in everyone if n % 4 >= 2}}
    before, model = small.model(0.2, min_app=live_app), small.model(0.1, min_app=coming_app)
    small.bootstrap(before)
    assert exposed(small, before) == able[live_app]
    small.report()
    small.register(model)
    silent: set[int] = set()
    for _ in range(8):
        small.settle()
        silent |= {n for n in everyone if small.assignment(n).shadow_model_version == model}
        assert exposed(small, model) <= able[coming_app]
        small.report()
    assert silent
    assert silent <= able[coming_app]
    assert small.view(model).state is S.PRODUCTION, small.view(model).transitions[-1].reason
    assert exposed(small, model) == able[coming_app]
    assert exposed(small, before) == able[live_app] - able[coming_app]


@pytest.mark.parametrize("version", ["1.\u00b2", "1." + "9" * 5_000, "9" * 5_000, "\u0663.0", "", "..", "-1"])
def test_an_app_version_that_is_no_number_is_answered_as_an_old_app(small: World, version: str) -> None:
    small.bootstrap(small.model(0.2))
    expected = "DEFAULT" if version.startswith("1.") else "DISABLED"
    assert assign(small.store, "device-1", version).reason == expected


def test_devices_are_answered_by_the_last_good_policy_while_the_file_is_invalid(small: World) -> None:
    small.bootstrap(small.model(0.2))
    before = small.assignment(1)
    path = small.store.settings.policy_dir / FILE_NAME
    path.write_text("version: [")
    assert small.assignment(1) == before
    with pytest.raises(PolicyError, match=r"release\.yaml"):  # what promotes still says so
        release_policy(small.store)
    restarted = Store.open(small.store.settings, small.clock)
    assert assign(restarted, "device-0001", APP) == before
    (small.store.settings.root / LAST_GOOD).unlink()
    with pytest.raises(PolicyError, match=r"release\.yaml"):  # there never was a good one
        assign(restarted, "device-0001", APP)


def test_three_hundred_devices_are_answered_within_a_second(small: World) -> None:
    small.bootstrap(small.model(0.2))
    small.assignment(0)
    started = time.process_time()
    for number in range(300):
        small.assignment(number)
    assert time.process_time() - started < 1.0
