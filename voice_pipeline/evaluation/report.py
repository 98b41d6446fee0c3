"""From clips to an `EvaluationReport`: errors counted by utterance, pooled by slice, intervals over speakers.

WER and CER are pooled ratios (all errors over all reference words or characters), never means of utterance rates;
intervals resample speakers (Bisani & Ney, ICASSP 2004). The report keeps every utterance's counts and slices, so that
two artifacts can be compared in pairs later (`evaluation.paired`) without hearing anything again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, TypeVar

from sqlalchemy import RowMapping, select

from voice_pipeline.evaluation.errors import EmptySuiteError
from voice_pipeline.evaluation.noises import Samples
from voice_pipeline.evaluation.punctuation import punctuation_result
from voice_pipeline.evaluation.suites import SuiteClip
from voice_pipeline.evaluation.words import MIN_SPEAKERS, WordTally
from voice_pipeline.schema.training import EvaluationReport, Interval, Latency, SliceResult, WordErrors
from voice_pipeline.stats.bootstrap import cluster_bootstrap_ratio
from voice_pipeline.store.database import upsert
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import evaluations

if TYPE_CHECKING:
    from voice_pipeline.speech.punctuation import Formatting
    from voice_pipeline.speech.scoring import Score, WordPair

RESAMPLES = 1000
OVERALL = "overall"
WORST_OVERALL, WORST_OF_SLICE = 25, 5


class Heard(Protocol):
    """What an evaluation reads of a recognition."""

    @property
    def text(self) -> str: ...

    @property
    def latency_ms(self) -> float: ...


Answer = TypeVar("Answer", bound=Heard)
AnswerOf = TypeVar("AnswerOf", bound=Heard, covariant=True)


class Recogniser(Protocol[AnswerOf]):
    """Anything that turns samples (float32 mono in [-1, 1], 16 kHz) into text."""

    def transcribe(self, samples: Samples, /) -> AnswerOf: ...


@dataclass(frozen=True)
class Subject:
    """What a report is about: an artifact (`variant`: `float` or `int8`), the suite, and where latency was timed."""

    model_version: str
    variant: str
    suite_id: str
    suite_digest: str
    measured_on: str = "host"


@dataclass(frozen=True)
class Scored:
    """One utterance after recognition; `pairs` are its (said, heard) words."""

    clip_id: str
    condition: str
    speaker: str
    slices: tuple[str, ...]
    score: Score
    latency_ms: float
    pairs: tuple[WordPair, ...] = ()


def evaluate(
    recogniser: Recogniser[Answer],
    clips: Iterable[SuiteClip],
    subject: Subject,
    created_at: datetime,
    resamples: int = RESAMPLES,
    word_speakers: int = MIN_SPEAKERS,
    told: Callable[[SuiteClip, Answer], None] = lambda clip, heard: None,
) -> EvaluationReport:
    """Let `recogniser` hear every clip and report its errors by slice.

    Clips are consumed one by one: memory does not grow with the audio. Worst words are those that at least
    `word_speakers` people said. `told` gets every clip with its answer: a report keeps only what WER and CER need.

    Raises:
        EmptySuiteError: no clip, or no word in any reference.
    """
    from voice_pipeline.speech.punctuation import formatting
    from voice_pipeline.speech.scoring import align_words, score

    scored: list[Scored] = []
    compared: list[Formatting] = []
    for clip in clips:
        heard = recogniser.transcribe(clip.samples)
        told(clip, heard)
        result = score(clip.text, heard.text)
        compared.append(formatting(clip.text, heard.text))
        pairs = tuple(align_words(clip.text, heard.text))
        scored.append(Scored(clip.clip_id, clip.condition, clip.speaker, clip.slices, result, heard.latency_ms, pairs))
    report = report_of(scored, subject, created_at, resamples, word_speakers)
    punctuation = punctuation_result([item.speaker for item in scored], compared, resamples)
    return report.model_copy(update={"punctuation": punctuation})


def report_of(
    scored: Sequence[Scored],
    subject: Subject,
    created_at: datetime,
    resamples: int = RESAMPLES,
    word_speakers: int = MIN_SPEAKERS,
) -> EvaluationReport:
    """Pool scored utterances. Raises as `evaluate`."""
    if not any(item.score.words for item in scored):
        raise EmptySuiteError(f"{subject.suite_id} gives {len(scored)} clips without a word; nothing can be scored")
    members: dict[str, list[int]] = defaultdict(list)
    for position, item in enumerate(scored):
        for name in item.slices:
            members[name].append(position)

    def part(name: str, positions: Iterable[int], most: int) -> SliceResult:
        chosen = [scored[position] for position in positions]
        return _slice_result(name, chosen, resamples, _worst_words(chosen, most, word_speakers))

    return EvaluationReport(
        model_version=subject.model_version,
        variant=subject.variant,
        suite_id=subject.suite_id,
        suite_digest=subject.suite_digest,
        created_at=created_at,
        overall=part(OVERALL, range(len(scored)), WORST_OVERALL),
        slices=tuple(part(name, members[name], WORST_OF_SLICE) for name in sorted(members)),
        latency=_latency([item.latency_ms for item in scored], subject.measured_on),
        utterances=tuple((s.clip_id, s.condition, s.speaker, s.score.errors, s.score.words) for s in scored),
        members={name: tuple(members[name]) for name in sorted(members)},
    )


def _worst_words(members: Sequence[Scored], most: int, min_speakers: int) -> tuple[WordErrors, ...]:
    tally = WordTally()
    for member in members:
        tally.add(member.speaker, member.pairs)
    return tally.worst(most, min_speakers)


def _slice_result(
    name: str, members: Sequence[Scored], resamples: int, worst_words: tuple[WordErrors, ...]
) -> SliceResult:
    scores = [member.score for member in members]
    speakers = [member.speaker for member in members]

    def interval(errors: list[int], totals: list[int]) -> Interval:
        value, low, high = cluster_bootstrap_ratio(errors, totals, speakers, n=resamples)
        return Interval(value=value, low=low, high=high)

    return SliceResult(
        slice=name,
        clips=len(members),
        speakers=len(set(speakers)),
        words=sum(score.words for score in scores),
        wer=interval([s.errors for s in scores], [s.words for s in scores]),
        cer=interval([s.char_errors for s in scores], [s.chars for s in scores]),
        substitutions=sum(s.substitutions for s in scores),
        deletions=sum(s.deletions for s in scores),
        insertions=sum(s.insertions for s in scores),
        worst_words=worst_words,
    )


def _latency(milliseconds: list[float], measured_on: str) -> Latency:
    import numpy as np

    p50, p95 = np.percentile(milliseconds, (50, 95))
    return Latency(p50_ms=float(p50), p95_ms=float(p95), clips=len(milliseconds), measured_on=measured_on)


def store_report(store: Store, report: EvaluationReport, artifact_sha256: str) -> None:
    """Keep the report under (model, variant, suite), bound to the artifact that was heard. A later one replaces it."""
    with store.database.write() as connection:
        upsert(
            connection,
            evaluations,
            {
                "model_version": report.model_version,
                "variant": report.variant,
                "suite_digest": report.suite_digest,
                "suite_id": report.suite_id,
                "artifact_sha256": artifact_sha256,
                "report": report.model_dump(mode="json"),
                "created_at": report.created_at.isoformat(),
            },
        )


def find_report(store: Store, model_version: str, variant: str, suite_digest: str) -> EvaluationReport | None:
    """The stored report of (model, variant, suite), or None."""
    row = _evaluation(store, model_version, variant, suite_digest)
    return EvaluationReport.model_validate(row["report"]) if row else None


def reported_artifact(store: Store, model_version: str, variant: str, suite_digest: str) -> str | None:
    """sha256 of the artifact that the stored report heard, or None without a report."""
    row = _evaluation(store, model_version, variant, suite_digest)
    return str(row["artifact_sha256"]) if row else None


def _evaluation(store: Store, model_version: str, variant: str, suite_digest: str) -> RowMapping | None:
    return store.database.row(
        select(evaluations).where(
            evaluations.c.model_version == model_version,
            evaluations.c.variant == variant,
            evaluations.c.suite_digest == suite_digest,
        )
    )
