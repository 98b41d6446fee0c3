"""The gates: what a bundle must show on the frozen suite before any device hears of it.

Each gate is a pure function from measured evidence to a judgement; `evaluate_gates` gathers the evidence (evaluating
the live model again where its report on this suite is missing), judges, and stores one verdict a gate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import select

from voice_pipeline.evaluation.artifacts import FLOAT, INT8, report_for
from voice_pipeline.evaluation.errors import EvaluationError
from voice_pipeline.evaluation.latency import model_latency, worst
from voice_pipeline.evaluation.paired import bootstrap, paired
from voice_pipeline.evaluation.suites import find_suite, slices_of
from voice_pipeline.release.errors import MissingEvidenceError
from voice_pipeline.release.evidence import (
    GATES,
    StoredBundle,
    fetched_bytes,
    integrity_problem,
    published_bundle,
    store_verdicts,
)
from voice_pipeline.schema.dataset import EvalSuite, ManifestRow
from voice_pipeline.schema.evaluation import ClassLatency
from voice_pipeline.schema.release import Outcome, Verdict
from voice_pipeline.schema.release_policy import Gates, ReleasePolicy
from voice_pipeline.schema.training import EvaluationReport, Preset, TrainingSpec
from voice_pipeline.stats.bootstrap import PairedComparison
from voice_pipeline.store.errors import StoreError
from voice_pipeline.store.manifest import manifest_rows
from voice_pipeline.store.releases import live
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import models

NETWORKS = ("model.onnx", "model.ort")
NAMED_FILES = 4
Slices = dict[tuple[str, str], tuple[str, ...]]


@dataclass(frozen=True)
class Evidence:
    """Everything the gates look at. `champion` is None while no model is live.

    `slices` maps (clip_id, condition) to the slices in which that utterance counts; `locales` are those of the suite;
    `latency` has one line a device class, and `lab_refused` one a device-lab report that does not count.
    `network_bytes` are those of the larger network file, `download_bytes` those of the archive that a device fetches;
    `largest` has path and bytes of some of the files in it, the largest first.
    """

    candidate: EvaluationReport
    candidate_float: EvaluationReport
    champion: EvaluationReport | None
    slices: Slices
    locales: frozenset[str]
    latency: tuple[ClassLatency, ...]
    lab_refused: tuple[str, ...]
    network_bytes: int
    download_bytes: int
    largest: tuple[tuple[str, int], ...]
    preset: str
    integrity_problem: str | None


@dataclass(frozen=True)
class Judgement:
    metric: str
    value: float | None
    threshold: float | None
    outcome: Outcome
    detail: str


def evaluate_gates(store: Store, policy: ReleasePolicy, model_version: str) -> list[Verdict]:
    """Judge a model's published bundle by every gate and store the verdicts (table and ledger).

    Raises:
        MissingEvidenceError: bundle, suite or an artifact to evaluate is not there; nothing is stored.
    """
    bundle = published_bundle(store, model_version)
    champion = live(store)
    evidence = gather(store, bundle, champion.model_version if champion else None)
    against = champion.bundle_digest if champion else ""
    uri = f"evaluation:{bundle.manifest.suite_digest}?champion={against}"
    found = [
        Verdict(
            gate=gate,
            bundle_digest=bundle.bundle_digest,
            policy_digest=policy.digest,
            metric=judgement.metric,
            value=judgement.value,
            threshold=judgement.threshold,
            outcome=judgement.outcome,
            detail=judgement.detail,
            evidence=uri,
            at=store.now(),
        )
        for gate, judgement in judge(evidence, policy.gates).items()
    ]
    store_verdicts(store, model_version, found)
    return found


def judge(evidence: Evidence, gates: Gates) -> dict[str, Judgement]:
    """One judgement a gate, in the order of `GATES`. Pure."""
    judges: dict[str, Callable[[Evidence, Gates], Judgement]] = {
        "bundle_integrity": _integrity,
        "noisy_wer_improvement": _noisy_wer,
        "slice_margins": _slice_margins,
        "int8_delta": _int8_delta,
        "latency": _latency,
        "size": _size,
        "download": _download,
        "coverage": _coverage,
    }
    return {gate: judges[gate](evidence, gates) for gate in GATES}


def gather(store: Store, bundle: StoredBundle, champion_model: str | None) -> Evidence:
    """Raises `MissingEvidenceError` as `evaluate_gates`."""
    model = store.database.row(select(models.c.spec).where(models.c.model_version == bundle.model_version))
    if model is None:
        raise MissingEvidenceError(f"model {bundle.model_version} is not in the catalogue; train it in this home")
    try:
        suite = find_suite(store, bundle.manifest.suite_digest)
        rows = _suite_rows(store, suite)
        candidate = report_for(store, bundle.model_version, INT8, suite)
        candidate_float = report_for(store, bundle.model_version, FLOAT, suite)
        champion = report_for(store, champion_model, INT8, suite) if champion_model else None
        latency, lab = model_latency(store, candidate)
    except (EvaluationError, StoreError) as error:
        raise MissingEvidenceError(f"gates of {bundle.model_version} cannot be judged: {error}") from error
    return Evidence(
        candidate=candidate,
        candidate_float=candidate_float,
        champion=champion,
        slices=slices_heard(candidate, suite, rows),
        locales=frozenset(row.locale for row in rows),
        latency=latency,
        lab_refused=lab.refused,
        network_bytes=max((f.length for f in bundle.manifest.files if f.path in NETWORKS), default=0),
        download_bytes=fetched_bytes(store, bundle),
        largest=_largest(bundle),
        preset=TrainingSpec.model_validate(model["spec"]).hyperparameters.preset,
        integrity_problem=integrity_problem(store, bundle.model_version, bundle.bundle_digest),
    )


def compare(evidence: Evidence, slice_name: str, samples: int, level: float = 0.95) -> PairedComparison | None:
    """Candidate against champion on the utterances of a slice that both heard; None if there are none."""
    if evidence.champion is None:
        return None
    keys = {key for key, names in evidence.slices.items() if slice_name in names}
    return bootstrap(paired(evidence.candidate, evidence.champion, keys), samples, level)


def slices_heard(candidate: EvaluationReport, suite: EvalSuite, rows: list[ManifestRow]) -> Slices:
    """Slices by manifest row, and those that only hearing tells (`snr:…`) by the candidate's report."""
    named = {(row.clip_id, condition): slices_of(row, condition) for row in rows for condition in suite.conditions}
    for name, positions in candidate.members.items():
        for position in positions:
            key = candidate.utterances[position][:2]
            named[key] = (*named.get(key, ()), name)
    return named


