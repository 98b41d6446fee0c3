"""MLflow's aliases are what the ledger says, even after somebody changed them; an MLflow that is down stops nothing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from dagster import DagsterInstance, ResourceDefinition, RunRequest, SkipReason, build_sensor_context
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import alerts, bundles
from voice_pipeline.training import stages
from voice_pipeline.training.planning import Plan, act, read_policy, request_retrain
from voice_pipeline.training.registry import (
    REGISTERED_MODEL,
    Standing,
    mirror_aliases,
    mirror_bundles,
    register,
    standing,
    told,
)
from voice_pipeline.training.sensors import registry_sensor
from voice_pipeline.training.tracking import client_of
from voice_pipeline_tests.training.catalogue import add_dataset, move
from voice_pipeline_tests.transitions import way

CANDIDATE, GATED, SHADOW, CANARY = (
    ReleaseState.CANDIDATE,
    ReleaseState.GATED,
    ReleaseState.SHADOW,
    ReleaseState.CANARY_5,
)
LIVE, HELD, BACK = ReleaseState.PRODUCTION, ReleaseState.HELD, ReleaseState.ROLLED_BACK


@pytest.fixture
def plans(store: Store) -> list[Plan]:
    add_dataset(store, 1, clips=300)
    request_retrain(store, "another seed", actor="ann")
    return act(store, read_policy(store))


@pytest.fixture
def registered(store: Store, plans: list[Plan], tmp_path: Path) -> tuple[str, str]:
    """Two models, versions 1 and 2 of the registry."""
    card = tmp_path / "model_card.md"
    card.write_text("# card")
    for number, plan in enumerate(plans, start=1):
        assert register(store, plan.model_version, card) == register(store, plan.model_version, card) == str(number)
    first, second = (plan.model_version for plan in plans)
    return first, second


def aliases(store: Store) -> dict[str, str]:
    found = client_of(store).get_registered_model(REGISTERED_MODEL).aliases
    return {alias: str(version) for alias, version in found.items()}


def test_standing_follows_the_ledger(store: Store) -> None:
    assert standing(store) == Standing(None, None, None, 0)
    move(store, "m-1", CANDIDATE)
    assert standing(store) == Standing(None, "m-1", None, 1)
    move(store, "m-1", LIVE)
    assert standing(store) == Standing("m-1", None, None, 3)
    move(store, "m-2", CANDIDATE, SHADOW)
    assert standing(store) == Standing("m-1", "m-2", "m-2", 4)
    move(store, "m-2", CANARY)
    assert standing(store) == Standing("m-1", "m-2", None, 4)
    move(store, "m-2", BACK)
    assert standing(store) == Standing("m-1", None, None, store.ledger.head())


def test_a_release_held_in_shadow_keeps_the_alias_and_one_held_later_has_none(store: Store) -> None:
    move(store, "m-1", CANDIDATE, SHADOW, HELD)
    assert standing(store).shadow == "m-1"
    move(store, "m-2", CANDIDATE, SHADOW, CANARY, HELD)
    assert standing(store).shadow == "m-1"


@settings(deadline=None, max_examples=25)
@given(steps=st.lists(st.sampled_from([CANDIDATE, GATED, SHADOW, CANARY, HELD, LIVE, BACK]), min_size=1, max_size=8))
def test_no_alias_leads_the_ledger(steps: list[ReleaseState], tmp_path_factory: pytest.TempPathFactory) -> None:
    from voice_pipeline.settings import load_settings

    store = Store.open(load_settings(tmp_path_factory.mktemp("home")))
    try:
        last: ReleaseState | None = None
        for step in steps:
            if way(last, step):
                move(store, "m-1", step)
                last = step
        assert last is not None
        now = standing(store)
        assert (now.champion == "m-1") == (last is LIVE)
        assert (now.challenger == "m-1") == (last not in (LIVE, BACK))
        assert now.shadow in (None, now.challenger)
        if last in (CANDIDATE, GATED, CANARY, LIVE, BACK):
            assert now.shadow is None
    finally:
        store.database.engine.dispose()


def test_aliases_come_and_go_with_the_ledger(store: Store, registered: tuple[str, str]) -> None:
    first, second = registered
    mirror_aliases(store)
    assert aliases(store) == {}
    move(store, first, CANDIDATE, LIVE)
    move(store, second, CANDIDATE, SHADOW)
    mirror_aliases(store)
    assert aliases(store) == {"champion": "1", "challenger": "2", "shadow": "2"}
    move(store, second, CANARY)
    mirror_aliases(store)
    assert aliases(store) == {"champion": "1", "challenger": "2"}
    move(store, second, BACK)
    mirror_aliases(store)
    assert aliases(store) == {"champion": "1"}


def test_aliases_changed_by_hand_are_put_back(store: Store, registered: tuple[str, str]) -> None:
    first, second = registered
    move(store, first, CANDIDATE, LIVE)
    move(store, second, CANDIDATE, SHADOW, CANARY)
    mirror_aliases(store)
    client = client_of(store)
    client.set_registered_model_alias(REGISTERED_MODEL, "champion", "2")  # the way past the gates, if MLflow counted
    client.set_registered_model_alias(REGISTERED_MODEL, "shadow", "1")
    client.delete_registered_model_alias(REGISTERED_MODEL, "challenger")
    assert standing(store).champion == first  # nobody was impressed
    stages.mirror(store)
    assert aliases(store) == {"champion": "1", "challenger": "2"}


def test_a_ledger_that_moves_during_the_mirroring_is_followed(
    store: Store, registered: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from voice_pipeline.training import registry

    first, second = registered
    move(store, first, CANDIDATE, LIVE)
    move(store, second, CANDIDATE, SHADOW)
    moved: list[str] = []
    honest = registry._mirror

    def slow(client: object, alias: str, version: str | None) -> None:
        honest(client, alias, version)  # type: ignore[arg-type]
        if not moved:
            moved.append(alias)
            move(store, second, BACK)

    monkeypatch.setattr(registry, "_mirror", slow)
    mirror_aliases(store)
    assert aliases(store) == {"champion": "1"}


def requests(store: Store) -> list[str | None]:
    context = build_sensor_context(
        instance=DagsterInstance.ephemeral(), resources={"store": ResourceDefinition.hardcoded_resource(store)}
    )
    found = list(registry_sensor(context))  # type: ignore[call-overload]
    assert all(isinstance(item, RunRequest | SkipReason) for item in found)
    return [item.run_key for item in found if isinstance(item, RunRequest)]


def test_the_sensor_asks_when_the_ledger_moved_and_again_after_hours(store: Store) -> None:
    clock = store.clock
    assert isinstance(clock, ManualClock)
    assert requests(store) == []
    move(store, "m-1", CANDIDATE)
    seen = [requests(store), requests(store)]
    assert seen[0] == seen[1] != []
    move(store, "m-1", SHADOW)
    seen.append(requests(store))
    clock.advance(timedelta(hours=3))
    seen.append(requests(store))
    assert len({key for (key,) in seen}) == 3


@pytest.mark.parametrize("url", ["sqlite:///{root}/keys/vault-master.key/x.db", "sqlite:///file:{db}?mode=ro&uri=true"])
def test_an_mlflow_that_is_down_or_read_only_alerts_and_is_made_up_for_later(
    store: Store, registered: tuple[str, str], url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database inside a file, which cannot be opened; and the right one, which cannot be written."""
    monkeypatch.chdir(tmp_path)  # MLflow takes a URI for a path and makes its folders
    first, _ = registered
    move(store, first, CANDIDATE, LIVE)
    database = store.settings.root / "mlflow" / "mlflow.db"
    place = url.format(root=store.settings.root, db=database)
    down = Store(**{**vars(store), "settings": store.settings.model_copy(update={"mlflow_url": place})})
    stages.mirror(down)
    told_of = {row["body"].split(":")[0] for row in store.database.rows(alerts.select())}
    assert "the release states" in told_of
    assert standing(down).champion == first
    before = len(store.database.rows(alerts.select()))
    stages.mirror(down)
    assert len(store.database.rows(alerts.select())) == before  # once a day
    assert aliases(store) == {}
    assert "champion=" in stages.mirror(store)
    assert aliases(store) == {"champion": "1"}


