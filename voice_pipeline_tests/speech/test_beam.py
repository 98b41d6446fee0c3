"""The search finds what going through every path finds; its times are those of the likeliest path."""

from __future__ import annotations

import gc
import math
from dataclasses import replace
from itertools import groupby, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.speech import beam as module
from voice_pipeline.speech.alignment import best_path
from voice_pipeline.speech.beam import BeamSearch, BeamSettings, Lexicon
from voice_pipeline.speech.decoding import along, greedy
from voice_pipeline.speech.kneser_ney import estimate
from voice_pipeline.speech.ngram import UNKNOWN
from voice_pipeline.speech.tokenizer import CharTokenizer

SMALL = CharTokenizer(" ab")
MODEL = estimate(["a b", "ab ab a", "a ab", "b a a", "a"], 2)
WORDS = CharTokenizer()
NAMES = estimate(["call mary now", "call marc", "mary may call", "call bob now please"], 3)

weights = st.builds(
    BeamSettings,
    lm_weight=st.floats(0, 2),
    word_bonus=st.floats(-2, 2),
    unknown_penalty=st.floats(0, 8),
    beam_width=st.just(10**6),
    token_floor=st.just(0.0),
    sure_blank=st.just(1.0),
)


@st.composite
def posteriors(draw: st.DrawFn, frames: int = 5) -> np.ndarray:
    """(T, 4) log-probabilities of up to `frames` frames, from flat to sharp."""
    count = draw(st.integers(1, frames))
    scores = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).normal(0, draw(st.floats(0.5, 3)), (count, 4))
    return (scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)).astype(np.float32)


def paths(log_probs: np.ndarray) -> dict[tuple[str, ...], list[tuple[float, tuple[int, ...]]]]:
    """Every path with its log-probability, by the words it says."""
    found: dict[tuple[str, ...], list[tuple[float, tuple[int, ...]]]] = {}
    for path in product(range(4), repeat=len(log_probs)):
        words = tuple(SMALL.decode([letter for letter, _ in groupby(path)]).split())
        score = float(sum(log_probs[frame, letter] for frame, letter in enumerate(path)))
        found.setdefault(words, []).append((score, path))
    return found


def true_scores(log_probs: np.ndarray, chosen: BeamSettings) -> dict[tuple[str, ...], float]:
    """The formula at the head of `beam`, by going through every path."""
    scores = {}
    for words, said in paths(log_probs).items():
        score = float(np.logaddexp.reduce([log10 for log10, _ in said]))
        if words:
            score += chosen.lm_weight * math.log(10) * MODEL.sentence_log10(words) + chosen.word_bonus * len(words)
            score -= chosen.unknown_penalty * sum(MODEL.known(word) == UNKNOWN for word in words)
        scores[words] = score
    return scores


