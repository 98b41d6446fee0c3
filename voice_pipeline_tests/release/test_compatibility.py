"""App and model versions are two tracks: whatever the fleet, nobody is given a bundle outside the range of its app."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.release.analysis.observations import read_stage
from voice_pipeline.release.assignment import assign, bucket
from voice_pipeline.release.compatibility import AppRange, app_range, newest_live
from voice_pipeline.schema.bundle import BundleManifest
from voice_pipeline.schema.release import EXPOSURE_PERCENT
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import FILE_NAME, Compatibility
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.releases import latest_release, live, release_views
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import bundles
from voice_pipeline_tests.packaging.small_models import suite_figures
from voice_pipeline_tests.release.conftest import START
from voice_pipeline_tests.release.test_controller import in_stage
from voice_pipeline_tests.release.world import World, open_world
from voice_pipeline_tests.transitions import take

STAGES = (S.SHADOW, S.CANARY_5, S.CANARY_25, S.CANARY_50)
VERSIONS = ("0.9", "1.0.0", "1.2", "1.2.1", "1.9.9", "1.10.0", "2", "2.0.1", "3.0.0")
DEVICES = [f"device-{number}" for number in range(12)]

Numbers = tuple[int, ...]


@dataclass(frozen=True)
class Model:
    min_app: str
    format_version: int


@dataclass(frozen=True)
class Fleet:
    """Models that were live one after another, one that rolls out beside the last of them, and what apps read them."""

    lived: list[Model]
    coming: Model
    last_app: dict[int, str]


models = st.builds(Model, st.sampled_from(VERSIONS[1:-1]), st.sampled_from([1, 2]))
fleets = st.builds(
    Fleet,
    st.lists(models, min_size=1, max_size=4),
    models,
    st.dictionaries(st.sampled_from([1, 2]), st.sampled_from(VERSIONS[1:])),
)


def numbers(version: str) -> Numbers:
    return tuple([*map(int, version.split(".")), 0, 0][:3])


def within(fleet: Fleet, model: Model, app: str) -> bool:
    """The range, said a second time."""
    last = fleet.last_app.get(model.format_version)
    return numbers(model.min_app) <= numbers(app) and (last is None or numbers(app) <= numbers(last))


def catalogue(store: Store, number: int, model: Model) -> tuple[str, str]:
    """A bundle in the catalogue; (model_version, bundle_digest)."""
    manifest = BundleManifest(
        format_version=model.format_version,
        model_version=f"m-20261102-{number:08d}",
        dataset_version="ds-000000000001",
        feature_schema_version="clip_features_v1",
        code_commit="c",
        lock_digest="l",
        spec_digest=f"{number:064d}",
        parent_model_version=None,
        suite_digest="5" * 64,
        wer_int8=0.1,
        wer_float=0.1,
        owner="team:speech",
        created_at=store.now(),
        quantisation="static",
        opset=18,
        frame_shift_s=0.02,
        min_app_version=model.min_app,
        files=(),
        golden=(),
        evaluations=suite_figures("5" * 64, 0.1, 0.1),
    )
    at = store.now().isoformat()
    row = {"bundle_digest": manifest.digest, "model_version": manifest.model_version, "uri": "nowhere", "size": 1}
    row |= {"manifest": manifest.model_dump(mode="json"), "published_at": at, "created_at": at}
    with store.database.write() as connection:
        connection.execute(bundles.insert(), row)
    return manifest.model_version, manifest.digest


def step(store: Store, model: tuple[str, str], before: S | None, after: S) -> None:
    view = latest_release(store, model[0])
    assert (view.state if view else None) is before
    take(store, f"{model[0]}-r1", *model, after)


def released(folder: Path, fleet: Fleet) -> tuple[Store, list[tuple[str, str]], tuple[str, str]]:
    """A home in which the models of the fleet were released; its past models, and the one in shadow."""
    store = open_world(folder, ManualClock(START), {"compatibility": {"last_app_of_format": fleet.last_app}})
    lived: list[tuple[str, str]] = []
    for number, model in enumerate(fleet.lived):
        one = catalogue(store, number, model)
        step(store, one, None, S.CANDIDATE)
        if lived:
            step(store, lived[-1], S.PRODUCTION, S.SUPERSEDED)
        step(store, one, S.CANDIDATE, S.PRODUCTION)
        lived.append(one)
    coming = catalogue(store, len(lived), fleet.coming)
    step(store, coming, None, S.CANDIDATE)
    step(store, coming, S.CANDIDATE, S.GATED)
    step(store, coming, S.GATED, S.SHADOW)
    return store, lived, coming


@given(fleets)
@settings(max_examples=30, deadline=None)
def test_nobody_is_given_a_bundle_outside_its_range_and_buckets_stay_nested(fleet: Fleet) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, lived, coming = released(Path(folder) / "home", fleet)
        known = dict(zip([model for model, _ in lived], fleet.lived, strict=True)) | {coming[0]: fleet.coming}
        asking = [(device, app) for device in DEVICES for app in VERSIONS]
        reached: set[tuple[str, str]] = set()
        for before, stage in zip((None, *STAGES), STAGES, strict=False):
            if before is not None:
                step(store, coming, before, stage)
            answers = {who: assign(store, *who) for who in asking}
            for (device, app), answer in answers.items():
                for given_ in (answer.model_version, answer.shadow_model_version):
                    assert given_ is None or within(fleet, known[given_], app)
                fits = within(fleet, fleet.coming, app)
                place = bucket(store.subject_salt, f"{coming[0]}-r1", device)
                on_candidate = fits and place < EXPOSURE_PERCENT.get(stage, 0)
                assert (answer.model_version == coming[0]) is on_candidate
                if not on_candidate:
                    usual = [m for (m, _), model in zip(lived, fleet.lived, strict=True) if within(fleet, model, app)]
                    assert answer.model_version == (usual[-1] if usual else None)
                if answer.shadow_model_version is not None:
                    assert (stage, fits) == (S.SHADOW, True)
            now = {who for who, answer in answers.items() if answer.model_version == coming[0]}
            assert reached <= now
            reached = now
            again = Store.open(store.settings, store.clock)
            assert {who: assign(again, *who) for who in asking} == answers
            again.database.engine.dispose()
        store.database.engine.dispose()


def test_a_stage_ends_just_below_its_percent(tmp_path: Path) -> None:
    """A device at 0 is in no shadow's exposure, one at 5.00 not in that of 5 %, one at 4.99 is."""
    model = Model("1.0.0", 2)
    store, lived, coming = released(tmp_path / "home", Fleet([model], model, {}))
    places = {bucket(store.subject_salt, f"{coming[0]}-r1", f"d{n}"): f"d{n}" for n in range(100_000)}
    assert assign(store, places[0.0], "1.5").model_version == lived[0][0]
    step(store, coming, S.SHADOW, S.CANARY_5)
    given_ = {place: assign(store, places[place], "1.5").model_version for place in (0.0, 4.99, 5.0)}
    assert given_ == {0.0: coming[0], 4.99: coming[0], 5.0: lived[0][0]}


