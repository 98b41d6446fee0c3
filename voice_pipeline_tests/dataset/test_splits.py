"""Splits follow consent, keep speakers apart, and never change."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from voice_pipeline.dataset.splits import SPEAKERS_FOR_DEV, allows, assign
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
        assert (split is Split.TEST) == (Scope.TRAIN not in speakers[speaker])


@given(speakers=people)
def test_the_split_depends_on_no_order(speakers: dict[str, frozenset[Scope]]) -> None:
    backwards = dict(reversed(speakers.items()))
    assert assign(speakers, {}) == assign(backwards, {})


@given(count=st.integers(min_value=SPEAKERS_FOR_DEV, max_value=60), seed=st.integers(min_value=0, max_value=10_000))
def test_there_is_a_development_speaker_as_soon_as_there_are_enough(count: int, seed: int) -> None:
    splits = assign({f"{seed}-{n}": EVERYTHING for n in range(count)}, {})
    assert Split.DEV in splits.values()
    assert sum(s is Split.TRAIN for s in splits.values()) > count / 2


def test_few_speakers_all_train_and_the_first_newcomers_give_the_development_speaker() -> None:
    few = {f"speaker-{n}": EVERYTHING for n in range(4)}
    first = assign(few, {})
    assert set(first.values()) == {Split.TRAIN}
    second = assign({**few, **{f"newcomer-{n}": EVERYTHING for n in range(5)}}, first)
    assert any(split is Split.DEV for speaker, split in second.items() if speaker.startswith("newcomer"))


def test_about_eight_percent_of_many_speakers_are_for_development() -> None:
    splits = assign({f"{n:032x}": EVERYTHING for n in range(4000)}, {})
    share = sum(s is Split.DEV for s in splits.values()) / len(splits)
    assert 0.065 < share < 0.095


def test_a_clip_is_used_only_as_its_own_consent_says() -> None:
    assert not allows(NO_TRAINING, Split.TRAIN)
    assert not allows(frozenset({Scope.TRAIN}), Split.DEV)
    assert not allows(frozenset({Scope.TRAIN}), Split.TEST)
    assert allows(frozenset({Scope.TRAIN}), Split.TRAIN)
    assert all(allows(EVERYTHING, split) for split in Split)
