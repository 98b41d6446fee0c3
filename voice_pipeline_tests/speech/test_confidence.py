"""Confidence inputs go by name, older models stay readable, and a damaged document is refused."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_pipeline.speech.confidence import (
    FEATURE_INPUTS,
    FEATURES,
    INPUT_NAMES,
    LOG_ODDS,
    NETWORK_LOG_ODDS,
    UNKNOWN_WORDS,
    ConfidenceModel,
    inputs,
    scalars,
)
from voice_pipeline.speech.decoding import PosteriorStats
from voice_pipeline.speech.errors import ModelFileError

STATS = PosteriorStats(
    frames=100,
    characters=12,
    words=3,
    mean_best=0.9,
    min_best=0.5,
    mean_word=0.9,
    min_word=0.7,
    mean_margin=0.8,
    mean_entropy=0.2,
    blank_share=0.6,
    log_likelihood=-0.7,
    log_posterior=-0.5,
    character_entropy=0.3,
)
CLIP = dict.fromkeys(FEATURES, 1.0) | {"duration_s": 2.0}


def drawn(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, and answers right with a probability that the log-odds alone decide."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, len(INPUT_NAMES)))
    return x, rng.random(n) < 1 / (1 + np.exp(-2 * x[:, 0]))


def model(names: tuple[str, ...] = INPUT_NAMES, **changes: Any) -> ConfidenceModel:
    ones = tuple(1.0 for _ in names)
    return ConfidenceModel(names, tuple(0.0 for _ in names), ones, ones, 0.0, **changes)


def test_every_input_is_made_from_what_a_clip_tells() -> None:
    found = inputs("call me now", scalars(STATS), CLIP, ())
    assert set(found) == {*INPUT_NAMES, NETWORK_LOG_ODDS}
    assert all(np.isfinite(value) for value in found.values())
    assert set(scalars(STATS)) == {field.name for field in fields(PosteriorStats)}


@pytest.mark.parametrize(("name", "told"), [(LOG_ODDS, "log_posterior"), (NETWORK_LOG_ODDS, "log_likelihood")])
def test_the_log_odds_are_those_of_decoder_and_network(name: str, told: str) -> None:
    even = inputs("a", {**scalars(STATS), told: np.log(0.5)}, CLIP, ())
    assert even[name] == pytest.approx(0)
    for unlikely in (0.0, 1e4):
        assert abs(inputs("a", {**scalars(STATS), told: -unlikely}, CLIP, ())[name]) <= 30


def test_words_nobody_said_in_training_count_and_without_a_vocabulary_none_do() -> None:
    assert inputs("call mee nov", scalars(STATS), CLIP, {"call"})["unknown_words"] == pytest.approx(np.log(3))
    assert inputs("Call, me!", scalars(STATS), CLIP, {"call", "me"})["unknown_words"] == 0
    assert inputs("call mee nov", scalars(STATS), CLIP, ())["unknown_words"] == 0


@pytest.mark.parametrize("name", [*FEATURE_INPUTS, "duration_s"])
def test_without_a_feature_there_is_no_confidence_rather_than_a_guess(name: str) -> None:
    assert model().confidence("a", scalars(STATS), CLIP) is not None
    assert model().confidence("a", scalars(STATS), {**CLIP, name: None}) is None
    assert model(names=(LOG_ODDS,)).confidence("a", scalars(STATS), {}) is not None, "it does not look at features"


def test_posteriors_of_an_older_app_are_enough_for_an_older_model_only() -> None:
    told = {name: value for name, value in scalars(STATS).items() if name != "log_posterior"}
    assert model().confidence("a", told, CLIP) is None
    older = model(names=(NETWORK_LOG_ODDS, "mean_best", "log_words", "snr_db"))
    assert older.confidence("a", told, CLIP) is not None
    assert older.confidence("a", scalars(STATS), CLIP) == older.confidence("a", told, CLIP), "whatever decodes now"
    assert ConfidenceModel.from_json(older.to_json()) == older


def test_confidence_is_calibrated_on_clips_it_was_not_fitted_to() -> None:
    fitted = ConfidenceModel.fit(*drawn(1000), penalty=10)
    x, right = drawn(4000, seed=1)
    sure = fitted.probabilities(x)
    for low, high in ((0, 0.3), (0.3, 0.7), (0.7, 1)):
        chosen = (sure >= low) & (sure < high)
        assert right[chosen].mean() == pytest.approx(sure[chosen].mean(), abs=0.06)


def test_a_strong_prior_leaves_only_the_networks_own_word() -> None:
    x, right = drawn(300)
    x[:, INPUT_NAMES.index(UNKNOWN_WORDS)] = 0.0
    taken_at_its_word = 1 / (1 + np.exp(-x[:, INPUT_NAMES.index(LOG_ODDS)]))
    assert ConfidenceModel.fit(x, right, penalty=1e7).probabilities(x) == pytest.approx(taken_at_its_word, abs=1e-3)
    freely = ConfidenceModel.fit(x, right, penalty=1e-3).probabilities(x)
    assert np.abs(freely - taken_at_its_word).max() > 0.1, "the slope of these answers is two"


def test_what_counts_twice_is_as_if_it_were_there_twice() -> None:
    x, right = drawn(60)
    importance = np.where(np.arange(60) < 20, 2.0, 1.0)
    weighted = ConfidenceModel.fit(x, right, 1.0, importance)
    repeated = ConfidenceModel.fit(np.vstack([x, x[:20]]), np.append(right, right[:20]), 1.0)
    assert weighted.probabilities(x) == pytest.approx(repeated.probabilities(x), abs=1e-9)


@pytest.mark.parametrize("right", [True, False])
def test_answers_all_alike_still_give_a_model(right: bool) -> None:
    x, _ = drawn(20)
    sure = ConfidenceModel.fit(x, np.full(20, right), 0.3).probabilities(x[:1])[0]
    assert 0 < sure < 1
    assert (sure > 0.5) == right


def test_answers_that_one_input_separates_still_give_a_finite_model() -> None:
    x, _ = drawn(200)
    fitted = ConfidenceModel.fit(100 * x, x[:, 1] > 0, 1.0)
    assert np.isfinite(fitted.weights).all()


def test_one_clip_alone_and_all_together_give_the_same_bits() -> None:
    fitted = ConfidenceModel.fit(*drawn(100))
    x, _ = drawn(50, seed=3)
    assert [fitted.probabilities(row[None])[0] for row in x] == fitted.probabilities(x).tolist()


def test_a_confidence_model_comes_back_from_json_exactly() -> None:
    fitted = ConfidenceModel.fit(*drawn(50), vocabulary={"b", "a"}, feature_service="clip_features_v1")
    assert ConfidenceModel.from_json(fitted.to_json()) == fitted
    assert fitted.vocabulary == ("a", "b")
    assert (
        fitted.to_json()
        == ConfidenceModel.fit(*drawn(50), vocabulary=["a", "b"], feature_service="clip_features_v1").to_json()
    )


def test_the_model_of_an_older_bundle_is_still_understood() -> None:
    older = {"names": ["mean_best", "snr_db"], "mean": [0, 0], "scale": [1, 1], "weights": [1, 0], "bias": -0.9}
    read = ConfidenceModel.from_json(json.dumps({"type": "logistic", **older}))
    assert read.confidence("a", scalars(STATS), CLIP) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "change",
    [
        {"names": ["a"], "mean": [0], "scale": [1], "weights": [1]},
        {"names": [], "mean": [], "scale": [], "weights": []},
        {"weights": [1]},
        {"scale": [0] * len(INPUT_NAMES)},
        {"bias": float("nan")},
        {"mean": None},
        {"vocabulary": 3},
    ],
)
def test_a_damaged_model_is_refused(change: dict[str, Any]) -> None:
    document = {**json.loads(model().to_json()), **change}
    with pytest.raises(ModelFileError, match="fit it again"):
        ConfidenceModel.from_json(json.dumps(document))


@given(
    st.one_of(st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=4).map(json.dumps))
)
def test_a_document_that_is_no_confidence_model_is_refused(document: str) -> None:
    with pytest.raises(ModelFileError):
        ConfidenceModel.from_json(document)


@given(st.dictionaries(st.sampled_from(sorted(scalars(STATS))), st.floats(-1e6, 1e6)))
def test_whatever_a_device_tells_gives_a_probability_or_none(told: dict[str, float]) -> None:
    sure = model().confidence("a", {**scalars(STATS), **told}, CLIP)
    assert sure is None or 0 < sure < 1
