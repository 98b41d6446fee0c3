"""A choice of clips has every stratum's share or every speaker's turn, and hangs on the clips alone."""

from __future__ import annotations

from collections import Counter

from hypothesis import example, given, settings
from hypothesis import strategies as st

from voice_pipeline.stats.sampling import by_turns, spread

GROUPED = st.lists(st.sampled_from("abcd"), max_size=60)
COUNTS = st.integers(0, 40)


def names_of(groups: list[str]) -> list[str]:
    return [f"clip-{n:03}" for n in range(len(groups))]


@settings(deadline=None)
@given(GROUPED, COUNTS)
def test_every_stratum_has_its_share(strata: list[str], count: int) -> None:
    chosen = spread(strata, names_of(strata), count)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(len(strata), count)
    for stratum, size in Counter(strata).items():
        share = size * len(chosen) / len(strata)
        assert abs(sum(strata[n] == stratum for n in chosen) - share) <= 1


@example([("a", "x")] * 6 + [("b", "y")] * 6, 4)
@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), min_size=1, max_size=60), COUNTS)
def test_of_nested_strata_the_outer_ones_have_their_share_too(strata: list[tuple[str, str]], count: int) -> None:
    chosen = spread(strata, names_of([outer for outer, _ in strata]), count)
    share = sum(outer == "a" for outer, _ in strata) * len(chosen) / len(strata)
    assert abs(sum(strata[n][0] == "a" for n in chosen) - share) <= 1


@settings(deadline=None)
@given(GROUPED, COUNTS)
def test_no_group_has_a_second_turn_before_every_other_had_its_first(groups: list[str], count: int) -> None:
    chosen = by_turns(groups, names_of(groups), count)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(len(groups), count)
    sizes, given_ = Counter(groups), Counter(groups[n] for n in chosen)
    for group, size in sizes.items():
        if given_[group] < size:
            assert given_[group] >= max(given_.values(), default=0) - 1


@settings(deadline=None)
@given(GROUPED, COUNTS, st.randoms(use_true_random=False))
def test_the_choice_hangs_on_the_names_and_not_on_their_order(groups: list[str], count: int, random: object) -> None:
    names = names_of(groups)
    order = list(range(len(names)))
    random.shuffle(order)  # type: ignore[attr-defined]
    mixed_groups, mixed_names = [groups[n] for n in order], [names[n] for n in order]
    for choose in (spread, by_turns):
        straight = {names[n] for n in choose(groups, names, count)}
        assert straight == {mixed_names[n] for n in choose(mixed_groups, mixed_names, count)}


def test_the_newest_speakers_are_heard_however_many_clips_are_older() -> None:
    speakers = ["old"] * 400 + ["new"] * 30
    chosen = by_turns(speakers, names_of(speakers), 60)
    assert Counter(speakers[n] for n in chosen) == {"old": 30, "new": 30}
    newest_of_the_old = [n for n in chosen if 200 <= n < 400]
    assert 5 <= len(newest_of_the_old) <= 25, "within a speaker, too, age does not decide"
