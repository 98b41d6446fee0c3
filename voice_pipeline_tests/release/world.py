"""A small world around the release engine: signed bundles with stored evaluations, and devices that report.

Everything the engine reads is real (signatures, ledger, telemetry tables); only the networks and their error rates are
made up, because no test here is about speech.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import numpy as np
import yaml
from sqlalchemy import update

from voice_pipeline.evaluation.report import store_report
from voice_pipeline.packaging.signing import sign_folder, signing_public_key
from voice_pipeline.release.assignment import Assignment, assign
from voice_pipeline.release.candidate import register_candidate
from voice_pipeline.release.controller import TickResult, advance, tick
from voice_pipeline.release.people.decisions import record_decision
from voice_pipeline.release.people.enrolment import enrol, person_key, remove
from voice_pipeline.release.people.keys import PersonKey
from voice_pipeline.release.people.roll import enrolled
from voice_pipeline.release.policy import release_policy
from voice_pipeline.schema.bundle import BundleFile, BundleManifest
from voice_pipeline.schema.canonical import canonical_json, digest, sha256_bytes
from voice_pipeline.schema.dataset import EvalSuite, ManifestRow, Split
from voice_pipeline.schema.evaluation_policy import EvaluationPolicy
from voice_pipeline.schema.ids import uuid7
from voice_pipeline.schema.release import Decision
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import FILE_NAME, ReleasePolicy
from voice_pipeline.schema.telemetry import TelemetryEvent
from voice_pipeline.schema.training import (
    EvaluationReport,
    Hyperparameters,
    Interval,
    Latency,
    Preset,
    SliceResult,
    TrainingSpec,
)
from voice_pipeline.settings import PROJECT_ROOT, Settings
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.manifest import MANIFEST, manifest_bytes
from voice_pipeline.store.releases import ReleaseView, latest_release
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import alerts, bundles, dataset_versions, eval_suites, models, telemetry
from voice_pipeline_tests.packaging.small_models import suite_figures
from voice_pipeline_tests.release.dictations import ACOUSTICS, APP, CLASSES, Behaviour, context, telemetry_row

FOUNDER = "founder"
SPEAKERS, CLIPS_EACH, WORDS = 10, 8, 5
DATASET = "ds-000000000001"
CONDITIONS = ("clean", "noise_10db")


def open_world(home: Path, clock: ManualClock, policy: dict | None = None) -> Store:
    """A store whose policy is the repository's, with `policy` laid over it."""
    content = yaml.safe_load((PROJECT_ROOT / "policy" / FILE_NAME).read_text())
    folder = home / "policy"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE_NAME).write_text(yaml.safe_dump(_merged(content, policy or {})))
    return Store.open(Settings(home=home, policy_dir=folder), clock)


def _merged(base: dict, over: dict) -> dict:
    merged = dict(base)
    for key, value in over.items():
        merged[key] = (
            _merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        )
    return merged


def add_suite(store: Store) -> EvalSuite:
    """A dataset version of test clips and the suite frozen from it."""
    rng = random.Random(5)
    rows = [_row(store, rng, f"speaker{n:02d}", number) for n in range(SPEAKERS) for number in range(CLIPS_EACH)]
    store.vault.ensure_subjects(sorted({row.speaker for row in rows}))
    data = manifest_bytes(store, rows)
    folder = store.settings.dataset_repo / "data"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).write_bytes(data)
    ids = tuple(row.clip_id for row in rows)
    plain = {"suite_id": "core-v1", "name": "core-v1", "dataset_version": DATASET, "clip_ids": ids}
    suite = EvalSuite(**plain, conditions=CONDITIONS, digest=digest(plain))
    now = store.now().isoformat()
    dataset = {"dataset_version": DATASET, "dvc_md5": "m", "batches": [], "clips": len(rows), "validation": {}}
    dataset |= {"manifest_sha256": sha256_bytes(data), "created_at": now, "sequence": 1}
    stored = {"suite_id": suite.suite_id, "name": suite.name, "dataset_version": DATASET, "digest": suite.digest}
    with store.database.write() as connection:
        connection.execute(dataset_versions.insert(), dataset)
        connection.execute(eval_suites.insert(), {**stored, "suite": suite.model_dump(mode="json"), "created_at": now})
    return suite


