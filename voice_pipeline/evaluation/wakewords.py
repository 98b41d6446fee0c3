"""Wake words: how many are found, and how many false alarms an hour other speech gives, at a threshold set elsewhere.

The threshold of a phrase is the highest that finds the required share of calibration clips; detection and false alarms
are then counted on other clips. False alarms are counted as a device would fire, refractory time included, on all clips
whose reference does not hold the phrase, other wake words among them. A phrase without calibration clips, without clips
to judge, or without negatives is told as not covered.

Of a frozen suite, the dev clips of its dataset version set the thresholds (their speakers never train and never test)
and its test clips are judged, both as recorded: a clip heard again in noise is no second trial and no second stretch of
speech, and intervals that counted it so would be too narrow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from voice_pipeline.evaluation.errors import UnusableWakeWordError
from voice_pipeline.evaluation.noises import SAMPLE_RATE, Samples
from voice_pipeline.evaluation.suites import CLEAN, suite_clips
from voice_pipeline.schema.dataset import EvalSuite, Split
from voice_pipeline.schema.evaluation_policy import WakeWords
from voice_pipeline.schema.training import Interval, WakeWordResult
from voice_pipeline.stats.rates import poisson_rate_interval, wilson_interval
from voice_pipeline.store.store import Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voice_pipeline.speech.tokenizer import CharTokenizer
    from voice_pipeline.speech.wakeword import Classes

SECONDS_PER_HOUR = 3600


class Posteriors(Protocol):
    """What spotting needs of a recogniser: log-probabilities (T, V) of samples, and what the classes mean."""

    @property
    def tokenizer(self) -> CharTokenizer: ...

    def log_probs(self, samples: Samples, /) -> NDArray[np.float32]: ...


class Spoken(Protocol):
    """A clip and what was said in it."""

    @property
    def text(self) -> str: ...

    @property
    def samples(self) -> Samples: ...


@dataclass
class _Tally:
    positives: int = 0
    found: int = 0
    negative_s: float = 0.0
    false_alarms: int = 0


def holds(text: str, phrase: str) -> bool:
    """Whether the words of `phrase` stand in `text` one after another, whatever the case and punctuation of `text`."""
    from voice_pipeline.speech.normalise import plain

    return f" {phrase} " in f" {plain(text)} "


def judge_wake_words(
    recogniser: Posteriors, calibration: Iterable[Spoken], judged: Iterable[Spoken], rules: WakeWords
) -> tuple[WakeWordResult, ...]:
    """One result a phrase. Clips are consumed one by one: memory does not grow with the audio.

    Args:
        calibration: clips that set the thresholds; those without a phrase are not heard.
        judged: other clips, with and without the phrases.

    Raises:
        UnusableWakeWordError: a phrase cannot be spelled in the model's alphabet.
    """
    from voice_pipeline.speech.wakeword import operating_threshold

    classes = _spelled(recogniser, rules.phrases)
    best: dict[str, list[float]] = {phrase: [] for phrase in rules.phrases}
    for clip in calibration:
        said = [phrase for phrase in rules.phrases if holds(clip.text, phrase)]
        if said:
            for phrase, scores in _scores(recogniser, clip.samples, {name: classes[name] for name in said}):
                best[phrase].append(float(scores.max()))
    thresholds = {p: operating_threshold(found, rules.required_detection) for p, found in best.items() if found}
    tallies = _count(recogniser, judged, classes, thresholds, rules)
    return tuple(_result(p, len(best[p]), thresholds.get(p), tallies[p]) for p in rules.phrases)


def suite_wake_words(
    store: Store, recogniser: Posteriors, suite: EvalSuite, rules: WakeWords
) -> tuple[WakeWordResult, ...]:
    """One result a phrase of `rules`. Nothing is heard where no phrase has both dev clips and test clips.

    Raises:
        UnusableWakeWordError: a phrase cannot be spelled in the model's alphabet.
        EvaluationError: as `suite_clips`.
    """
    from voice_pipeline.store.manifest import manifest_rows

    tested = set(suite.clip_ids)
    rows = manifest_rows(store, suite.dataset_version) if rules.phrases else []
    dev = {row.clip_id: row.text for row in rows if row.split is Split.DEV and row.clip_id not in tested}
    said = [row.text for row in rows if row.clip_id in tested]
    on_dev = {phrase: [clip for clip, text in dev.items() if holds(text, phrase)] for phrase in rules.phrases}
    on_test = {phrase: sum(holds(text, phrase) for text in said) for phrase in rules.phrases}
    if not any(on_dev[phrase] and on_test[phrase] for phrase in rules.phrases):
        return tuple(_unheard(phrase, len(on_dev[phrase]), on_test[phrase]) for phrase in rules.phrases)
    wanted = tuple(sorted({clip for clips in on_dev.values() for clip in clips}))
    recorded = suite.model_copy(update={"conditions": (CLEAN,)})
    calibration = suite_clips(store, recorded.model_copy(update={"clip_ids": wanted}))
    return judge_wake_words(recogniser, calibration, suite_clips(store, recorded), rules)


def halves(names: Sequence[str]) -> tuple[list[int], list[int]]:
    """Positions of `names` in two halves that depend on the names alone, the first not the smaller."""
    order = sorted(range(len(names)), key=lambda n: hashlib.sha256(names[n].encode()).hexdigest())
    return sorted(order[::2]), sorted(order[1::2])


def wake_word_table(results: Sequence[WakeWordResult]) -> str:
    """The results as a Markdown table, one line a phrase."""
    lines = [
        "| wake word | threshold on | detected (95 %) | false alarms | an hour (95 %) | hours of negatives |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for result in results:
        found, rate = result.detection, result.false_alarms_per_hour
        told = f"{found.value:.0%} of {result.positives} ({found.low:.0%} - {found.high:.0%})" if found else "-"
        often = f"{rate.value:.1f} ({rate.low:.1f} - {rate.high:.1f})" if rate else f"not covered: {result.not_covered}"
        alarms = "-" if result.false_alarms is None else result.false_alarms
        lines.append(
            f"| {result.phrase} | {result.calibration_clips} clips | {told} | {alarms} | {often} "
            f"| {result.negative_hours:.2f} |"
        )
    return "\n".join(lines)


def _spelled(recogniser: Posteriors, phrases: Sequence[str]) -> dict[str, Classes]:
    from voice_pipeline.speech.errors import TokenizerError
    from voice_pipeline.speech.wakeword import phrase_classes

    try:
        return {phrase: phrase_classes(phrase, recogniser.tokenizer) for phrase in phrases}
    except TokenizerError as error:
        raise UnusableWakeWordError(f"wake words of policy/evaluation.yaml: {error}") from error


def _unheard(phrase: str, on_dev: int, on_test: int) -> WakeWordResult:
    lacking = "no test clip says it" if on_dev else "no dev clip says it to set the threshold on"
    return WakeWordResult(
        phrase=phrase, calibration_clips=on_dev, positives=on_test, negative_hours=0.0, not_covered=lacking
    )


def _scores(
    recogniser: Posteriors, samples: Samples, classes: Mapping[str, Classes]
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Score at every frame, phrase by phrase, of one recording."""
    from voice_pipeline.speech.recogniser import padded
    from voice_pipeline.speech.wakeword import LONGEST_STAY_S, spot

    heard = padded(samples)
    log_probs = recogniser.log_probs(heard)
    longest = max(1, round(LONGEST_STAY_S * SAMPLE_RATE * len(log_probs) / heard.size))
    for phrase, spelled in classes.items():
        yield phrase, spot(log_probs, spelled, longest)


