"""Splits follow consent, keep speakers apart, and never change."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from voice_pipeline.dataset.splits import SPEAKERS_FOR_DEV, SPEAKERS_FOR_TEST, allows, assign
from voice_pipeline.schema.consent import Scope
from voice_pipeline.schema.dataset import Split

EVERYTHING = frozenset(Scope)
NO_TRAINING = EVERYTHING - {Scope.TRAIN}
scopes = st.frozensets(st.sampled_from(Scope))
people = st.dictionaries(st.text("0123456789abcdef", min_size=4, max_size=8), scopes, max_size=40)


@given(first=people, later=people)
def test_a_split_never_changes_however_many_speakers_come_later(
    first: dict[str, frozenset[Scope]], later: dict[str, frozenset[Scope]]
) -> None:
    before = assign(first, {})
    after = assign({**later, **first}, before)
    assert {speaker: after[speaker] for speaker in before} == before


@given(speakers=people)
def test_who_does_not_allow_training_is_never_trained_or_tuned_on(speakers: dict[str, frozenset[Scope]]) -> None:
    for speaker, split in assign(speakers, {}).items():
        assert split is Split.TEST or Scope.TRAIN in speakers[speaker]


@given(speakers=people)
def test_where_somebody_may_only_be_tested_on_nobody_else_is_drawn_for_the_test(
    speakers: dict[str, frozenset[Scope]],
) -> None:
    speakers |= {"tester": NO_TRAINING}
    for speaker, split in assign(speakers, {}).items():
        assert (split is Split.TEST) == (Scope.TRAIN not in speakers[speaker])


@given(speakers=people)
def test_who_is_drawn_allows_what_they_are_drawn_for(speakers: dict[str, frozenset[Scope]]) -> None:
    for speaker, split in assign(speakers, {}).items():
        if Scope.TRAIN in speakers[speaker] and split is not Split.TRAIN:
            assert allows(speakers[speaker], Split.DEV)


@given(speakers=people)
def test_the_split_depends_on_no_order(speakers: dict[str, frozenset[Scope]]) -> None:
    backwards = dict(reversed(speakers.items()))
    assert assign(speakers, {}) == assign(backwards, {})


@given(count=st.integers(min_value=SPEAKERS_FOR_DEV, max_value=60), seed=st.integers(min_value=0, max_value=10_000))
def test_there_is_a_development_speaker_as_soon_as_there_are_enough(count: int, seed: int) -> None:
    splits = assign({f"{seed}-{n}": EVERYTHING for n in range(count)} | {"tester": NO_TRAINING}, {})
    assert Split.DEV in splits.values()
    assert sum(s is Split.TRAIN for s in splits.values()) > count / 2


@given(count=st.integers(min_value=SPEAKERS_FOR_TEST, max_value=60), seed=st.integers(min_value=0, max_value=10_000))
def test_a_corpus_that_names_no_test_speaker_has_all_three_splits(count: int, seed: int) -> None:
    splits = assign({f"{seed}-{n}": EVERYTHING for n in range(count)}, {})
    assert set(splits.values()) == set(Split)
    assert sum(s is Split.TRAIN for s in splits.values()) >= count / 2


@given(sizes=st.lists(st.integers(min_value=1, max_value=5), min_size=4, max_size=8))
def test_speakers_who_come_a_few_at_a_time_give_all_three_splits_too(sizes: list[int]) -> None:
    known: dict[str, Split] = {}
    speakers: dict[str, frozenset[Scope]] = {}
    for batch, size in enumerate(sizes):
        speakers |= {f"{batch}-{n}": EVERYTHING for n in range(size)}
        after = assign(speakers, known)
        assert {s: after[s] for s in known} == known
        known = after
    assert set(known.values()) == set(Split)


def test_too_few_speakers_give_nobody_away_and_the_newcomers_make_it_up() -> None:
    two = {"a": EVERYTHING, "b": EVERYTHING}
    first = assign(two, {})
    assert set(first.values()) == {Split.TRAIN}
    second = assign({**two, "c": EVERYTHING}, first)
    assert second["c"] is Split.DEV
    assert assign({**two, "c": EVERYTHING, "d": EVERYTHING}, second)["d"] is Split.TEST


def test_a_test_speaker_nobody_may_evaluate_on_is_none() -> None:
    silent = frozenset({Scope.TRANSCRIBE_REVIEW})
    splits = assign({"silent": silent} | {f"s{n}": EVERYTHING for n in range(4)}, {})
    assert sum(s is Split.TEST for s in splits.values()) == 2


def test_newcomers_are_drawn_for_the_test_as_long_as_all_of_it_is_drawn() -> None:
    first = {f"{n:032x}": EVERYTHING for n in range(20)}
    later = {f"{n:032x}": EVERYTHING for n in range(4000)}
    known = assign(first, {})
    share = sum(s is Split.TEST for s in assign(later, known).values()) / len(later)
    assert 0.10 < share < 0.14


def test_about_eight_percent_of_many_speakers_are_for_development() -> None:
    splits = assign({f"{n:032x}": EVERYTHING for n in range(4000)} | {"tester": NO_TRAINING}, {})
    share = sum(s is Split.DEV for s in splits.values()) / len(splits)
    assert 0.065 < share < 0.095


def test_a_clip_is_used_only_as_its_own_consent_says() -> None:
    assert not allows(NO_TRAINING, Split.TRAIN)
    assert not allows(frozenset({Scope.TRAIN}), Split.DEV)
    assert not allows(frozenset({Scope.TRAIN}), Split.TEST)
    assert allows(frozenset({Scope.TRAIN}), Split.TRAIN)
    assert all(allows(EVERYTHING, split) for split in Split)
