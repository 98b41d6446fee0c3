"""Worst words: counted as a person would count them, never more than the errors there are, nobody's own words told."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.evaluation.words import MIN_SPEAKERS, WordTally
from voice_pipeline.schema.training import EvaluationReport, WordErrors
from voice_pipeline.speech.scoring import align_words, score
from voice_pipeline_tests.evaluation.heard import Said, report_on


def tally_of(*utterances: tuple[str, str, str]) -> WordTally:
    tally = WordTally()
    for speaker, said, heard in utterances:
        tally.add(speaker, align_words(said, heard))
    return tally


def test_words_are_paired_in_order_with_what_was_heard_in_their_place() -> None:
    assert align_words("call mary now", "call marry") == [("call", "call"), ("mary", "marry"), ("now", None)]
    assert align_words("go", "please go") == [(None, "please"), ("go", "go")]
    assert align_words("", "oh no") == [(None, "oh"), (None, "no")]
    assert align_words("oh no", "") == [("oh", None), ("no", None)]
    assert align_words("", "") == []


def test_each_word_has_the_counts_that_a_person_would_make() -> None:
    tally = tally_of(
        ("ann", "five nine", "nine nine"),  # five → nine
        ("bob", "five nine", "five"),  # nine missed
        ("cid", "five", "fine five"),  # fine put in
        ("ann", "five", "fine"),  # five → fine
        ("ann", "five", "nine"),  # five → nine again
    )
    assert tally.worst(most=10, min_speakers=1) == (
        WordErrors(
            word="five", said=5, substituted=3, deleted=0, inserted=0, speakers=3, heard_as="nine", heard_as_times=2
        ),
        WordErrors(word="fine", said=0, substituted=0, deleted=0, inserted=1, speakers=1),
        WordErrors(word="nine", said=2, substituted=0, deleted=1, inserted=0, speakers=2),
    )


def test_of_equally_frequent_substitutes_the_first_by_the_alphabet_is_told() -> None:
    (word,) = tally_of(("ann", "a", "c"), ("ann", "a", "b")).worst(1, 1)
    assert (word.word, word.heard_as, word.heard_as_times) == ("a", "b", 1)


def test_only_the_worst_are_told_and_words_without_error_never() -> None:
    tally = tally_of(*[("ann", f"word{n} good", f"wrong{n} good") for n in range(30)], ("ann", "word7", "no"))
    worst = tally.worst(most=5, min_speakers=1)
    assert len(worst) == 5
    assert (worst[0].word, worst[0].errors) == ("word7", 2)
    assert "good" not in {word.word for word in tally.worst(100, 1)}


def test_a_word_of_few_people_is_not_told_even_as_what_was_put_in() -> None:
    few = [(f"s{n}", "doctor smith", "doctor schmidt") for n in range(MIN_SPEAKERS - 1)]
    tally = tally_of(*few)
    assert tally.worst(10, MIN_SPEAKERS) == ()
    tally.add("another", align_words("smith", "smyth"))
    assert [word.word for word in tally.worst(10, MIN_SPEAKERS)] == ["smith"]


def test_a_kept_report_tells_no_word_of_fewer_than_three_people_overall_or_in_a_slice() -> None:
    said = [Said(f"s{n}", "secret plan", "secrete plan", (f"accent:{n % 2}",)) for n in range(4)]
    report = report_on(said, word_speakers=MIN_SPEAKERS)
    assert [word.word for word in report.overall.worst_words] == ["secret"]
    accent = report.slice("accent:0")  # two people
    assert accent is not None
    assert accent.worst_words == ()


def test_reports_from_before_worst_words_still_load() -> None:
    plain = report_on([Said("ann", "a b", "a c")]).model_dump(mode="json")
    del plain["members"], plain["overall"]["worst_words"]
    for part in plain["slices"]:
        del part["worst_words"]
    loaded = EvaluationReport.model_validate(plain)
    assert loaded.overall.worst_words == ()
    assert loaded.members == {}


words = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=6).map(" ".join)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["s1", "s2"]), words, words), max_size=8))
def test_words_and_scores_count_the_same_errors(utterances: list[tuple[str, str, str]]) -> None:
    found = tally_of(*utterances).worst(most=100, min_speakers=1)
    scores = [score(said, heard) for _, said, heard in utterances]
    assert sum(word.substituted for word in found) == sum(s.substitutions for s in scores)
    assert sum(word.deleted for word in found) == sum(s.deletions for s in scores)
    assert sum(word.inserted for word in found) == sum(s.insertions for s in scores)
    assert all(word.said >= word.substituted + word.deleted for word in found)
    assert list(found) == sorted(found, key=lambda word: -word.errors)