def _suite_rows(store: Store, suite: EvalSuite) -> list[ManifestRow]:
    wanted = set(suite.clip_ids)
    return [row for row in manifest_rows(store, suite.dataset_version) if row.clip_id in wanted]


def _integrity(evidence: Evidence, _gates: Gates) -> Judgement:
    problem = evidence.integrity_problem
    detail = problem or "every file and the signature match the digest"
    return Judgement("signature and digests", None, None, Outcome.FAIL if problem else Outcome.PASS, detail)


def _noisy_wer(evidence: Evidence, gates: Gates) -> Judgement:
    gate = gates.noisy_wer_improvement
    metric = f"relative WER improvement on {gate.slice}"
    if evidence.champion is None:
        detail = "no model is live, so there is nothing to improve upon; a person signs off"
        return Judgement(metric, None, gate.min_relative_improvement, Outcome.PASS, detail)
    result = compare(evidence, gate.slice, gates.bootstrap_samples)
    if result is None:
        detail = f"the suite has no utterance of {gate.slice} that both models heard"
        return Judgement(metric, None, gate.min_relative_improvement, Outcome.INVALID, detail)
    better = result.relative_improvement >= gate.min_relative_improvement
    certain = result.probability_worse <= gate.max_probability_worse
    detail = (
        f"{result.relative_improvement:+.1%} (95 %: {result.low:+.1%} to {result.high:+.1%}), probability of being "
        f"worse {result.probability_worse:.3f} (at most {gate.max_probability_worse}), {result.clusters} speakers"
    )
    # A champion without any error cannot be improved upon: -inf has no JSON form, and fails.
    value = result.relative_improvement if result.relative_improvement > -1e9 else -1e9
    outcome = Outcome.PASS if better and certain else Outcome.FAIL
    return Judgement(metric, value, gate.min_relative_improvement, outcome, detail)


def _slice_margins(evidence: Evidence, gates: Gates) -> Judgement:
    gate = gates.slice_margins
    metric = "worst certain WER regression of any slice"
    if evidence.champion is None:
        return Judgement(metric, None, gate.max_regression, Outcome.PASS, "no model is live to compare with")
    checked = []
    for name in _large_slices(evidence, gates):
        # two-sided level 2c-1 puts 1-c into the lower tail
        result = compare(evidence, name, gates.bootstrap_samples, max(2 * gate.confidence - 1, 0.01))
        if result is not None:
            checked.append((result.absolute_low, result.absolute_change, name))
    if not checked:
        return Judgement(metric, None, gate.max_regression, Outcome.INVALID, "no slice is large enough to be compared")
    low, change, name = max(checked)
    outcome = Outcome.FAIL if low > gate.max_regression else Outcome.PASS
    detail = f"{len(checked)} slices; worst is {name}: {change:+.1%}, at least {low:+.1%} at {gate.confidence:.0%}"
    return Judgement(metric, low, gate.max_regression, outcome, detail)


