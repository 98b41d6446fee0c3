"""The Dagster shell: three assets in a row for one model version, with checks that look at the disk."""

from __future__ import annotations

from dagster import DagsterInstance, load_asset_checks_from_modules, load_assets_from_modules, materialize

from voice_pipeline.packaging import assets, checks
from voice_pipeline.partitions import model_version
from voice_pipeline.store.store import Store
from voice_pipeline_tests.packaging.small_models import add_trained_model

MODEL = "m-20261102-0000000d"


def run(store: Store, *names: str):  # type: ignore[no-untyped-def]
    instance = DagsterInstance.ephemeral()
    instance.add_dynamic_partitions(model_version.name or "", [MODEL])
    definitions = [*load_assets_from_modules([assets]), *load_asset_checks_from_modules([checks])]
    selection = [d for d in load_assets_from_modules([assets]) if d.key.path[-1] in names]  # type: ignore[union-attr]
    return materialize(
        definitions,
        selection=[d.key for d in selection] if names else None,  # type: ignore[union-attr]
        partition_key=MODEL,
        resources={"store": store},
        instance=instance,
        raise_on_error=False,
    )


def test_assets_package_a_trained_model_and_their_checks_pass(dataset_home: tuple[Store, str]) -> None:
    store, dataset_version = dataset_home
    add_trained_model(store, MODEL, dataset_version, seed=9)
    result = run(store)
    assert result.success
    evaluations = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert evaluations == {"graph_is_faithful": True, "int8_costs_little": True, "bundle_is_sound": True}
    metadata = result.asset_materializations_for_node("signed_bundle")[0].metadata
    assert len(str(metadata["bundle_digest"].value)) == 64


def test_asset_without_its_input_fails_and_says_what_to_do(store: Store) -> None:
    result = run(store, "onnx_model")
    assert not result.success
    failure = next(event for event in result.all_events if event.is_step_failure)
    assert "materialise acoustic_model first" in str(failure.event_specific_data)