def _row(store: Store, rng: random.Random, speaker: str, number: int) -> ManifestRow:
    clip_id = uuid7(store.now(), rng)
    return ManifestRow(
        clip_id=clip_id,
        content_sha256=sha256_bytes(clip_id.encode()),
        speaker=speaker,
        consent_id=f"consent-{speaker}",
        split=Split.TEST,
        text="one two three four five",
        batch_id="batch-20261101-001",
        shard="shards/batch-20261101-001.tar",
        duration_s=2.5,
        device_class=CLASSES[number % len(CLASSES)],
        microphone="built_in",
        locale="en-US",
        accent="en-gb" if speaker < "speaker05" else "en-us",
        captured_at=store.now().isoformat(),
    )


def add_model(
    store: Store,
    suite: EvalSuite,
    number: int,
    wer: float,
    float_wer: float | None = None,
    p95_ms: float = 20.0,
    network_bytes: int = 900_000,
    published: bool = True,
    slice_errors: dict[str, float] | None = None,
    language_model_bytes: int = 0,
    min_app: str = "1.0.0",
) -> str:
    """A trained, packaged, signed and evaluated model whose suite errors are about `wer` (twice that in noise)."""
    spec = TrainingSpec(
        dataset_version=DATASET,
        feature_schema_version="clip_features_v1",
        code_commit="c",
        lock_digest="l",
        hyperparameters=Hyperparameters(preset=Preset.TINY),
        seed=number,
    )
    model_version = f"m-20261102-{spec.digest[:8]}"
    now = store.now().isoformat()
    row = {"model_version": model_version, "spec_digest": spec.digest, "spec": spec.model_dump(mode="json")}
    row |= {"dataset_version": DATASET, "state": "trained", "cause": {}, "planned_at": now}
    with store.database.write() as connection:
        connection.execute(models.insert(), row)
    checkpoint = store.settings.models / model_version / "checkpoint" / "model.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(f"weights {number}".encode())
    network = random.Random(number).randbytes(network_bytes)
    files = {"model.onnx": network}
    if language_model_bytes:
        files["lm.arpa"] = bytes(language_model_bytes)
    manifest = _bundle(store, suite, spec, model_version, files, wer, min_app)
    folder = store.settings.bundles / model_version
    stored = {"bundle_digest": manifest.digest, "model_version": model_version, "uri": str(folder), "created_at": now}
    stored |= {"manifest": manifest.model_dump(mode="json"), "size": network_bytes}
    with store.database.write() as connection:
        connection.execute(bundles.insert(), {**stored, "published_at": now if published else None})
    report = _report(store, suite, model_version, "int8", wer, p95_ms, slice_errors or {})
    store_report(store, report, sha256_bytes(network))
    other = _report(store, suite, model_version, "float", wer if float_wer is None else float_wer, p95_ms, {})
    store_report(store, other, sha256_bytes(checkpoint.read_bytes()))
    return model_version


def _bundle(
    store: Store,
    suite: EvalSuite,
    spec: TrainingSpec,
    model_version: str,
    files: dict[str, bytes],
    wer: float,
    min_app: str,
) -> BundleManifest:
    folder = store.settings.bundles / model_version
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    manifest = BundleManifest(
        model_version=model_version,
        dataset_version=DATASET,
        feature_schema_version="clip_features_v1",
        code_commit="c",
        lock_digest="l",
        spec_digest=spec.digest,
        parent_model_version=None,
        suite_digest=suite.digest,
        wer_int8=wer,
        wer_float=wer,
        owner="team:speech",
        created_at=store.now(),
        quantisation="static",
        opset=18,
        frame_shift_s=0.02,
        min_app_version=min_app,
        files=tuple(BundleFile(path=name, sha256=sha256_bytes(data), length=len(data)) for name, data in files.items()),
        golden=(),
        evaluations=suite_figures(suite.digest, wer, wer),
    )
    (folder / "manifest.json").write_bytes(canonical_json(manifest))
    signing_public_key(store.settings.keys)
    sign_folder(folder, store.settings.keys)
    return manifest


