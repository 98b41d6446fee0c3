"""A story says where to look, and where it came to no model, what was missing."""

from __future__ import annotations

from voice_pipeline import story_report
from voice_pipeline.dataset.snapshot import snapshot
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.store.store import Store
from voice_pipeline_tests.store.labelled_home import TEST_SCOPES, add_batch
from voice_pipeline_tests.transitions import take


def test_a_home_without_enough_labels_says_how_many_there_are_and_how_many_are_needed(store: Store) -> None:
    told = story_report.why_no_model(store)
    assert told.startswith("0 clips are held, 0 of them labelled")
    assert "there is no dataset version yet" in told
    assert "closes at 25 labels (batch: min_clips in policy/labeling.yaml)" in told
    add_batch(store, "batch-20261102-001", ["t1"], scopes=TEST_SCOPES)
    add_batch(store, "batch-20261102-002", [f"s{n}" for n in range(4)])
    snapshot(store)
    told = story_report.why_no_model(store)
    assert told.startswith("10 clips are held, 10 of them labelled in closed batches and 0 beside")
    assert "new clips to learn from, 100 are needed" in told
    assert "100 labelled clips" in told
    assert "min_new_clips in policy/retrain.yaml" in told


def test_the_live_models_card_and_mlflow_are_named(store: Store) -> None:
    assert not any("model card" in line for line in story_report.where_to_look(store))
    take(store, "m-1-r1", "m-1", "b", ReleaseState.PRODUCTION)
    told = "\n".join(story_report.where_to_look(store))
    assert f"model card of the live model m-1: {store.settings.models / 'm-1' / 'model_card.md'}" in told
    assert f"mlflow ui --workers 1 --backend-store-uri sqlite:///{store.settings.root / 'mlflow' / 'mlflow.db'}" in told
    remote = store.settings.model_copy(update={"mlflow_url": "http://tracking:5000"})
    object.__setattr__(store, "settings", remote)
    assert story_report.where_to_look(store)[-1].endswith("in MLflow: http://tracking:5000")
