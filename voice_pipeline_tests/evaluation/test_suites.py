"""A frozen suite gives the same sounds every time, and nothing of a person who was erased."""

from __future__ import annotations

import numpy as np
import pytest

from voice_pipeline.dataset.snapshot import snapshot
from voice_pipeline.dataset.suites import freeze_suites
from voice_pipeline.evaluation.artifacts import FLOAT, INT8, artifact_of, open_recogniser, report_for
from voice_pipeline.evaluation.errors import EmptySuiteError, MissingSuiteError, UnknownArtifactError
from voice_pipeline.evaluation.report import find_report
from voice_pipeline.evaluation.suites import current_suite, find_suite, snr_slice, suite_clips
from voice_pipeline.schema.dataset import EvalSuite
from voice_pipeline.store.store import Store
from voice_pipeline_tests.store.labelled_home import TEST_SCOPES, add_batch


@pytest.fixture
def suite(store: Store) -> EvalSuite:
    add_batch(store, "batch-20261102-001", ["t1", "t2"], scopes=TEST_SCOPES, text="call mary now", seconds=1.0)
    add_batch(store, "batch-20261102-002", [f"s{n}" for n in range(4)], text="yes", seconds=1.0)
    return freeze_suites(store, snapshot(store).dataset_version)


def test_a_home_without_a_suite_says_so(store: Store) -> None:
    with pytest.raises(MissingSuiteError, match="no evaluation suite is frozen"):
        current_suite(store)
    with pytest.raises(MissingSuiteError, match="abc"):
        find_suite(store, "abc")


def test_each_test_clip_is_heard_once_a_condition_and_nobody_else_is(store: Store, suite: EvalSuite) -> None:
    assert current_suite(store) == suite == find_suite(store, suite.digest)
    clips = list(suite_clips(store, suite))
    assert {clip.speaker for clip in clips} == {"t1", "t2"}
    assert sorted((c.clip_id, c.condition) for c in clips) == sorted(
        (clip_id, condition) for clip_id in suite.clip_ids for condition in suite.conditions
    )
    assert set(clips[0].slices) == {
        f"condition:{clips[0].condition}",
        "device:phone_low",
        "microphone:built_in",
        "accent:en-gb",
        "gender:female",
        "source:test",
        "length:short",
        snr_slice(clips[0].samples),
    }


def test_what_nobody_knows_of_a_clip_is_no_slice(store: Store) -> None:
    unknown = {"device_class": "unknown", "microphone": "unknown", "locale": "und", "accent": "", "gender": ""}
    add_batch(store, "batch-20261102-001", ["t1", "t2"], scopes=TEST_SCOPES, text="call mary now", **unknown)
    add_batch(store, "batch-20261102-002", [f"s{n}" for n in range(4)], text="yes", **unknown)
    made = snapshot(store)  # the expectations let such rows pass
    names = {name for clip in suite_clips(store, freeze_suites(store, made.dataset_version)) for name in clip.slices}
    assert {name.split(":")[0] for name in names} == {"condition", "source", "length", "snr"}


def test_a_suite_sounds_the_same_every_time(store: Store, suite: EvalSuite) -> None:
    once, again = list(suite_clips(store, suite)), list(suite_clips(store, suite))
    for one, other in zip(once, again, strict=True):
        np.testing.assert_array_equal(one.samples, other.samples)
    sounds = {clip.condition: clip.samples for clip in once if clip.clip_id == once[0].clip_id}
    assert not np.array_equal(sounds["clean"], sounds["noise_10db"])


def test_an_erased_speaker_is_heard_no_more(store: Store, suite: EvalSuite) -> None:
    store.vault.destroy("t1")
    assert {clip.speaker for clip in suite_clips(store, suite)} == {"t2"}
    store.vault.destroy("t2")
    with pytest.raises(EmptySuiteError, match="has no clip left"):
        list(suite_clips(store, suite))


def test_a_stored_report_is_reused_only_for_the_very_same_weights(
    store: Store, suite: EvalSuite, checkpoint: str
) -> None:
    import torch

    first = report_for(store, checkpoint, FLOAT, suite)
    assert find_report(store, checkpoint, FLOAT, suite.digest) == first
    assert report_for(store, checkpoint, FLOAT, suite) == first
    path = artifact_of(store, checkpoint, FLOAT).folder / "model.pt"
    weights = torch.load(path, weights_only=True)
    torch.save(
        {name: tensor * 1.01 if tensor.is_floating_point() else tensor for name, tensor in weights.items()}, path
    )
    before = artifact_of(store, checkpoint, FLOAT).sha256
    second = report_for(store, checkpoint, FLOAT, suite)
    assert second.latency != first.latency  # heard again
    assert artifact_of(store, checkpoint, FLOAT).sha256 == before


def test_an_artifact_that_is_not_there_or_damaged_is_named(store: Store, checkpoint: str) -> None:
    with pytest.raises(UnknownArtifactError, match="no int8 artifact"):
        artifact_of(store, checkpoint, INT8)
    artifact = artifact_of(store, checkpoint, FLOAT)
    weights = artifact.folder / "model.pt"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UnknownArtifactError, match="cannot be loaded"):
        open_recogniser(artifact)
