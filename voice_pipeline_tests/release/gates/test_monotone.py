"""Evidence that gets worse never saves a model, at any gate."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.release.gates.judgement import Evidence
from voice_pipeline.schema.clip import NAMED_CLASSES
from voice_pipeline.schema.release import Outcome
from voice_pipeline_tests.release.gate_evidence import (
    KEYS,
    PHRASES,
    WORDS,
    judged,
    latency,
    report,
    sound,
    spoken,
    wake_word,
)

PASS, FAIL = Outcome.PASS, Outcome.FAIL

more_errors = st.lists(st.integers(0, WORDS), min_size=len(KEYS), max_size=len(KEYS))
few_errors = st.lists(st.integers(0, 2), min_size=len(KEYS), max_size=len(KEYS))
quick = settings(max_examples=40, deadline=None)


def added(before: list[int], more: list[int]) -> list[int]:
    return [min(WORDS, a + b) for a, b in zip(before, more, strict=True)]


def never_saved(before: Evidence, after: Evidence, gate: str) -> None:
    """What does not pass does not pass when it gets worse; what fails goes on failing."""
    first, second = judged(before, gate).outcome, judged(after, gate).outcome
    assert first is PASS or second is not PASS, (first, second)
    assert first is not FAIL or second is FAIL, (first, second)


@given(few_errors, more_errors, st.sampled_from(["noisy_wer_improvement", "slice_margins"]))
@quick
def test_more_errors_never_save_a_model(before: list[int], more: list[int], gate: str) -> None:
    worse = sound(candidate=report(added(before, more)))
    never_saved(sound(candidate=report(before)), worse, gate)


@given(few_errors, few_errors, st.booleans())
@quick
def test_int8_further_from_float_never_saves_a_model(plain: list[int], more: list[int], int8_is_better: bool) -> None:
    near = added(plain, more)
    far = added(near, more)
    named = [(near, plain), (far, plain)] if not int8_is_better else [(plain, near), (plain, far)]
    before, after = (
        sound(candidate=report(one), candidate_float=report(other, variant="float")) for one, other in named
    )
    never_saved(before, after, "int8_delta")


@given(st.lists(st.floats(1, 200), min_size=4, max_size=4), st.lists(st.floats(0, 100), min_size=4, max_size=4))
@quick
def test_slower_classes_never_save_a_model(times: list[float], more: list[float]) -> None:
    names = [name.value for name in NAMED_CLASSES]
    before = sound(latency=latency(dict(zip(names, times, strict=True))))
    slower = [a + b for a, b in zip(times, more, strict=True)]
    never_saved(before, sound(latency=latency(dict(zip(names, slower, strict=True)))), "latency")


@given(st.integers(1, 3_000_000), st.integers(0, 1_000_000))
@quick
def test_more_bytes_never_save_a_model(have: int, more: int) -> None:
    never_saved(sound(network_bytes=have), sound(network_bytes=have + more), "size")
    never_saved(sound(download_bytes=have), sound(download_bytes=have + more), "download")


@given(
    st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.floats(0.01, 50), st.floats(0, 1)
)
@quick
def test_more_false_alarms_and_fewer_found_never_save_a_model(
    alarms: int, more: int, missed: int, more_missed: int, hours: float, limit: float
) -> None:
    def heard(wrong: int, lost: int) -> Evidence:
        return spoken(wake_word(PHRASES[0], found=max(0, 100 - lost), positives=100, alarms=wrong, hours=hours))

    never_saved(heard(alarms, missed), heard(alarms + more, missed + more_missed), "wake_words")


@given(st.integers(0, 5), st.floats(0.01, 20), st.floats(0.01, 1))
@quick
def test_less_audio_never_makes_a_wake_word_pass(alarms: int, hours: float, share: float) -> None:
    before, after = (spoken(wake_word(PHRASES[0], alarms=alarms, hours=time)) for time in (hours, hours * share))
    assert judged(before, "wake_words").outcome is PASS or judged(after, "wake_words").outcome is not PASS


@given(st.sets(st.integers(0, len(KEYS) - 1)), st.sets(st.integers(0, len(KEYS) - 1)))
@quick
def test_less_material_never_makes_coverage_pass(without: set[int], more: set[int]) -> None:
    def heard(lost: set[int]) -> Evidence:
        kept = [key for n, key in enumerate(KEYS) if n not in lost]
        return sound(candidate=report([1] * len(kept), kept))

    never_saved(heard(without), heard(without | more), "coverage")
