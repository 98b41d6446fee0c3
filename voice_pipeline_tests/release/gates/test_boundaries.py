"""Every gate at its threshold, one step beyond it, and on evidence that is not there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from voice_pipeline.release.gates.comparing import compare
from voice_pipeline.release.gates.evaluation import judge
from voice_pipeline.release.gates.evidence import GATES
from voice_pipeline.release.gates.judgement import Evidence
from voice_pipeline.schema.clip import NAMED_CLASSES
from voice_pipeline.schema.release import Outcome
from voice_pipeline.schema.training import EvaluationReport, Interval, WakeWordResult
from voice_pipeline_tests.release.gate_evidence import (
    ACCENTS,
    CLEAN,
    DOWNLOAD_BYTES,
    HALF,
    KEYS,
    NETWORK_BYTES,
    NOISY,
    PHRASES,
    QUICK,
    SPEAKERS,
    WORDS,
    errors,
    judged,
    latency,
    report,
    sound,
    spoken,
    wake_word,
    with_rule,
)

PASS, FAIL, ASKS, INVALID = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.INVALID


def test_sound_evidence_passes_every_gate() -> None:
    assert {gate: one.outcome for gate, one in judge(sound(), QUICK).items()} == dict.fromkeys(GATES, PASS)


# --- at the threshold and beyond ------------------------------------------------------------------------------------


def up(value: float) -> float:
    return math.nextafter(value, math.inf)


def down(value: float) -> float:
    return math.nextafter(value, -math.inf)


def two_better_in_noise() -> list[int]:
    """Two speakers have one error less in noise than the champion: an improvement that resampling often misses."""
    found = errors(1, 3)
    found[HALF] -= 1
    found[-1] -= 1
    return found


def test_the_improvement_in_noise_counts_from_the_threshold_on() -> None:
    evidence = sound()
    result = compare(evidence, NOISY, 200)
    assert result is not None
    assert result.relative_improvement == pytest.approx(1 / 3)
    for least, outcome in ((result.relative_improvement, PASS), (up(result.relative_improvement), FAIL)):
        gates = with_rule("noisy_wer_improvement", "min_relative_improvement", least)
        assert judged(evidence, "noisy_wer_improvement", gates).outcome is outcome


def test_an_improvement_that_may_be_chance_counts_up_to_the_allowed_probability() -> None:
    evidence = sound(candidate=report(two_better_in_noise()))
    result = compare(evidence, NOISY, 200)
    assert result is not None
    assert 0.01 < result.probability_worse < 0.2
    gates = with_rule("noisy_wer_improvement", "min_relative_improvement", 0.001)
    for most, outcome in ((result.probability_worse, PASS), (down(result.probability_worse), FAIL)):
        changed = with_rule("noisy_wer_improvement", "max_probability_worse", most, gates)
        assert judged(evidence, "noisy_wer_improvement", changed).outcome is outcome


def worse_in_india() -> Evidence:
    """One error more in every clean utterance of one accent; in noise all are far better."""
    found = [2 if "accent:en-in" in name else 1 for name in map(accent, KEYS[:HALF])] + [0] * HALF
    return sound(candidate=report(found, KEYS), champion=report(errors(1, 0)))


def accent(key: tuple[str, str, str]) -> str:
    return ACCENTS[int(key[2][-2:]) % 2]


@pytest.mark.parametrize(("named", "other"), [("accent:en-in", 0.2), ("accent:", 0.2), ("max_regression", None)])
def test_a_slice_may_get_worse_up_to_its_own_margin(named: str, other: float | None) -> None:
    evidence = worse_in_india()
    level = max(2 * QUICK.slice_margins.confidence - 1, 0.01)
    result = compare(evidence, "accent:en-in", 200, level)
    assert result is not None
    low = result.absolute_low
    assert low > 0.05
    for margin, outcome in ((low, PASS), (down(low), FAIL)):
        if other is None:
            gates = with_rule("slice_margins", named, margin, with_rule("slice_margins", "margins", {}))
        else:
            rules = with_rule("slice_margins", "max_regression", other)
            gates = with_rule("slice_margins", "margins", {named: margin}, rules)
        found = judged(evidence, "slice_margins", gates)
        assert found.outcome is outcome
        assert (found.value, found.threshold) == (low, margin)
        assert "worst is accent:en-in" in found.detail


def test_the_slice_worst_against_its_own_margin_is_named_not_the_one_that_changed_most() -> None:
    """The accent lost most, but its margin is wide; the clean condition is beyond its narrow one."""
    margins = {"accent:en-in": 0.2, "accent:": 0.15, "condition:": 0.01}
    gates = with_rule("slice_margins", "margins", margins)
    found = judged(worse_in_india(), "slice_margins", gates)
    assert found.outcome is FAIL
    assert "worst is condition:clean" in found.detail
    assert found.threshold == 0.01


def test_a_slices_own_margin_goes_before_that_of_its_kind() -> None:
    for margins, outcome in (
        ({"accent:": 0.2, "condition:": 0.2}, PASS),
        ({"accent:": 0.2, "accent:en-in": 0.01, "condition:": 0.2}, FAIL),
        ({"accent:": 0.01, "accent:en-in": 0.2, "condition:": 0.2}, PASS),
        ({"accent:": 0.01, "accent:en-gb": 0.2, "condition:": 0.2}, FAIL),
    ):
        found = judged(worse_in_india(), "slice_margins", with_rule("slice_margins", "margins", margins))
        assert found.outcome is outcome, margins


@pytest.mark.parametrize(
    ("key", "have", "beyond"), [("min_words", HALF * WORDS, INVALID), ("min_speakers", SPEAKERS // 2, PASS)]
)
def test_a_slice_is_judged_from_the_least_material_on(key: str, have: int, beyond: Outcome) -> None:
    """Each slice has as many words, so that none is left; the conditions have twice the speakers of an accent."""
    gates = with_rule("slice_margins", "margins", {"condition:": 0.2})
    for least, outcome in ((have, FAIL), (have + 1, beyond)):
        changed = with_rule("slice_margins", key, least, gates)
        assert judged(worse_in_india(), "slice_margins", changed).outcome is outcome


def test_int8_may_differ_from_float_up_to_the_limit_in_both_directions() -> None:
    for int8, plain in (((1, 2), (1, 1)), ((1, 1), (1, 2))):
        evidence = sound(candidate=report(errors(*int8)), candidate_float=report(errors(*plain), variant="float"))
        assert judged(evidence, "int8_delta", with_rule("int8_delta", "max_delta", 0.1)).outcome is PASS
        assert judged(evidence, "int8_delta", with_rule("int8_delta", "max_delta", down(0.1))).outcome is FAIL


@pytest.mark.parametrize("slow", [name.value for name in NAMED_CLASSES])
def test_each_device_class_may_take_as_long_as_the_limit_and_no_longer(slow: str) -> None:
    limit = QUICK.latency.max_p95_ms
    assert judged(sound(latency=latency({slow: limit})), "latency").outcome is PASS
    found = judged(sound(latency=latency({slow: up(limit)})), "latency")
    assert (found.outcome, found.value) == (FAIL, up(limit))
    assert f"slowest on a {slow}" in found.detail


@pytest.mark.parametrize(("gate", "have"), [("size", NETWORK_BYTES), ("download", DOWNLOAD_BYTES)])
def test_bytes_count_to_the_last_one(gate: str, have: int) -> None:
    for most, outcome in ((have, PASS), (have - 1, FAIL)):
        assert judged(sound(), gate, with_rule(gate, "max_bytes", {"tiny": most})).outcome is outcome


@pytest.mark.parametrize(
    ("key", "have"), [("min_clips", HALF), ("min_speakers", SPEAKERS), ("min_words", len(KEYS) * WORDS)]
)
def test_coverage_asks_from_one_too_few_on(key: str, have: int) -> None:
    for least, outcome in ((have, PASS), (have + 1, ASKS)):
        assert judged(sound(), "coverage", with_rule("coverage", key, least)).outcome is outcome


def test_false_alarms_pass_or_fail_only_by_the_whole_interval() -> None:
    evidence = spoken(wake_word(PHRASES[0], alarms=12, hours=10))
    rate = evidence.candidate.wake_words[0].false_alarms_per_hour
    assert rate is not None
    assert rate.low < 1.2 < rate.high
    for most, outcome in ((rate.high, PASS), (down(rate.high), ASKS), (rate.low, ASKS), (down(rate.low), FAIL)):
        gates = with_rule("wake_words", "max_false_alarms_per_hour", most)
        found = judged(evidence, "wake_words", gates)
        assert (found.outcome, found.value, found.threshold) == (outcome, 1.2, most)


def test_detection_passes_or_fails_only_by_the_whole_interval() -> None:
    evidence = spoken(wake_word(PHRASES[1], found=90, positives=100))
    share = evidence.candidate.wake_words[1].detection
    assert share is not None
    for least, outcome in ((share.low, PASS), (up(share.low), ASKS), (share.high, ASKS), (up(share.high), FAIL)):
        assert judged(evidence, "wake_words", with_rule("wake_words", "min_detection_rate", least)).outcome is outcome


# --- evidence that is not there, or is no number --------------------------------------------------------------------


def only(condition: str, speakers: int = SPEAKERS, wrong: int = 0) -> EvaluationReport:
    kept = [key for key in KEYS if key[1] == condition and int(key[2][-2:]) < speakers]
    return report([wrong] * len(kept), kept)


def silent(found: EvaluationReport) -> EvaluationReport:
    """The same utterances, in which nobody says a word."""
    mute = tuple((*one[:3], 0, 0) for one in found.utterances)
    parts = tuple(part.model_copy(update={"words": 0}) for part in found.slices)
    overall = found.overall.model_copy(update={"words": 0})
    return found.model_copy(update={"utterances": mute, "slices": parts, "overall": overall})


def rate(phrase: str, **change: Any) -> WakeWordResult:
    return wake_word(phrase).model_copy(update=change)


NAN = math.nan
BROKEN: dict[str, tuple[str, Callable[[], Evidence]]] = {
    "no noisy utterance": ("noisy_wer_improvement", lambda: sound(candidate=only("clean"))),
    "no noisy utterance of the champion": ("noisy_wer_improvement", lambda: sound(champion=only("clean", wrong=1))),
    "no common utterance": (
        "noisy_wer_improvement",
        lambda: sound(candidate=report([0] * HALF, [(f"x{c}", *rest) for c, *rest in KEYS[HALF:]])),
    ),
    "one speaker in noise": ("noisy_wer_improvement", lambda: sound(candidate=only("noise_10db", speakers=1))),
    "no word in noise": ("noisy_wer_improvement", lambda: sound(candidate=silent(report(errors(0, 0))))),
    "no utterance": ("slice_margins", lambda: sound(candidate=report([], []))),
    "a large slice of the champion unheard": ("slice_margins", lambda: sound(candidate=only("noise_10db"))),
    "a large slice the champion never heard": (
        "slice_margins",
        lambda: sound(champion=only("noise_10db", wrong=3)),
    ),
    "no slice known": ("slice_margins", lambda: sound(slices={})),
    "no word": ("slice_margins", lambda: sound(candidate=silent(report(errors(0, 0))))),
    "no float report's utterance": ("int8_delta", lambda: sound(candidate_float=report([], []))),
    "no int8 word": ("int8_delta", lambda: sound(candidate=silent(report(errors(0, 0))))),
    "float on another suite": (
        "int8_delta",
        lambda: sound(candidate_float=report(errors(1, 2), suite_digest="6" * 64)),
    ),
    "no class": ("latency", lambda: sound(latency=())),
    "a class without a time": ("latency", lambda: sound(latency=latency()[:-1])),
    "a time that is no number": ("latency", lambda: sound(latency=latency({"laptop": NAN}))),
    "an endless time": ("latency", lambda: sound(latency=latency({"laptop": math.inf}))),
    "no time at all": ("latency", lambda: sound(latency=latency({"phone_low": 0.0}))),
    "a negative time": ("latency", lambda: sound(latency=latency({"phone_low": -1.0}))),
    "a time of no clip": ("latency", lambda: sound(latency=latency(clips=0))),
    "two times of a class, one no number": (
        "latency",
        lambda: sound(latency=(*latency({"laptop": NAN}), *latency())),
    ),
    "no network": ("size", lambda: sound(network_bytes=0)),
    "an archive of nothing": ("download", lambda: sound(download_bytes=0)),
    "a preset without a limit of the network": ("size", lambda: sound(preset="giant")),
    "a preset without a limit of the archive": ("download", lambda: sound(preset="giant")),
    "a wake word that is not in the report": (
        "wake_words",
        lambda: sound(candidate=report(errors(1, 2), wake_words=(wake_word(PHRASES[0]),))),
    ),
    "no wake word in the report": ("wake_words", lambda: sound(candidate=report(errors(1, 2), wake_words=()))),
    "a report of another evaluation policy": (
        "wake_words",
        lambda: sound(candidate=report(errors(1, 2), policy_digest="7" * 64)),
    ),
    "a report from before there were policies": (
        "wake_words",
        lambda: sound(candidate=report(errors(1, 2), policy_digest="")),
    ),
    "no rate": ("wake_words", lambda: spoken(rate(PHRASES[0], false_alarms_per_hour=None, false_alarms=None))),
    "no detection": ("wake_words", lambda: spoken(rate(PHRASES[0], detection=None))),
    "a rate that is no number": (
        "wake_words",
        lambda: spoken(rate(PHRASES[0], false_alarms_per_hour=Interval(value=0, low=0, high=NAN))),
    ),
    "a rate without a lower end": (
        "wake_words",
        lambda: spoken(rate(PHRASES[0], false_alarms_per_hour=Interval(value=0, low=-math.inf, high=0))),
    ),
    "a detection upside down": (
        "wake_words",
        lambda: spoken(rate(PHRASES[0], detection=Interval(value=0.5, low=0.95, high=0.99))),
    ),
    "a suite without a required slice": ("coverage", lambda: sound(candidate=only("clean"))),
    "a required slice without a word": ("coverage", lambda: sound(candidate=silent(report(errors(1, 2))))),
    "no clip": ("coverage", lambda: sound(candidate=report([], []))),
    "a changed bundle": ("bundle_integrity", lambda: sound(integrity_problem="model.onnx was changed")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_evidence_that_is_not_there_or_no_number_never_passes(name: str) -> None:
    gate, made = BROKEN[name]
    found = judged(made(), gate)
    assert found.outcome is not PASS
    assert found.detail
    assert found.value is None or math.isfinite(found.value)
    assert found.threshold is None or math.isfinite(found.threshold)


def test_every_gate_is_tried_on_broken_evidence() -> None:
    assert {gate for gate, _ in BROKEN.values()} == set(GATES)


def test_a_required_slice_without_words_is_told_as_missing() -> None:
    found = judged(sound(candidate=silent(report(errors(1, 2)))), "coverage")
    assert f"no {CLEAN}" in found.detail
    assert f"no {NOISY}" in found.detail


def test_a_slice_that_the_policy_names_in_full_asks_for_a_person_while_nobody_can_judge_it() -> None:
    for name, outcome in (("accent:en-in", PASS), ("accent:scots", ASKS), ("device:", PASS)):
        found = judged(sound(), "slice_margins", with_rule("slice_margins", "margins", {name: 0.02}))
        assert found.outcome is outcome
        assert ("not compared: accent:scots" in found.detail) is (outcome is ASKS)


def test_no_gate_looks_at_what_another_is_for() -> None:
    """Spoiling one respect leaves the verdicts of all gates that do not measure it."""
    spoiled = replace(sound(), network_bytes=10**9)
    found = {gate: one.outcome for gate, one in judge(spoiled, QUICK).items()}
    assert found == {**dict.fromkeys(GATES, PASS), "size": FAIL}