@settings(max_examples=40, deadline=None)
@given(posteriors(), weights)
def test_a_search_without_bounds_gives_every_text_its_true_score(log_probs: np.ndarray, chosen: BeamSettings) -> None:
    search = BeamSearch(Lexicon(MODEL, SMALL), chosen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FALLEN", 0.0)
        ranked, heard = search.ranked(log_probs), search.decode(log_probs, 0.02)
    truth = true_scores(log_probs, chosen)
    assert dict(ranked) == pytest.approx(truth, abs=1e-3)
    assert ranked[0][1] == pytest.approx(max(truth.values()), abs=1e-3)
    share = max(truth.values()) - np.logaddexp.reduce(list(truth.values()))
    assert heard.posteriors.log_posterior == pytest.approx(share, abs=2e-3)


@settings(max_examples=40, deadline=None)
@given(posteriors(), weights, st.sampled_from([1, 2, 4, 8, 16]))
def test_no_width_claims_more_than_there_is_and_a_wide_one_finds_the_best(
    log_probs: np.ndarray, chosen: BeamSettings, width: int
) -> None:
    truth = true_scores(log_probs, chosen)
    bounded = BeamSettings(chosen.lm_weight, chosen.word_bonus, chosen.unknown_penalty, width, 0.0, 1.0)
    words, score = BeamSearch(Lexicon(MODEL, SMALL), bounded).ranked(log_probs)[0]
    assert score <= truth[words] + 1e-3
    assert truth[words] <= max(truth.values()) + 1e-9
    wide = BeamSettings(chosen.lm_weight, chosen.word_bonus, chosen.unknown_penalty, 400, 0.0, 1.0)
    assert truth[BeamSearch(Lexicon(MODEL, SMALL), wide).ranked(log_probs)[0][0]] == pytest.approx(
        max(truth.values()), abs=1e-3
    )


def spelt(path: list[int], sure: float = 0.97) -> np.ndarray:
    probabilities = np.full((len(path), WORDS.size), (1 - sure) / (WORDS.size - 1))
    probabilities[np.arange(len(path)), path] = sure
    return np.log(probabilities).astype(np.float32)


def path_of(text: str) -> list[int]:
    return [letter for index in WORDS.encode(text) for letter in (index, 0)]


@settings(deadline=None)
@given(st.lists(st.text("abcr'", min_size=1, max_size=4), max_size=4).map(" ".join), st.integers(0, 3))
def test_without_a_language_model_sure_posteriors_decode_as_greedily(text: str, silence: int) -> None:
    log_probs = spelt([0] * (silence + 1) + path_of(text))
    plain = BeamSearch(Lexicon(NAMES, WORDS), BeamSettings())
    heard, path = plain.decode(log_probs, 0.02), greedy(log_probs, WORDS, 0.02)
    assert (heard.text, heard.words) == (path.text, path.words)
    assert replace(heard.posteriors, log_posterior=path.posteriors.log_posterior) == path.posteriors
    assert path.posteriors.log_posterior - 1e-6 <= heard.posteriors.log_posterior <= 0, "narrow beams leave texts out"


def doubtful(text: str, at: int, other: str, share: float = 0.45) -> np.ndarray:
    """`text`, whose letter `at` might as well be `other`."""
    log_probs = np.exp(spelt(path_of(text), 0.98))
    letter, rival = WORDS.encode(text[at])[0], WORDS.encode(other)[0]
    log_probs[2 * at, [letter, rival]] = 1 - share, share - 0.01
    return np.log(log_probs / log_probs.sum(axis=1, keepdims=True)).astype(np.float32)


def test_the_language_model_decides_where_the_network_is_in_doubt() -> None:
    log_probs = doubtful("call nary now", 5, "m")
    assert greedy(log_probs, WORDS, 0.02).text == "call nary now"
    heard = BeamSearch(Lexicon(NAMES, WORDS), BeamSettings(0.5, 0, 4)).decode(log_probs, 0.02)
    assert heard.text == "call mary now"
    assert [word.text for word in heard.words] == ["call", "mary", "now"]
    assert heard.words[1].start_s == pytest.approx(10 * 0.02)
    assert heard.words[1].confidence < heard.words[0].confidence
    alone = BeamSearch(Lexicon(NAMES, WORDS), BeamSettings()).decode(log_probs, 0.02)
    assert alone.posteriors.log_posterior < np.log(0.6) < heard.posteriors.log_posterior, "the model settles the doubt"


def test_a_word_that_the_model_does_not_know_stays_possible_at_its_price() -> None:
    log_probs = doubtful("call zara now", 5, "m", share=0.2)
    free, dear = (BeamSettings(0.5, 0, penalty) for penalty in (0, 50))
    assert BeamSearch(Lexicon(NAMES, WORDS), free).text(log_probs) == "call zara now"
    assert "zara" not in BeamSearch(Lexicon(NAMES, WORDS), dear).text(log_probs)


def test_silence_stays_silent_under_any_language_model() -> None:
    log_probs = spelt([0] * 20, 0.9)
    assert BeamSearch(Lexicon(NAMES, WORDS), BeamSettings(1.5, 1.0, 0)).text(log_probs) == ""


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_long_pauses_cost_nothing_and_change_nothing(before: int, between: int) -> None:
    a, b = path_of("mary"), path_of("mary")
    silence = [0] * before + a + [0] * between + b
    skipping, slow = (BeamSearch(Lexicon(NAMES, WORDS), BeamSettings(0.5, sure_blank=s)) for s in (0.99, 1.0))
    log_probs = spelt(silence, 0.995)
    assert skipping.text(log_probs) == slow.text(log_probs)


def test_a_doubled_letter_survives_a_skipped_pause() -> None:
    log_probs = spelt([WORDS.encode("c")[0], 0, 0, *path_of("c")], 0.9999)
    assert BeamSearch(Lexicon(NAMES, WORDS), BeamSettings()).text(log_probs) == "cc"


def test_frames_that_are_no_numbers_are_passed_over() -> None:
    log_probs = spelt(path_of("call mary"))
    log_probs[3] = np.nan
    assert BeamSearch(Lexicon(NAMES, WORDS), BeamSettings(0.5)).text(log_probs).endswith("mary")


def test_the_same_posteriors_give_the_same_answer_however_often_they_are_heard() -> None:
    search, log_probs = BeamSearch(Lexicon(NAMES, WORDS), BeamSettings(0.5, 0, 2)), doubtful("call bob now", 5, "m")
    assert search.ranked(log_probs) == search.ranked(log_probs)


@settings(max_examples=60, deadline=None)
@given(posteriors(frames=6))
def test_the_likeliest_path_of_every_text_is_found(log_probs: np.ndarray) -> None:
    for words, said in paths(log_probs).items():
        path = best_path(log_probs, " ".join(words), SMALL)
        score = float(log_probs[np.arange(len(path)), path].sum())
        assert score == pytest.approx(max(log10 for log10, _ in said), abs=1e-4)
        assert along(path, log_probs, SMALL, 0.02).text == " ".join(words)


@settings(max_examples=60, deadline=None)
@given(posteriors(frames=8))
def test_the_likeliest_path_of_what_greedy_heard_is_greedy_s_own(log_probs: np.ndarray) -> None:
    heard = greedy(log_probs, SMALL, 0.02)
    path = best_path(log_probs, heard.text, SMALL)
    assert log_probs[np.arange(len(path)), path].sum() == pytest.approx(log_probs.max(axis=1).sum(), abs=1e-4)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), spread=st.floats(0, 3))
