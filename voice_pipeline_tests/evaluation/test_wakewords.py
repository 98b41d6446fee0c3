"""Wake words: thresholds come from clips that are not judged, alarms are counted as a device fires, gaps are told."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from voice_pipeline.dataset.snapshot import snapshot
from voice_pipeline.dataset.suites import freeze_suites
from voice_pipeline.evaluation.artifacts import FLOAT, artifact_of, open_recogniser, report_for
from voice_pipeline.evaluation.errors import BadManifestLineError, UnusableWakeWordError
from voice_pipeline.evaluation.wakeword_manifests import evaluate_wake_words, recorded_wake_words
from voice_pipeline.evaluation.wakewords import (
    halves,
    holds,
    judge_wake_words,
    suite_wake_words,
    wake_word_table,
)
from voice_pipeline.schema.evaluation_policy import EvaluationPolicy, WakeWords, load_evaluation_policy
from voice_pipeline.schema.policy_file import PolicyError
from voice_pipeline.settings import PROJECT_ROOT
from voice_pipeline.speech.tokenizer import CharTokenizer
from voice_pipeline.store.store import Store
from voice_pipeline_tests.store.labelled_home import TEST_SCOPES, add_batch

RULES = WakeWords(phrases=("hey bob",), required_detection=0.9, refractory_s=0.5)
FRAME = 160


class Scripted:
    """Hears what the samples spell: a sample value stands for a class, `FRAME` samples a frame; halves for doubt."""

    tokenizer = CharTokenizer()

    def __init__(self) -> None:
        self.heard = 0

    def log_probs(self, samples: NDArray[np.float32], /) -> NDArray[np.float32]:
        self.heard += 1
        codes = samples[::FRAME] * 64
        posteriors = np.full((len(codes), self.tokenizer.size), -20.0, dtype=np.float32)
        for frame, code in enumerate(codes):
            posteriors[frame, int(code)] = -(code % 1) * 8
            posteriors[frame, 0] = max(posteriors[frame, 0], -0.01)
        return posteriors


@dataclass(frozen=True)
class Clip:
    text: str
    samples: NDArray[np.float32]


def spoken(text: str, doubt: float = 0.0, seconds: float = 1.0, times: int = 1) -> Clip:
    """`text` from the start of each of `times` equal parts of the clip, then silence. `doubt` in [0, 1)."""
    part = np.zeros(round(seconds * 16_000 / times), dtype=np.float32)
    for frame, index in enumerate(Scripted.tokenizer.encode(text)):
        part[frame * 2 * FRAME : (frame * 2 + 1) * FRAME] = (index + doubt) / 64
    return Clip(text, np.tile(part, times))


def test_alarms_and_detections_are_counted_at_the_threshold_of_other_clips() -> None:
    calibration = [spoken("hey bob", doubt) for doubt in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.95)]
    judged = [
        *(spoken("hey bob", 0.2) for _ in range(3)),
        spoken("hey bob", 0.95),
        spoken("yes hey", 0.0, seconds=1800),
        Clip("no no", spoken("hey bob", 0.3, seconds=1800, times=3).samples),
    ]
    (found,) = judge_wake_words(Scripted(), calibration, judged, RULES)
    assert (found.calibration_clips, found.positives) == (10, 4)
    assert found.detection is not None
    assert found.detection.value == 3 / 4
    assert found.detection.low < 3 / 4 < found.detection.high
    assert found.negative_hours == pytest.approx(1.0)
    assert found.false_alarms == 3
    assert found.false_alarms_per_hour is not None
    assert found.false_alarms_per_hour.value == pytest.approx(3)
    assert found.false_alarms_per_hour.low == pytest.approx(0.6187, abs=1e-3)
    assert found.false_alarms_per_hour.high == pytest.approx(8.7673, abs=1e-3)


def test_a_device_that_fired_is_deaf_for_a_while() -> None:
    noise = Clip("", spoken("hey bob", 0.0, seconds=4, times=8).samples)
    counts = []
    for refractory in (0.0, 0.6, 3.9):
        rules = RULES.model_copy(update={"refractory_s": refractory})
        (found,) = judge_wake_words(Scripted(), [spoken("hey bob")], [spoken("hey bob"), noise], rules)
        counts.append(found.false_alarms)
    assert counts[1:] == [4, 1]
    assert counts[0] is not None
    assert counts[0] >= 8


@pytest.mark.parametrize(
    ("calibration", "judged", "told"),
    [
        ([], [spoken("hey bob"), spoken("yes")], "no clip says it to set the threshold on"),
        ([spoken("hey bob")], [spoken("yes")], "no judged clip says it"),
        ([spoken("hey bob")], [spoken("hey bob")], "no clip without it"),
    ],
)
def test_what_is_not_covered_is_told_and_never_zero(calibration: list[Clip], judged: list[Clip], told: str) -> None:
    (found,) = judge_wake_words(Scripted(), calibration, judged, RULES)
    assert found.not_covered == told
    assert found.false_alarms is None
    assert found.false_alarms_per_hour is None
    assert told in wake_word_table([found])


def test_clips_that_say_no_wake_word_are_not_heard_for_the_threshold() -> None:
    recogniser = Scripted()
    judge_wake_words(recogniser, [spoken("yes")] * 5 + [spoken("hey bob")], [], RULES)
    assert recogniser.heard == 1


def test_a_phrase_that_the_alphabet_cannot_spell_is_named() -> None:
    recogniser = Scripted()
    recogniser.tokenizer = CharTokenizer(" hey")
    with pytest.raises(UnusableWakeWordError, match="'hey bob'"):
        judge_wake_words(recogniser, [], [], RULES)


def test_only_whole_words_count_as_the_phrase() -> None:
    assert holds("Hey, Bob!", "hey bob")
    assert not holds("they bobbed", "hey bob")
    assert not holds("hey bobby", "hey bob")


@given(st.lists(st.text(max_size=5), unique=True, max_size=30), st.randoms())
def test_halves_are_disjoint_complete_and_do_not_depend_on_order(names: list[str], random: object) -> None:
    first, second = halves(names)
    assert sorted(first + second) == list(range(len(names)))
    assert 0 <= len(first) - len(second) <= 1
    backwards, _ = halves(names[::-1])
    assert {names[n] for n in first} == {names[::-1][n] for n in backwards}


def write_manifest(folder: Path, lines: list[tuple[Clip, dict[str, str]]]) -> Path:
    folder.mkdir()
    rows = []
    for number, (clip, fields) in enumerate(lines):
        soundfile.write(folder / f"{number}.wav", clip.samples, 16_000, subtype="FLOAT")
        rows.append({"path": f"{number}.wav", "text": clip.text, **fields})
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_manifests_train_lines_set_the_threshold_else_half_of_the_clips(tmp_path: Path) -> None:
    negatives = write_manifest(
        tmp_path / "n", [(spoken("yes"), {}), (Clip("", spoken("no").samples), {"kind": "noise"})]
    )
    split = [(spoken("hey bob"), {"split": "train"})] + [(spoken("hey bob"), {"split": "test"})] * 3
    (found,) = recorded_wake_words(Scripted(), write_manifest(tmp_path / "a", split), [negatives], RULES)
    assert (found.calibration_clips, found.positives, found.false_alarms) == (1, 3, 0)
    whole = write_manifest(tmp_path / "b", [(spoken("Hey Bob!".lower().replace("!", "")), {})] * 5)
    (found,) = recorded_wake_words(Scripted(), whole, [negatives], RULES)
    assert (found.calibration_clips, found.positives, found.false_alarms) == (3, 2, 0)
    assert found.negative_hours == pytest.approx(2 / 3600)


def test_a_bad_line_of_the_negatives_is_named(tmp_path: Path, store: Store, checkpoint: str) -> None:
    positives = write_manifest(tmp_path / "p", [(spoken("hey bob"), {})])
    (tmp_path / "bad.jsonl").write_text('{"text": "yes"}\n')
    with pytest.raises(BadManifestLineError, match="line 1 has no 'path'"):
        evaluate_wake_words(store, checkpoint, positives, [tmp_path / "bad.jsonl"], RULES)


def test_a_suite_sets_thresholds_on_dev_clips_and_judges_test_clips(store: Store, checkpoint: str) -> None:
    add_batch(store, "batch-20261102-001", ["t1", "t2"], scopes=TEST_SCOPES, text="hey bob", seconds=0.5)
    add_batch(store, "batch-20261102-002", ["t3"], scopes=TEST_SCOPES, text="yes", seconds=0.5)
    add_batch(store, "batch-20261102-003", [f"s{n}" for n in range(4)], text="hey bob", seconds=0.5)
    suite = freeze_suites(store, snapshot(store).dataset_version)
    recogniser = open_recogniser(artifact_of(store, checkpoint, FLOAT))
    rules = WakeWords(phrases=("hey bob", "never said"))
    said, unsaid = suite_wake_words(store, recogniser, suite, rules)
    assert said.calibration_clips == 2  # one dev speaker, two clips
    assert len(suite.conditions) > 1
    assert said.positives == 4, "a clip is one trial, under however many conditions it is played"
    assert said.false_alarms_per_hour is not None
    assert said.negative_hours == pytest.approx(2 * 0.5 / 3600), "speech is counted once"
    assert unsaid.not_covered.startswith("no clip says it")
    assert suite_wake_words(store, recogniser, suite, WakeWords()) == ()
    kept = report_for(store, checkpoint, FLOAT, suite).wake_words
    assert [result.phrase for result in kept] == list(
        load_evaluation_policy(PROJECT_ROOT / "policy").wake_words.phrases
    )
    assert all(result.not_covered and result.false_alarms_per_hour is None for result in kept)


def test_playing_a_suite_in_more_noises_does_not_make_an_alarm_rate_surer(store: Store, checkpoint: str) -> None:
    add_batch(store, "batch-20261102-001", ["t1", "t2"], scopes=TEST_SCOPES, text="hey bob", seconds=0.5)
    add_batch(store, "batch-20261102-002", ["t3"], scopes=TEST_SCOPES, text="yes", seconds=0.5)
    add_batch(store, "batch-20261102-003", [f"s{n}" for n in range(4)], text="hey bob", seconds=0.5)
    suite = freeze_suites(store, snapshot(store).dataset_version)
    noisy = suite.model_copy(update={"conditions": ("clean", "noise_20db", "noise_10db", "noise_0db")})
    recogniser, rules = open_recogniser(artifact_of(store, checkpoint, FLOAT)), WakeWords(phrases=("hey bob",))
    assert suite_wake_words(store, recogniser, noisy, rules) == suite_wake_words(store, recogniser, suite, rules)
    unheard = WakeWords(phrases=("yes",))  # nobody in dev says it
    assert suite_wake_words(store, recogniser, noisy, unheard)[0].positives == 2


def test_a_report_under_other_wake_words_is_not_taken_for_one_under_these(
    store: Store, checkpoint: str, tmp_path: Path
) -> None:
    add_batch(store, "batch-20261102-001", ["t1"], scopes=TEST_SCOPES, text="hey bob", seconds=0.5)
    add_batch(store, "batch-20261102-003", [f"s{n}" for n in range(4)], text="hey bob", seconds=0.5)
    suite = freeze_suites(store, snapshot(store).dataset_version)
    store = replace(store, settings=store.settings.model_copy(update={"policy_dir": tmp_path}))
    answers = []
    for wanted in ("phrases: [hey bob]", "phrases: [hey bob, mary]", "phrases: [hey bob], refractory_s: 2.0"):
        (tmp_path / "evaluation.yaml").write_text(f"wake_words: {{{wanted}}}\n")
        answers.append(report_for(store, checkpoint, FLOAT, suite))
        assert report_for(store, checkpoint, FLOAT, suite) == answers[-1], "under the same policy it is kept"
    assert [len(report.wake_words) for report in answers] == [1, 2, 1]
    assert answers[2].latency != answers[0].latency, "heard anew"


def test_the_policy_is_typed_and_may_be_absent(tmp_path: Path) -> None:
    assert load_evaluation_policy(tmp_path) == EvaluationPolicy()
    (tmp_path / "evaluation.yaml").write_text("wake_words: {phrases: [alexa], detection: 0.9}\n")
    with pytest.raises(PolicyError, match=r"evaluation\.yaml is not valid: wake_words\.detection"):
        load_evaluation_policy(tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"phrases": ["Alexa"]}, {"phrases": ["a", "a"]}, {"phrases": [""]}, {"required_detection": 0}]
)
def test_wake_words_that_mean_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        WakeWords.model_validate(wrong)


def test_the_script_says_what_it_is_told() -> None:
    best = Scripted().log_probs(spoken("hey bob").samples).argmax(axis=1)
    assert Scripted.tokenizer.decode(int(k) for k, _ in groupby(best)) == "hey bob"