def test_a_server_that_nobody_runs_is_given_up_soon_and_only_alerts(store: Store) -> None:
    move(store, "m-1", CANDIDATE, LIVE)
    settings = store.settings.model_copy(update={"mlflow_url": "http://127.0.0.1:9"})
    stages.mirror(Store(**{**vars(store), "settings": settings}))
    assert {row["title"] for row in store.database.rows(alerts.select())} == {"MLflow was not told"}


def test_what_goes_wrong_elsewhere_is_not_hidden(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt), told(store, "anything"):
        raise KeyboardInterrupt
    assert store.database.rows(alerts.select()) == []


def test_a_signed_bundle_joins_the_run_once(store: Store, registered: tuple[str, str]) -> None:
    first, _ = registered
    folder = store.settings.bundles / first
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    row = {"bundle_digest": "b" * 64, "model_version": first, "uri": "x", "manifest": {}, "size": 2}
    with store.database.write() as connection:
        connection.execute(bundles.insert(), {**row, "created_at": store.now().isoformat()})
    assert [mirror_bundles(store), mirror_bundles(store)] == [[first], []]
    client = client_of(store)
    (version,) = client.search_model_versions(f"name = '{REGISTERED_MODEL}' and tags.model_version = '{first}'")
    assert [a.path for a in client.list_artifacts(version.run_id, "bundle")] == ["bundle/manifest.json"]
    assert client.get_run(version.run_id).data.tags["bundle_digest"] == "b" * 64