def _count(
    recogniser: Posteriors,
    judged: Iterable[Spoken],
    classes: Mapping[str, Classes],
    thresholds: Mapping[str, float],
    rules: WakeWords,
) -> dict[str, _Tally]:
    from voice_pipeline.speech.recogniser import SHORTEST_INPUT
    from voice_pipeline.speech.wakeword import detections

    tallies = {phrase: _Tally() for phrase in classes}
    covered = {phrase: classes[phrase] for phrase in thresholds}
    for clip in judged:
        seconds = len(clip.samples) / SAMPLE_RATE
        heard_s = max(len(clip.samples), SHORTEST_INPUT) / SAMPLE_RATE
        said = {phrase for phrase in classes if holds(clip.text, phrase)}
        for phrase, tally in tallies.items():
            tally.positives += phrase in said
            tally.negative_s += 0.0 if phrase in said else seconds
        for phrase, scores in _scores(recogniser, clip.samples, covered) if covered else ():
            refractory = round(rules.refractory_s * len(scores) / heard_s)
            fired = detections(scores, thresholds[phrase], refractory)
            if phrase in said:
                tallies[phrase].found += bool(fired)
            else:
                tallies[phrase].false_alarms += len(fired)
    return tallies


def _result(phrase: str, calibration_clips: int, threshold: float | None, tally: _Tally) -> WakeWordResult:
    hours = tally.negative_s / SECONDS_PER_HOUR
    counted = WakeWordResult(
        phrase=phrase, calibration_clips=calibration_clips, positives=tally.positives, negative_hours=hours
    )
    if threshold is None:
        return counted.model_copy(update={"not_covered": "no clip says it to set the threshold on"})
    if not tally.positives:
        return counted.model_copy(update={"threshold": threshold, "not_covered": "no judged clip says it"})
    low, high = wilson_interval(tally.found, tally.positives)
    share = Interval(value=tally.found / tally.positives, low=low, high=high)
    found = counted.model_copy(update={"threshold": threshold, "detection": share})
    if not hours:
        return found.model_copy(update={"not_covered": "no clip without it"})
    low, high = poisson_rate_interval(tally.false_alarms, hours)
    rate = Interval(value=tally.false_alarms / hours, low=low, high=high)
    return found.model_copy(update={"false_alarms": tally.false_alarms, "false_alarms_per_hour": rate})