@pytest.mark.parametrize(
    ("app", "holds"),
    [
        ("1.1.9", False),
        ("1.2", True),
        ("1.2.0", True),
        ("1.9.9", True),
        ("2.0.0", True),
        ("2.0", True),
        ("2.0.1", False),
        ("10", False),
        ("none", False),
    ],
)
def test_a_range_holds_both_its_ends(app: str, holds: bool) -> None:
    assert AppRange("1.2.0", "2.0").holds(app) is holds


def test_a_format_that_no_rule_names_is_read_by_every_later_app() -> None:
    assert AppRange("1.2.0", None).holds("999999999.0")
    assert not AppRange("2.0.0", "1.0.0").holds("1.5.0")


def test_a_ledger_that_goes_in_circles_ends_nobodys_search(tmp_path: Path) -> None:
    store, _, _ = released(tmp_path / "home", Fleet([Model("1.0.0", 2)] * 3, Model("1.0.0", 2), {}))
    views = release_views(store)
    asked = []

    def none(view: object) -> bool:
        asked.append(view)
        assert len(asked) < 10
        return False

    from dataclasses import replace

    first, second = replace(views[0], previous_live=views[1].release_id), views[1]
    assert newest_live([first, second], second, none) is None


def test_the_range_of_a_bundle_that_the_catalogue_lost_is_not_known(tmp_path: Path) -> None:
    store, lived, _ = released(tmp_path / "home", Fleet([Model("1.2", 1)], Model("1.0.0", 2), {1: "2.0"}))
    rules = Compatibility(last_app_of_format={1: "2.0"})
    view = release_views(store)[0]
    assert app_range(store, rules, view) == AppRange("1.2", "2.0")
    with store.database.write() as connection:
        connection.execute(bundles.delete().where(bundles.c.model_version == lived[0][0]))
    again = Store.open(store.settings, store.clock)
    assert app_range(again, rules, view) is None
    assert assign(again, "device-1", "1.5").model_version is None


def last_app(world: World, version: str) -> None:
    """Change `policy/release.yaml`: later apps no longer read the format of today's bundles."""
    path = world.store.settings.policy_dir / FILE_NAME
    content = yaml.safe_load(path.read_text())
    content["compatibility"]["last_app_of_format"] = {2: version}
    path.write_text(yaml.safe_dump(content))


def test_a_model_reaches_production_where_new_apps_read_no_bundle_any_more(small: World) -> None:
    small.apps, small.devices = ("1.2.0", "1.10.0"), 200
    last_app(small, "1.9.9")
    model = in_stage(small, S.CANARY_25)
    for _ in range(6):
        small.report()
        small.settle()
    assert small.view(model).state is S.PRODUCTION, small.view(model).transitions[-1].reason
    told = {small.app(n): small.assignment(n).model_version for n in range(small.devices)}
    assert told == {"1.2.0": model, "1.10.0": None}


def test_apps_that_a_rule_takes_out_of_the_range_are_not_taken_for_fallen_silent(small: World) -> None:
    """Half of the fleet loses its model at once in the middle of a rollout: the policy did that, not the candidate."""
    small.apps, small.devices = ("1.2.0", "1.10.0"), 200
    model = in_stage(small, S.CANARY_25)
    small.report(minutes=5)
    last_app(small, "1.9.9")
    small.register(model)
    for _ in range(3):
        small.report(minutes=70)
        small.settle()
        assert not small.view(model).ended, small.view(model).transitions[-1].reason
    outside = {n for n in range(small.devices) if small.app(n) == "1.10.0"}
    assert {small.assignment(n).model_version for n in outside} == {None}
    champion = live(small.store)
    assert champion is not None
    read = read_stage(small.store, small.view(model), champion, 20.0, 1440.0, small.policy.compatibility)
    for data in (read.offered, read.comparable):
        watched = {device for devices in data.expected.values() for device in devices}
        assert watched
        assert not watched & {f"device-{n:04d}" for n in outside}