def _report(
    store: Store,
    suite: EvalSuite,
    model_version: str,
    variant: str,
    wer: float,
    p95_ms: float,
    slice_errors: dict[str, float],
) -> EvaluationReport:
    """Errors spread evenly: utterance i errs where a Weyl sequence says so, hence a lower `wer` errs on a subset."""
    utterances = []
    for index, clip in enumerate(suite.clip_ids):
        for condition in suite.conditions:
            rate = min(1.0, wer * (2 if condition != "clean" else 1) + slice_errors.get(condition, 0.0))
            draws = [((index * WORDS + w) * 0.6180339887) % 1.0 for w in range(WORDS)]
            utterances.append(
                (clip, condition, f"speaker{index // CLIPS_EACH:02d}", sum(d < rate for d in draws), WORDS)
            )
    parts = [_slice(f"condition:{c}", [u for u in utterances if u[1] == c]) for c in suite.conditions]
    return EvaluationReport(
        model_version=model_version,
        variant=variant,
        suite_id=suite.suite_id,
        suite_digest=suite.digest,
        created_at=store.now(),
        overall=_slice("overall", utterances),
        slices=tuple(parts),
        latency=Latency(p50_ms=p95_ms / 2, p95_ms=p95_ms, clips=len(utterances), measured_on="host"),
        utterances=tuple(utterances),
        policy_digest=EvaluationPolicy().digest,
    )


def _slice(name: str, members: Sequence[tuple[str, str, str, int, int]]) -> SliceResult:
    errors, words = sum(m[3] for m in members), sum(m[4] for m in members)
    value = Interval(value=errors / words, low=errors / words, high=errors / words)
    counts = {"substitutions": errors, "deletions": 0, "insertions": 0}
    speakers = len({m[2] for m in members})
    return SliceResult(slice=name, clips=len(members), speakers=speakers, words=words, wer=value, cer=value, **counts)


