"""Evidence for gates, made up: a sound bundle that passes every gate, to be spoiled in one respect at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from voice_pipeline.release.gates.evaluation import judge
from voice_pipeline.release.gates.judgement import Evidence, Judgement
from voice_pipeline.schema.clip import NAMED_CLASSES
from voice_pipeline.schema.evaluation import ClassLatency, LatencySource
from voice_pipeline.schema.evaluation_policy import EvaluationPolicy, WakeWords
from voice_pipeline.schema.policy_file import load_policy
from voice_pipeline.schema.release_policy import FILE_NAME, Gates, ReleasePolicy
from voice_pipeline.schema.training import EvaluationReport, Interval, Latency, SliceResult, WakeWordResult
from voice_pipeline.settings import PROJECT_ROOT
from voice_pipeline.stats.rates import poisson_rate_interval, wilson_interval

SPEAKERS, CLIPS_EACH, WORDS = 10, 6, 5
CLEAN, NOISY = "condition:clean", "condition:noise_10db"
ACCENTS = ("accent:en-gb", "accent:en-in")
PHRASES = ("hey bob", "computer")
ASKED = EvaluationPolicy(wake_words=WakeWords(phrases=PHRASES))
KEYS = tuple(
    (f"clip-{speaker:02d}-{number}", condition, f"speaker{speaker:02d}")
    for condition in ("clean", "noise_10db")
    for speaker in range(SPEAKERS)
    for number in range(CLIPS_EACH)
)
"""(clip_id, condition, speaker) of every utterance, the clean ones first."""
HALF = len(KEYS) // 2
GATES_AS_SHIPPED = load_policy(PROJECT_ROOT / "policy" / FILE_NAME, ReleasePolicy).gates
NETWORK_BYTES, DOWNLOAD_BYTES, P95_MS = 900_000, 1_200_000, 40.0

Errors = Sequence[int]
"""Word errors of each utterance, in the order of `KEYS`."""


def slices_of(key: tuple[str, str, str]) -> tuple[str, ...]:
    """Condition and accent: the even speakers are British."""
    return (f"condition:{key[1]}", ACCENTS[int(key[2][-2:]) % 2])


def errors(clean: int, noisy: int) -> list[int]:
    """So many errors in every clean and every noisy utterance."""
    return [clean] * HALF + [noisy] * HALF


def wake_word(
    phrase: str, found: int = 200, positives: int = 200, alarms: int = 0, hours: float = 10
) -> WakeWordResult:
    """A covered wake word with the intervals that evaluation gives."""
    low, high = wilson_interval(found, positives)
    least, most = poisson_rate_interval(alarms, hours)
    return WakeWordResult(
        phrase=phrase,
        calibration_clips=20,
        positives=positives,
        negative_hours=hours,
        threshold=-1.0,
        detection=Interval(value=found / positives, low=low, high=high),
        false_alarms=alarms,
        false_alarms_per_hour=Interval(value=alarms / hours, low=least, high=most),
    )


def report(found: Errors, keys: Sequence[tuple[str, str, str]] = KEYS, **change: Any) -> EvaluationReport:
    """A report with these errors in utterances of `WORDS` words, and both wake words heard well."""
    utterances = tuple((*key, wrong, WORDS) for key, wrong in zip(keys, found, strict=True))
    parts: dict[str, list[tuple[str, str, str, int, int]]] = defaultdict(list)
    for key, utterance in zip(keys, utterances, strict=True):
        for name in slices_of(key):
            parts[name].append(utterance)
    plain: dict[str, Any] = {
        "model_version": "m-20261102-00000001",
        "variant": "int8",
        "suite_id": "core-v1",
        "suite_digest": "5" * 64,
        "created_at": datetime(2026, 11, 2, tzinfo=UTC),
        "overall": _slice("overall", utterances),
        "slices": tuple(_slice(name, parts[name]) for name in sorted(parts)),
        "latency": Latency(p50_ms=P95_MS / 2, p95_ms=P95_MS, clips=len(utterances), measured_on="host"),
        "utterances": utterances,
        "wake_words": tuple(wake_word(phrase) for phrase in PHRASES),
        "policy_digest": ASKED.digest,
    }
    return EvaluationReport(**{**plain, **change})


def _slice(name: str, members: Sequence[tuple[str, str, str, int, int]]) -> SliceResult:
    wrong, words = sum(member[3] for member in members), sum(member[4] for member in members)
    rate = wrong / words if words else 0.0
    share = Interval(value=rate, low=rate, high=rate)
    counts = {"substitutions": wrong, "deletions": 0, "insertions": 0}
    speakers = len({member[2] for member in members})
    return SliceResult(slice=name, clips=len(members), speakers=speakers, words=words, wer=share, cer=share, **counts)


def latency(p95_ms: Mapping[str, float] | None = None, clips: int = 100) -> tuple[ClassLatency, ...]:
    """One line a device class, all alike but those named."""
    given = p95_ms or {}
    return tuple(
        ClassLatency(
            device_class=name,
            p50_ms=P95_MS / 2,
            p95_ms=given.get(name.value, P95_MS),
            clips=clips,
            source=LatencySource.DEVICE_LAB,
            measured_on=f"a {name.value}",
        )
        for name in NAMED_CLASSES
    )


def sound(**change: Any) -> Evidence:
    """What passes every gate: a third fewer errors in noise than the champion makes, else as many."""
    plain: dict[str, Any] = {
        "candidate": report(errors(1, 2)),
        "candidate_float": report(errors(1, 2), variant="float"),
        "champion": report(errors(1, 3), model_version="m-20261101-00000001"),
        "slices": {key[:2]: slices_of(key) for key in KEYS},
        "locales": frozenset({"en-US"}),
        "latency": latency(),
        "lab_refused": (),
        "network_bytes": NETWORK_BYTES,
        "download_bytes": DOWNLOAD_BYTES,
        "largest": (("model.onnx", NETWORK_BYTES),),
        "preset": "tiny",
        "integrity_problem": None,
        "evaluation_policy": ASKED,
    }
    return Evidence(**{**plain, **change})


def spoken(*results: WakeWordResult) -> Evidence:
    """Both wake words heard well, but for these."""
    heard = {phrase: wake_word(phrase) for phrase in PHRASES} | {result.phrase: result for result in results}
    return sound(candidate=report(errors(1, 2), wake_words=tuple(heard.values())))


def with_rule(gate: str, key: str, value: Any, gates: Gates = GATES_AS_SHIPPED) -> Gates:
    """The gates with one rule changed, validated like the file."""
    content = gates.model_dump(mode="json")
    content[gate][key] = value
    content["bootstrap_samples"] = 200
    return Gates.model_validate(content)


QUICK = with_rule("coverage", "min_clips", 40)
"""The gates as shipped, with fewer resamples."""


def judged(evidence: Evidence, gate: str, gates: Gates = QUICK) -> Judgement:
    return judge(evidence, gates)[gate]