def test_no_frame_tries_more_than_so_many_letters_and_those_are_its_likeliest(seed: int, spread: float) -> None:
    scores = np.random.default_rng(seed).normal(0, spread, (6, WORDS.size))
    log_probs = (scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)).astype(np.float32)
    search = BeamSearch(Lexicon(NAMES, WORDS), BeamSettings(token_floor=0.0, sure_blank=1.0))
    for row, letters in search._frames(log_probs):
        assert row is not None
        assert len(letters) == module.MOST_LETTERS
        others = set(range(1, WORDS.size)) - set(letters)
        assert min(row[letter] for letter in letters) >= max(row[letter] for letter in others)


@pytest.mark.parametrize("collecting", [True, False])
def test_the_collector_rests_during_a_search_and_is_left_as_it_was(
    collecting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = BeamSearch(Lexicon(NAMES, WORDS), BeamSettings())
    seen: list[bool] = []

    def failing(log_probs: np.ndarray) -> list[object]:
        seen.append(gc.isenabled())
        raise MemoryError

    monkeypatch.setattr(search, "ranked", failing)
    before = gc.isenabled()
    try:
        gc.enable() if collecting else gc.disable()
        with pytest.raises(MemoryError):
            search.decode(np.zeros((1, WORDS.size), dtype=np.float32), 0.02)
        assert gc.isenabled() is collecting
    finally:
        gc.enable() if before else gc.disable()
    assert seen == [False]
