"""Gates: each fails for its own reason, none passes on missing evidence, verdicts are bound to bundle and policy."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from voice_pipeline.evaluation.report import find_report
from voice_pipeline.release.analysis.looks import looks_of
from voice_pipeline.release.controller import tick
from voice_pipeline.release.errors import MissingEvidenceError
from voice_pipeline.release.gates.evaluation import gather, judge, slices_heard
from voice_pipeline.release.gates.evidence import GATES, find_bundle, gate_problems, published_bundle, stored_verdicts
from voice_pipeline.release.machine import NEXT_STAGE
from voice_pipeline.schema.clip import DeviceClass
from voice_pipeline.schema.device_lab import DeviceLabReport
from voice_pipeline.schema.release import Outcome, Verdict
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import DownloadGate
from voice_pipeline.schema.training import Preset
from voice_pipeline.store.releases import live
from voice_pipeline.store.tables import verdicts
from voice_pipeline_tests.release.test_controller import in_stage
from voice_pipeline_tests.release.world import World


def test_a_better_model_passes_every_gate_and_is_gated(small: World) -> None:
    small.bootstrap(small.model(0.2))
    view = small.register(small.model(0.1))
    assert view.state is S.GATED
    found = stored_verdicts(small.store, view.bundle_digest, small.policy.digest)
    assert set(found) == set(GATES)
    assert {v.outcome for v in found.values()} == {Outcome.PASS}


@pytest.mark.parametrize(
    ("gate", "kind"),
    [
        ("noisy_wer_improvement", {"wer": 0.2}),
        ("int8_delta", {"wer": 0.1, "float_wer": 0.05}),
        ("latency", {"wer": 0.1, "p95_ms": 81.0}),
        ("size", {"wer": 0.1, "network_bytes": 1_250_001}),
        ("download", {"wer": 0.1, "language_model_bytes": 1_500_000}),
    ],
)
def test_a_model_that_misses_one_gate_is_rejected_for_it(small: World, gate: str, kind: dict) -> None:
    small.bootstrap(small.model(0.2))
    view = small.register(small.model(**kind))
    assert view.state is S.REJECTED
    assert f"gate {gate} is fail" in view.transitions[-1].reason


def test_what_a_device_fetches_is_the_archive_as_the_ledger_has_it(small: World) -> None:
    bundle = published_bundle(small.store, small.model(0.1))
    for archive_bytes in (1_500_001, 1_500_000):  # a publication again, after a rotation of keys
        payload = {"model_version": bundle.model_version, "archive_bytes": archive_bytes}
        small.store.ledger.append("bundle_published", bundle.bundle_digest, payload, "packaging")
    small.store.ledger.append("bundle_published", "0" * 64, {"archive_bytes": 7}, "packaging")
    assert gather(small.store, bundle, None).download_bytes == 1_500_000


def test_what_a_device_fetches_without_compression_is_counted_to_the_last_file(small: World) -> None:
    model = small.model(0.1, network_bytes=1_000_000, language_model_bytes=300_000)
    bundle = published_bundle(small.store, model)
    evidence = gather(small.store, bundle, None)
    beside = [bundle.folder / "manifest.json", bundle.folder.with_name(f"{model}.sig")]
    assert evidence.download_bytes == 1_300_000 + sum(path.stat().st_size for path in beside)
    assert evidence.largest == (("model.onnx", 1_000_000), ("lm.arpa", 300_000))
    limits = {Preset.TINY: evidence.download_bytes}
    gates = small.policy.gates.model_copy(update={"download": DownloadGate(max_bytes=limits)})
    judged = judge(evidence, gates)["download"]
    assert (judged.outcome, judged.value) == (Outcome.PASS, evidence.download_bytes)
    assert "largest files, unpacked: model.onnx 1.00 MB, lm.arpa 0.30 MB" in judged.detail
    for limit, outcome in ((evidence.download_bytes - 1, Outcome.FAIL), (None, Outcome.INVALID)):
        limits = {Preset.TINY: limit} if limit else {Preset.BASE: 10**9}
        gates = small.policy.gates.model_copy(update={"download": DownloadGate(max_bytes=limits)})
        assert judge(evidence, gates)["download"].outcome is outcome


def test_a_slice_that_got_certainly_worse_rejects_an_otherwise_better_model(small: World) -> None:
    small.bootstrap(small.model(0.2))
    view = small.register(small.model(0.15, slice_errors={"clean": 0.3}))
    assert "gate slice_margins is fail" in view.transitions[-1].reason
    assert "condition:clean" in view.transitions[-1].reason


def test_a_bundle_changed_after_signing_is_rejected(small: World) -> None:
    small.bootstrap(small.model(0.2))
    model = small.model(0.1)
    small.change_bundle(model)
    with pytest.raises(MissingEvidenceError):  # its evaluation heard other bytes, and these cannot be heard
        small.register(model)
    assert small.view(model).state is S.CANDIDATE


def test_a_bundle_with_another_signature_is_rejected(small: World) -> None:
    small.bootstrap(small.model(0.2))
    model, other = small.model(0.1), small.model(0.05)
    folder = small.store.settings.bundles
    (folder / f"{model}.sig").write_bytes((folder / f"{other}.sig").read_bytes())
    view = small.register(model)
    assert view.state is S.REJECTED
    assert "gate bundle_integrity is fail" in view.transitions[-1].reason


def test_an_unpublished_bundle_leaves_no_verdict(small: World) -> None:
    model = small.model(0.2, published=False)
    with pytest.raises(MissingEvidenceError, match="not published"):
        small.register(model)
    assert not small.store.database.rows(verdicts.select())


def test_the_first_model_awaits_a_persons_sign_off(small: World) -> None:
    view = small.register(small.model(0.2))
    assert view.state is S.AWAITING_SIGN_OFF
    assert "bootstrap" in view.transitions[-1].reason


def test_verdicts_of_another_policy_bundle_or_time_count_as_failure(small: World) -> None:
    small.bootstrap(small.model(0.2))
    view = small.register(small.model(0.1))
    against = live(small.store)
    assert against is not None
    assert gate_problems(small.store, small.policy, view.bundle_digest, against.bundle_digest) == []
    changed = small.policy.model_copy(update={"version": 2})
    assert len(gate_problems(small.store, changed, view.bundle_digest, against.bundle_digest)) == len(GATES)
    assert len(gate_problems(small.store, small.policy, "0" * 64, against.bundle_digest)) == len(GATES)
    assert gate_problems(small.store, small.policy, view.bundle_digest, "0" * 64) == [
        "gates were judged against another live model"
    ]
    small.clock.advance(timedelta(days=15))
    assert len(gate_problems(small.store, small.policy, view.bundle_digest, against.bundle_digest)) == len(GATES)


def test_a_verdict_edited_in_its_table_changes_nothing(small: World) -> None:
    small.bootstrap(small.model(0.2))
    view = small.register(small.model(0.2))
    rows = small.store.database.rows(verdicts.select().where(verdicts.c.bundle_digest == view.bundle_digest))
    with small.store.database.write() as connection:
        for row in rows:
            forged = {**row["verdict"], "outcome": "pass"}
            connection.execute(verdicts.update().where(verdicts.c.gate == row["gate"]).values(verdict=forged))
    found = stored_verdicts(small.store, view.bundle_digest, small.policy.digest)
    assert found["noisy_wer_improvement"].outcome is Outcome.FAIL


def test_registering_twice_changes_nothing(small: World) -> None:
    model = small.model(0.2)
    first = small.register(model)
    head = small.store.ledger.head()
    assert small.register(model) == first
    assert small.store.ledger.head() == head


def lab_report(world: World, model: str, device_class: str, p95_ms: float, device: str = "Pixel 4a") -> None:
    """A device lab's report on a model's bundle, dropped into the folder of the home."""
    bundle = find_bundle(world.store, model)
    assert bundle is not None
    report = DeviceLabReport(
        device_class=DeviceClass(device_class),
        device_model=device,
        os="Android 14",
        runtime="onnxruntime 1.20",
        threads=1,
        bundle_digest=bundle.bundle_digest,
        clips=100,
        p50_ms=p95_ms / 2,
        p95_ms=p95_ms,
        p99_ms=p95_ms * 1.2,
        peak_memory_mb=50,
        measured_at=world.store.now(),
    )
    folder = world.store.settings.root / "device_lab"
    folder.mkdir(exist_ok=True)
    (folder / f"{device}-{report.digest[:8]}.json").write_text(report.model_dump_json())


def latency_verdict(world: World, model: str) -> Verdict:
    return stored_verdicts(world.store, world.view(model).bundle_digest, world.policy.digest)["latency"]


def test_the_device_labs_p95_decides_where_there_is_one_and_stand_ins_are_named(small: World) -> None:
    small.bootstrap(small.model(0.2))
    model = small.model(0.1)
    lab_report(small, model, "phone_low", 61.5)
    assert small.register(model).state is S.GATED
    verdict = latency_verdict(small, model)
    assert verdict.value == 61.5
    assert "phone_low 61.5 (device lab), phone_mid 20.0 (host)" in verdict.detail
    assert "slowest on Pixel 4a, Android 14" in verdict.detail


def test_one_slow_device_class_rejects_a_bundle_that_the_host_finds_fast(small: World) -> None:
    small.bootstrap(small.model(0.2))
    model = small.model(0.1)
    lab_report(small, model, "laptop", 20)
    lab_report(small, model, "phone_low", 80.5, "Moto E")
    view = small.register(model)
    assert view.state is S.REJECTED
    assert "gate latency is fail" in view.transitions[-1].reason


def test_a_lab_report_on_another_bundle_decides_nothing_and_a_refused_one_is_told(small: World) -> None:
    first = small.model(0.2)
    small.bootstrap(first)
    model = small.model(0.1)
    lab_report(small, first, "phone_low", 500)
    (small.store.settings.root / "device_lab" / "broken.json").write_text("{")
    assert small.register(model).state is S.GATED
    assert latency_verdict(small, model).value == 20.0
    assert "broken.json is malformed" in latency_verdict(small, model).detail


def test_a_slow_lab_report_that_comes_after_the_gates_stops_the_next_step(small: World) -> None:
    small.bootstrap(small.model(0.2))
    model = small.model(0.1)
    small.register(model)
    against = live(small.store)
    assert against is not None
    digest = small.view(model).bundle_digest
    lab_report(small, model, "phone_mid", 79, "Pixel 8")
    assert gate_problems(small.store, small.policy, digest, against.bundle_digest) == []
    lab_report(small, model, "phone_low", 120)
    (problem,) = gate_problems(small.store, small.policy, digest, against.bundle_digest)
    assert problem == "the device lab measured more than 80 ms: Pixel 4a (phone_low) p95 120.0 ms"
    small.settle()
    assert small.view(model).state is S.REJECTED  # judged again, by the lab's figure


def test_slices_that_only_hearing_tells_are_held_to_the_margin_too(small: World) -> None:
    small.bootstrap(small.model(0.2))
    model = small.model(0.1)
    assert small.register(model).state is S.GATED
    report = find_report(small.store, model, "int8", small.suite.digest)
    champion = live(small.store)
    assert report is not None
    assert champion is not None
    worse = [n for n, (_, condition, *_) in enumerate(report.utterances) if condition == "clean"]
    spoiled = tuple(
        (*line[:3], line[4], line[4]) if n in worse[::2] else line for n, line in enumerate(report.utterances)
    )
    part = report.slices[0].model_copy(update={"slice": "snr:poor"})
    heard = report.model_copy(
        update={"utterances": spoiled, "members": {"snr:poor": tuple(worse[::2])}, "slices": (*report.slices, part)}
    )
    evidence = gather(small.store, published_bundle(small.store, model), champion.model_version)
    evidence = replace(evidence, candidate=heard, slices=slices_heard(heard, small.suite, []))
    verdict = judge(evidence, small.policy.gates)["slice_margins"]
    assert verdict.outcome is Outcome.FAIL
    assert "worst is snr:poor" in verdict.detail


@pytest.mark.parametrize(("state", "added"), [(S.SHADOW, "wake_words"), (S.CANARY_25, "download")])
def test_a_release_that_rolls_out_when_a_gate_is_added_goes_on_once_it_is_judged_again(
    small: World, monkeypatch: pytest.MonkeyPatch, state: S, added: str
) -> None:
    fewer = tuple(gate for gate in GATES if gate != added)
    with monkeypatch.context() as before:
        for module in ("evidence", "evaluation"):
            before.setattr(f"voice_pipeline.release.gates.{module}.GATES", fewer)
        model = in_stage(small, state)
    small.report()
    looks = len(looks_of(small.store, small.view(model)))
    due = tick(small.store, small.policy).due
    assert [step.asset for step in due] == ["release_candidate"], "it is judged again, not taken further"
    waiting = small.view(model)
    assert waiting.state is state
    assert len(looks_of(small.store, waiting)) == looks, "a look that could promote nothing would be spent for nothing"
    against = live(small.store)
    assert against is not None
    problems = gate_problems(small.store, small.policy, waiting.bundle_digest, against.bundle_digest)
    assert problems == [f"gate {added} has no verdict for this bundle under this policy"]
    small.register(model)
    assert small.view(model) == waiting
    assert added in stored_verdicts(small.store, waiting.bundle_digest, small.policy.digest)
    lines = len(small.store.ledger.lines(kind="verdict"))
    small.register(model)
    assert len(small.store.ledger.lines(kind="verdict")) == lines, "judged once"
    small.settle()
    assert small.view(model).state is NEXT_STAGE[state]