@dataclass
class World:
    """The engine with a fleet around it."""

    store: Store
    clock: ManualClock
    suite: EvalSuite
    devices: int = 300
    dictations: int = 4
    durations_s: Sequence[float] = (2.0,)
    apps: Sequence[str] = (APP,)
    behaviour: dict[str, Behaviour] = field(default_factory=dict)
    shadow: dict[str, Behaviour] = field(default_factory=dict)
    count: int = 0

    @property
    def policy(self) -> ReleasePolicy:
        return release_policy(self.store)

    def model(self, wer: float = 0.2, **kind: object) -> str:
        self.count += 1
        return add_model(self.store, self.suite, self.count, wer, **kind)  # type: ignore[arg-type]

    def register(self, model: str) -> ReleaseView:
        return register_candidate(self.store, self.policy, model)

    def bootstrap(self, model: str) -> ReleaseView:
        """Register, sign off and release the first model."""
        view = self.register(model)
        record_decision(self.store, view.release_id, Decision.APPROVE, self.person(), "first model")
        self.settle()
        return self.view(model)

    def person(self, name: str = "demo", role: str = "tester") -> PersonKey:
        """Somebody who can sign, enrolled the first time by `founder`; `demo` is named by the policy."""
        here = {person.name for person in enrolled(self.store)}
        if FOUNDER not in here:
            enrol(self.store, FOUNDER, "release-manager")
        if name not in {FOUNDER, *here}:
            enrol(self.store, name, role, by=person_key(self.store, FOUNDER))
        return person_key(self.store, name)

    def removes(self, name: str) -> None:
        remove(self.store, name, by=self.person(FOUNDER))

    def alerts(self, title: str) -> list[str]:
        """What people were told under titles that begin so."""
        rows = self.store.database.rows(alerts.select())
        return [row["body"] for row in rows if row["title"].startswith(title)]

    def view(self, model: str) -> ReleaseView:
        view = latest_release(self.store, model)
        assert view is not None
        return view

    def settle(self) -> TickResult:
        """Tick, and take every step that is due, until nothing is."""
        while True:
            result = tick(self.store, self.policy)
            if not result.due:
                return result
            for step in result.due:
                if step.to_state is S.CANDIDATE:
                    self.register(step.model_version)
                else:
                    advance(self.store, self.policy, step.model_version, step.to_state)

    def assignment(self, number: int) -> Assignment:
        return assign(self.store, f"device-{number:04d}", self.app(number))

    def app(self, number: int) -> str:
        """The app version of a device: these, in turn."""
        return self.apps[number % len(self.apps)]

    def report(self, minutes: float = 35) -> int:
        """Time passes, then every device dictates and reports; returns how many events came."""
        self.clock.advance(timedelta(minutes=minutes))
        rng = np.random.default_rng(int(self.clock.now().timestamp()))
        events = [event for number in range(self.devices) for event in self._dictations(number, rng)]
        if events:
            TelemetryEvent.model_validate(events[0])
            with self.store.database.write() as connection:  # as the edge does, without validating thousands
                connection.execute(telemetry.insert(), [telemetry_row(event) for event in events])
        return len(events)

    def _dictations(self, number: int, rng: np.random.Generator) -> list[dict]:
        given = self.assignment(number)
        if given.model_version is None:
            return []
        how = self.behaviour.get(given.model_version, Behaviour())
        if how.silent:
            return []
        habit = float(random.Random(number).gauss(0, 0.05))  # some users correct more than others
        made = []
        for k in range(self.dictations):
            silent_twin = {}
            duration_s = self.durations_s[(number * self.dictations + k) % len(self.durations_s)]
            twin = self.shadow.get(given.shadow_model_version or "", Behaviour())
            if given.shadow_model_version and not twin.silent:
                wrong = int(rng.binomial(10, np.clip(twin.correction + habit, 0, 1)))
                latency = twin.latency_ms * duration_s / 2 * rng.lognormal(0, 0.1)
                silent_twin = {"shadow_model_version": given.shadow_model_version, "shadow_corrected_words": wrong}
                silent_twin |= {"shadow_latency_ms": latency, "shadow_confidence": 0.8}
            at = self.clock.now() - timedelta(seconds=self.dictations - k)
            made.append(
                {
                    **ACOUSTICS,
                    "event_id": f"{number:04d}-{at:%Y%m%dT%H%M%S}",
                    "device_id": f"device-{number:04d}",
                    "at": at.isoformat(),
                    "context": context(number, self.app(number)),
                    "model_version": given.model_version,
                    "release_id": given.release_id,
                    "words": 10,
                    "corrected_words": int(rng.binomial(10, np.clip(how.correction + habit, 0, 1))),
                    "confidence": 0.8,
                    "latency_ms": how.latency_ms * duration_s / 2 * rng.lognormal(0, 0.1),
                    "duration_s": duration_s,
                    "crashed": bool(rng.random() < how.crash_on.get(self.app(number), how.crash)),
                    **silent_twin,
                }
            )
        return made

    def change_bundle(self, model: str) -> bytes:
        """Change one byte of the network on disk; returns what was there."""
        path = self.store.settings.bundles / model / "model.onnx"
        before = path.read_bytes()
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        return before

    def restore_bundle(self, model: str, content: bytes) -> None:
        (self.store.settings.bundles / model / "model.onnx").write_bytes(content)

    def withdraw(self, model: str) -> None:
        with self.store.database.write() as connection:
            connection.execute(update(bundles).where(bundles.c.model_version == model).values(published_at=None))
