"""The gates: what a bundle must show on the frozen suite before any device hears of it.

Each gate is a pure function from measured evidence to a judgement; `evaluate_gates` gathers the evidence (evaluating
the live model again where its report on this suite is missing), judges, and stores one verdict a gate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from sqlalchemy import select

from voice_pipeline.evaluation.artifacts import FLOAT, INT8, report_for
from voice_pipeline.evaluation.errors import EvaluationError
from voice_pipeline.evaluation.latency import model_latency, worst
from voice_pipeline.evaluation.suites import find_suite, slices_of
from voice_pipeline.release.errors import MissingEvidenceError
from voice_pipeline.release.gates.comparing import int8_delta, noisy_wer, slice_margins
from voice_pipeline.release.gates.evidence import (
    GATES,
    StoredBundle,
    fetched_bytes,
    integrity_problem,
    published_bundle,
    store_verdicts,
    verdict_uri,
)
from voice_pipeline.release.gates.judgement import Evidence, Judgement, Slices, at_most
from voice_pipeline.release.gates.locales import matching
from voice_pipeline.release.gates.wake_words import wake_words
from voice_pipeline.schema.clip import NAMED_CLASSES
from voice_pipeline.schema.dataset import EvalSuite, ManifestRow
from voice_pipeline.schema.evaluation_policy import load_evaluation_policy
from voice_pipeline.schema.policy_file import PolicyError
from voice_pipeline.schema.release import Outcome, Verdict
from voice_pipeline.schema.release_policy import Gates, ReleasePolicy
from voice_pipeline.schema.training import EvaluationReport, Preset, TrainingSpec
from voice_pipeline.store.errors import StoreError
from voice_pipeline.store.manifest import manifest_rows
from voice_pipeline.store.releases import live
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import models

NETWORKS = ("model.onnx", "model.ort")
NAMED_FILES = 4


def evaluate_gates(store: Store, policy: ReleasePolicy, model_version: str) -> list[Verdict]:
    """Judge a model's published bundle by every gate and store the verdicts (table and ledger).

    Raises:
        MissingEvidenceError: bundle, suite or an artifact to evaluate is not there; nothing is stored.
    """
    bundle = published_bundle(store, model_version)
    champion = live(store)
    evidence = gather(store, bundle, champion.model_version if champion else None)
    against = champion.bundle_digest if champion else ""
    uri = verdict_uri(bundle.manifest.suite_digest, against, evidence.evaluation_policy.digest)
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
        "noisy_wer_improvement": noisy_wer,
        "slice_margins": slice_margins,
        "int8_delta": int8_delta,
        "latency": _latency,
        "size": _size,
        "download": _download,
        "wake_words": wake_words,
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
        evaluation_policy = load_evaluation_policy(store.settings.policy_dir)
    except (EvaluationError, StoreError, PolicyError) as error:
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
        evaluation_policy=evaluation_policy,
    )


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


def _latency(evidence: Evidence, gates: Gates) -> Judgement:
    """p95 on every device class: the device lab's figure where there is one, this host's as a marked stand-in else."""
    metric, limit = "p95 latency of the slowest device class, ms", gates.latency.max_p95_ms
    refused = f"; refused: {'; '.join(evidence.lab_refused)}" if evidence.lab_refused else ""
    unsound = {one.device_class for one in evidence.latency if not (one.clips and 0 < one.p95_ms < math.inf)}
    timed = {one.device_class for one in evidence.latency} - unsound
    untimed = [name for name in NAMED_CLASSES if name not in timed]
    if untimed:
        return Judgement(metric, None, limit, Outcome.INVALID, f"no time taken for {', '.join(untimed)}{refused}")
    slowest = worst(evidence.latency)
    classes = ", ".join(f"{one.device_class} {one.p95_ms:.1f} ({one.source})" for one in evidence.latency)
    detail = f"p95 by device class, ms: {classes}; slowest on {slowest.measured_on}{refused}"
    return at_most(metric, slowest.p95_ms, limit, detail)


def _size(evidence: Evidence, gates: Gates) -> Judgement:
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
    if found <= 0:
        return Judgement(metric, float(found), float(limit), Outcome.INVALID, "there is nothing to be measured")
    return at_most(metric, float(found), float(limit), "; ".join(filter(None, (f"preset {preset}", more))))


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
    heard = {part.slice for part in report.slices if part.words}
    short += [f"no {name}" for name in gate.required_slices if name not in heard]
    short += [f"sensitive locale {name}" for name in matching(gate.sensitive_locales, evidence.locales)]
    detail = "; ".join(short) or f"{clips} clips, {report.overall.speakers} speakers, {report.overall.words} words"
    outcome = Outcome.INCONCLUSIVE if short else Outcome.PASS
    return Judgement("clips in the suite", float(clips), float(gate.min_clips), outcome, detail)
