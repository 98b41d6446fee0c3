"""Two models on the same clips: figures that can be checked by hand, what both heard, the live model by its bytes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.dataset.snapshot import snapshot
from voice_pipeline.dataset.suites import freeze_suites
from voice_pipeline.evaluation.artifacts import FLOAT, INT8, report_for
from voice_pipeline.evaluation.errors import DifferentSuitesError
from voice_pipeline.evaluation.paired import Pair, bootstrap, compare, compare_with, compare_with_live, paired
from voice_pipeline.schema.dataset import EvalSuite
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.store.store import Store
from voice_pipeline_tests.evaluation.heard import Said, report_on
from voice_pipeline_tests.packaging.small_models import sign_small_bundle
from voice_pipeline_tests.store.labelled_home import TEST_SCOPES, add_batch
from voice_pipeline_tests.training.catalogue import move

NEW, OLD = "m-20261102-bbbbbbbb", "m-20261101-aaaaaaaa"


def said(*heard: str) -> list[Said]:
    """Two speakers, two utterances each of four words; ann speaks on a phone."""
    speakers = ("ann", "ann", "bob", "bob")
    return [
        Said(speaker, "a b c d", text, ("device:phone_low",) if speaker == "ann" else ())
        for speaker, text in zip(speakers, heard, strict=True)
    ]


def test_a_comparison_of_two_speakers_is_what_a_hand_computes() -> None:
    # Word errors of the old model: ann 2 + 1, bob 1 + 0; of the new one: ann 1 + 0, bob 2 + 0; 16 words.
    old = report_on(said("a b x x", "a b c x", "x b c d", "a b c d"), OLD)
    new = report_on(said("a b c x", "a b c d", "x x c d", "a b c d"), NEW)
    found = compare(new, old)
    assert found is not None
    overall = found.overall
    assert (overall.baseline_wer, overall.wer) == (4 / 16, 3 / 16)
    assert overall.difference.value == pytest.approx(-1 / 16)
    # Resamples of {ann, bob}: both (1/2): -1/16; ann twice (1/4): -2/8; bob twice (1/4): +1/8.
    assert (overall.difference.low, overall.difference.high) == (-2 / 8, 1 / 8)
    assert overall.probability_worse == pytest.approx(1 / 4, abs=0.04)
    assert overall.relative_change is not None
    assert overall.relative_change.value == pytest.approx(-1 / 4)
    assert (overall.relative_change.low, overall.relative_change.high) == (pytest.approx(-2 / 3), pytest.approx(1))
    assert (overall.better, overall.worse) == (2 / 4, 1 / 4)
    phone = next(part for part in found.slices if part.slice == "device:phone_low")
    assert (phone.clips, phone.speakers, phone.baseline_wer, phone.wer) == (2, 1, 3 / 8, 1 / 8)
    assert phone.difference.low == phone.difference.high == -2 / 8  # one speaker: nothing to resample


def test_a_baseline_without_error_has_no_relative_change_and_an_unbounded_end_is_none() -> None:
    perfect, flawed = report_on(said(*["a b c d"] * 4), OLD), report_on(said("a b c x", *["a b c d"] * 3), NEW)
    found = compare(flawed, perfect)
    assert found is not None
    assert found.overall.relative_change is None
    only_ann_errs = report_on(said("a b c x", *["a b c d"] * 3), OLD)
    both_err = compare(report_on(said("a b c x", "a b c d", "x b c d", "a b c d"), NEW), only_ann_errs)
    assert both_err is not None
    assert both_err.overall.relative_change is not None
    assert both_err.overall.relative_change.high is None  # bob twice: errors out of none
    found.model_dump_json()
    both_err.model_dump_json()


def test_only_clips_that_both_heard_are_compared() -> None:
    new, old = report_on(said("x b c d", *["a b c d"] * 3), NEW), report_on(said(*["a b c d"] * 4)[:1], OLD)
    found = compare(new, old)
    assert found is not None
    assert (found.overall.clips, found.overall.worse) == (1, 1.0)
    nobody = old.model_copy(update={"utterances": ()})
    assert compare(new, nobody) is None
    assert bootstrap([]) is None


def test_a_clip_in_noise_is_never_paired_with_the_clean_one() -> None:
    clean = report_on([Said("ann", "a b", "a b")], OLD)
    noisy = report_on([Said("ann", "a b", "a x", condition="noise_10db")], NEW)
    assert compare(noisy, clean) is None


def test_reports_on_two_suites_are_refused() -> None:
    with pytest.raises(DifferentSuitesError, match=f"{NEW}.*{OLD}.*evaluate both on one suite"):
        compare(report_on(said(*["a"] * 4), NEW, suite_digest="b" * 64), report_on(said(*["a"] * 4), OLD))


errors = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(errors)
def test_trading_places_turns_every_sign(rows: list[tuple[str, int, int]]) -> None:
    forth = bootstrap([Pair(who, old, new, 4) for who, old, new in rows], 300)
    back = bootstrap([Pair(who, new, old, 4) for who, old, new in rows], 300)
    assert forth is not None
    assert back is not None
    assert forth.absolute_change == pytest.approx(-back.absolute_change)
    assert forth.absolute_low == pytest.approx(-back.absolute_high, abs=1e-9)
    assert forth.probability_worse == pytest.approx(1 - back.probability_worse)


@pytest.fixture
def suite(store: Store) -> EvalSuite:
    add_batch(store, "batch-20261102-001", ["t1", "t2"], scopes=TEST_SCOPES, text="call mary now", seconds=1.0)
    add_batch(store, "batch-20261102-002", [f"s{n}" for n in range(4)], text="yes", seconds=1.0)
    return freeze_suites(store, snapshot(store).dataset_version)


def test_without_another_live_model_the_reason_is_said(store: Store, suite: EvalSuite, checkpoint: str) -> None:
    report = report_for(store, checkpoint, FLOAT, suite)
    assert compare_with_live(store, report, suite).reason.startswith("no model is live yet")
    move(store, checkpoint, ReleaseState.CANDIDATE, ReleaseState.PRODUCTION)
    assert compare_with_live(store, report, suite).reason == f"{checkpoint} is itself the live model"


def test_the_live_model_is_heard_anew_when_its_bytes_changed(store: Store, suite: EvalSuite, checkpoint: str) -> None:
    import torch

    report = report_for(store, checkpoint, FLOAT, suite).model_copy(update={"model_version": NEW})
    move(store, checkpoint, ReleaseState.CANDIDATE, ReleaseState.PRODUCTION)
    same = compare_with_live(store, report, suite).comparison
    assert same is not None
    assert (same.baseline_model_version, same.overall.difference.value) == (checkpoint, 0.0)
    path = store.settings.models / checkpoint / "checkpoint" / "model.pt"
    weights = torch.load(path, weights_only=True)
    torch.save(
        {
            name: -tensor if tensor.is_floating_point() and "running" not in name else tensor
            for name, tensor in weights.items()
        },
        path,
    )
    stored = report_for(store, checkpoint, FLOAT, suite)
    changed = compare_with_live(store, report, suite).comparison
    assert changed is not None
    assert changed.overall.baseline_wer == stored.overall.wer.value


def test_a_model_whose_files_are_gone_is_named_not_fatal(store: Store, suite: EvalSuite, checkpoint: str) -> None:
    report = report_for(store, checkpoint, FLOAT, suite)
    found = compare_with(store, report, OLD, suite)
    assert found.comparison is None
    assert OLD in found.reason
    assert "cannot be heard" in found.reason


def test_a_model_of_which_only_the_bundle_is_left_is_heard_in_int8(
    store: Store, suite: EvalSuite, checkpoint: str
) -> None:
    sign_small_bundle(store.settings, OLD, seed=1)
    report = report_for(store, checkpoint, FLOAT, suite)
    found = compare_with(store, report, OLD, suite).comparison
    assert found is not None
    assert (found.variant, found.baseline_variant, found.baseline_model_version) == (FLOAT, INT8, OLD)
    assert found.overall.baseline_wer == report_for(store, OLD, INT8, suite).overall.wer.value


def test_like_is_compared_with_like_where_both_forms_are_there(store: Store, suite: EvalSuite, checkpoint: str) -> None:
    sign_small_bundle(store.settings, checkpoint, seed=1)
    for variant in (FLOAT, INT8):
        report = report_for(store, checkpoint, variant, suite)
        found = compare_with(store, report, checkpoint, suite).comparison
        assert found is not None
        assert (found.variant, found.baseline_variant) == (variant, variant)


def test_without_a_common_clip_the_reason_names_the_suite(store: Store, suite: EvalSuite, checkpoint: str) -> None:
    nothing = report_for(store, checkpoint, FLOAT, suite).model_copy(update={"utterances": ()})
    found = compare_with(store, nothing, checkpoint, suite)
    assert (found.comparison, found.reason) == (None, f"no utterance of {suite.name} was heard by both models")


def test_pairs_hold_the_counts_of_the_same_clip() -> None:
    new, old = report_on(said("a b c x", *["a b c d"] * 3), NEW), report_on(said("x x c d", *["a b c d"] * 3), OLD)
    assert paired(new, old)[0] == Pair("ann", 2, 1, 4)
    assert paired(new, old, {("clip3", "clean")}) == [Pair("bob", 0, 0, 4)]