def _large_slices(evidence: Evidence, gates: Gates) -> Iterator[str]:
    for part in evidence.candidate.slices:
        if part.words >= gates.slice_margins.min_words and part.speakers >= gates.slice_margins.min_speakers:
            yield part.slice


def _int8_delta(evidence: Evidence, gates: Gates) -> Judgement:
    value = abs(evidence.candidate.overall.wer.value - evidence.candidate_float.overall.wer.value)
    detail = (
        f"int8 {evidence.candidate.overall.wer.value:.2%}, float {evidence.candidate_float.overall.wer.value:.2%} "
        f"on {evidence.candidate.overall.clips} utterances"
    )
    return _at_most("absolute WER difference int8 - float", value, gates.int8_delta.max_delta, detail)


def _latency(evidence: Evidence, gates: Gates) -> Judgement:
    """p95 on every device class: the device lab's figure where there is one, this host's as a marked stand-in else."""
    slowest = worst(evidence.latency)
    classes = ", ".join(f"{one.device_class} {one.p95_ms:.1f} ({one.source})" for one in evidence.latency)
    refused = f"; refused: {'; '.join(evidence.lab_refused)}" if evidence.lab_refused else ""
    detail = f"p95 by device class, ms: {classes}; slowest on {slowest.measured_on}{refused}"
    return _at_most("p95 latency of the slowest device class, ms", slowest.p95_ms, gates.latency.max_p95_ms, detail)


def _size(evidence: Evidence, gates: Gates) -> Judgement:
    if evidence.network_bytes == 0:
        return Judgement("network bytes", 0.0, None, Outcome.INVALID, "the bundle names no network file")
    return _bytes_at_most("network bytes", evidence.network_bytes, gates.size.max_bytes, evidence.preset)


def _download(evidence: Evidence, gates: Gates) -> Judgement:
    largest = ", ".join(f"{path} {length / 1e6:.2f} MB" for path, length in evidence.largest)
    limits, preset = gates.download.max_bytes, evidence.preset
    more = f"largest files, unpacked: {largest}"
    return _bytes_at_most("bytes of the archive that devices fetch", evidence.download_bytes, limits, preset, more)


def _bytes_at_most(metric: str, found: int, limits: Mapping[Preset, int], preset: str, more: str = "") -> Judgement:
    limit = {name.value: n for name, n in limits.items()}.get(preset)
    if limit is None:
        return Judgement(metric, float(found), None, Outcome.INVALID, f"no limit for preset {preset}")
    return _at_most(metric, float(found), float(limit), "; ".join(filter(None, (f"preset {preset}", more))))


def _largest(bundle: StoredBundle) -> tuple[tuple[str, int], ...]:
    files = sorted(bundle.manifest.files, key=lambda file: (-file.length, file.path))
    return tuple((file.path, file.length) for file in files[:NAMED_FILES])


def _coverage(evidence: Evidence, gates: Gates) -> Judgement:
    """INCONCLUSIVE = a person must sign off."""
    gate, report = gates.coverage, evidence.candidate
    clips = len({u[0] for u in report.utterances})
    short = [
        f"{name} {have} of {need}"
        for name, have, need in (
            ("clips", clips, gate.min_clips),
            ("speakers", report.overall.speakers, gate.min_speakers),
            ("words", report.overall.words, gate.min_words),
        )
        if have < need
    ]
    short += [f"no {name}" for name in gate.required_slices if report.slice(name) is None]
    short += [f"sensitive locale {name}" for name in sorted(evidence.locales & set(gate.sensitive_locales))]
    detail = "; ".join(short) or f"{clips} clips, {report.overall.speakers} speakers, {report.overall.words} words"
    outcome = Outcome.INCONCLUSIVE if short else Outcome.PASS
    return Judgement("clips in the suite", float(clips), float(gate.min_clips), outcome, detail)


def _at_most(metric: str, value: float, limit: float, detail: str) -> Judgement:
    return Judgement(metric, value, limit, Outcome.PASS if value <= limit else Outcome.FAIL, detail)
