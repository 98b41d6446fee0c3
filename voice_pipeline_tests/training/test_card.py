"""The model card: one content in two forms, the same bytes every time; limits come from figures, nobody is named."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from voice_pipeline.evaluation.latency import latency_by_class
from voice_pipeline.evaluation.paired import AgainstLive, compare
from voice_pipeline.evaluation.suites import current_suite
from voice_pipeline.schema.clip import DeviceClass
from voice_pipeline.schema.device_lab import DeviceLabReport
from voice_pipeline.schema.training import EvaluationReport, SliceMinimum
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import consents
from voice_pipeline.training.assessment import Assessment, assess, write_charts
from voice_pipeline.training.card import JSON_FORM, MARKDOWN, ModelCard, build_card, write_card
from voice_pipeline.training.charts import with_charts_inside
from voice_pipeline.training.confidence import Calibration, HeldOut
from voice_pipeline.training.planning import Plan, act, read_policy
from voice_pipeline_tests.evaluation.heard import Said, report_on

LIVE = "m-20261101-aaaaaaaa"
SECTIONS = (
    "Intended use",
    "Out of scope",
    "Data",
    "Training",
    "Evaluation (float, suite core-v1)",
    "Worst words",
    "Against the live model",
    "Latency by device class",
    "Confidence",
    "Limits",
    "Consent and erasure",
    "Provenance",
    "Charts",
)


@pytest.fixture
def plan(labelled: Store) -> Plan:
    (planned,) = act(labelled, read_policy(labelled))
    return planned


def heard(model_version: str, suite_digest: str, right: bool = False) -> EvaluationReport:
    """Four speakers of accent x, one of accent y; `nine` is heard as `five` unless `right`."""
    said = [
        Said(f"subject-{n}", "nine one two", "nine one two" if right else "five one two", (f"accent:{accent}",), where)
        for n, accent in enumerate("xxxxy")
        for where in ("clean", "noise_10db")
    ]
    return report_on(said, model_version, suite_digest=suite_digest, word_speakers=3)


@pytest.fixture
def assessment(labelled: Store, plan: Plan) -> Assessment:
    suite = current_suite(labelled)
    report = heard(plan.model_version, suite.digest)
    return assess(labelled, report, suite, SliceMinimum(clips=2, speakers=2, words=6))


def test_the_card_says_everything_in_order_and_plainly_that_no_model_is_live(
    labelled: Store, plan: Plan, assessment: Assessment
) -> None:
    text = write_card(labelled, plan, assessment, None, None).read_text()
    heads = [line.lstrip("#").strip() for line in text.splitlines() if line.startswith("##")]
    assert heads == list(SECTIONS)
    assert "no model is live yet, so there is nothing to compare with." in text
    assert plan.spec.dataset_version in text
    assert "| train | " in text
    assert "train 24" in text
    assert "| nine | 10 | 10 | 0 | 0 | five (10) |" in text
    assert "Not calibrated." in text
    assert f"suite sha256: {assessment.report.suite_digest}" in text


def test_limits_are_found_in_the_figures(labelled: Store, plan: Plan, assessment: Assessment) -> None:
    limits = build_card(labelled, plan, assessment, None, None).limits
    found = "\n".join(limits)
    assert "accent:y (1 of 2 speakers)" in found
    assert "Weakest slice with enough material: condition:noise_10db, WER 33.3%" in found
    assert "Heard clean and in noise_10db" in found
    assert "phone_low, phone_mid, phone_high, laptop: the times given there are this host's" in found
    assert "not calibrated on speakers it never heard" in found
    assert "no punctuation and casing" in found
    assert "x86 CPUs without VNNI" in found
    plenty = Assessment(**{**assessment.__dict__, "minimum": SliceMinimum(clips=1, speakers=1, words=1)})
    assert "Too little was heard" not in "\n".join(build_card(labelled, plan, plenty, None, None).limits)


def test_both_forms_are_the_same_bytes_every_time_and_the_json_is_read_back(
    labelled: Store, plan: Plan, assessment: Assessment
) -> None:
    folder = write_card(labelled, plan, assessment, None, None).parent
    first = [(folder / name).read_bytes() for name in (MARKDOWN, JSON_FORM)]
    labelled.clock.advance(timedelta(days=1))  # type: ignore[attr-defined]
    write_card(labelled, plan, assessment, None, None)
    assert [(folder / name).read_bytes() for name in (MARKDOWN, JSON_FORM)] == first
    assert stored(folder) == build_card(labelled, plan, assessment, None, None)


def test_a_card_that_travels_to_devices_is_small_and_names_nobody(
    labelled: Store, plan: Plan, assessment: Assessment
) -> None:
    folder = write_card(labelled, plan, assessment, None, None).parent
    for name in (MARKDOWN, JSON_FORM):
        content = (folder / name).read_text()
        assert len(content) < 20_000
        for private in ("subject-", "speaker-", "clip0", "base64"):
            assert private not in content
    assert json.loads((folder / JSON_FORM).read_text())["evaluation"]["utterances"] == []


def test_its_charts_lie_beside_it_and_the_asset_page_has_them_inside(
    labelled: Store, plan: Plan, assessment: Assessment
) -> None:
    card = write_card(labelled, plan, assessment, None, None)
    assert "](charts/wer_by_slice.png)" in with_charts_inside(card)  # not drawn yet: still a link
    files = write_charts(labelled, assessment)
    assert {file.relative_to(card.parent).as_posix() for file in files} == {
        chart.path for chart in stored(card.parent).charts
    }
    inside = with_charts_inside(card)
    assert inside.count("data:image/png;base64,") == len(files) == 2
    assert "](charts/" not in inside


def test_a_live_model_and_another_parent_are_both_compared_with(
    labelled: Store, plan: Plan, assessment: Assessment
) -> None:
    baseline = heard(LIVE, assessment.report.suite_digest, right=True)
    against = AgainstLive(compare(assessment.report, baseline))
    beside = Assessment(**{**assessment.__dict__, "against_live": against})
    warm = Plan(**{**plan.__dict__, "spec": plan.spec.model_copy(update={"parent_model_version": LIVE})})
    (live_only,) = build_card(labelled, warm, beside, None, None).compared_with
    assert live_only.role == "live"
    other = Plan(**{**plan.__dict__, "spec": plan.spec.model_copy(update={"parent_model_version": "m-gone"})})
    live, parent = build_card(labelled, other, beside, None, None).compared_with
    assert (live.role, parent.role) == ("live", "parent")
    assert "m-gone cannot be heard" in parent.reason
    text = write_card(labelled, other, beside, None, None).read_text()
    assert "+33.3% (+33.3% to +33.3%)" in text
    assert "### Against the parent model" in text


def test_a_chart_of_a_live_model_that_is_none_any_more_is_taken_away(
    labelled: Store, plan: Plan, assessment: Assessment
) -> None:
    gone = Assessment(**{**assessment.__dict__, "charts": {**assessment.charts, "difference_from_live.png": b"png"}})
    assert len(write_charts(labelled, gone)) == 3
    folder = write_charts(labelled, assessment)[0].parent
    assert {path.name for path in folder.iterdir()} == {"wer_by_slice.png", "error_mix.png"}


def test_lab_figures_are_marked_as_such(labelled: Store, plan: Plan, assessment: Assessment) -> None:
    lab = DeviceLabReport(
        device_class=DeviceClass.PHONE_LOW,
        device_model="Pixel 4a",
        os="Android 14",
        runtime="onnxruntime 1.20",
        threads=1,
        bundle_digest="d" * 64,
        clips=100,
        p50_ms=30,
        p95_ms=61.5,
        p99_ms=70,
        peak_memory_mb=48,
        measured_at=labelled.now(),
    )
    timed = Assessment(**{**assessment.__dict__, "latency": latency_by_class(assessment.report, [lab])})
    text = write_card(labelled, plan, timed, None, None).read_text()
    assert "| phone_low | 30.0 | 61.5 | 70.0 | 48 | 100 | device lab | Pixel 4a, Android 14, onnxruntime 1.20" in text
    assert "timed it on phone_mid, phone_high, laptop:" in text
    assert text.count("| host | host (float), a stand-in") == 3


def test_consents_taken_back_are_counted(labelled: Store, plan: Plan, assessment: Assessment) -> None:
    one = labelled.database.scalar(select(consents.c.consent_id))
    with labelled.database.write() as connection:
        connection.execute(update(consents).where(consents.c.consent_id == one).values(revoked_at="2026-11-02"))
    assert build_card(labelled, plan, assessment, None, None).data.revoked == 1
    assert "1 of them taken back since" in write_card(labelled, plan, assessment, None, None).read_text()


DEV = {field.name: 0.125 for field in fields(Calibration)} | {"clips": 17, "speakers": 5, "fitted_on": "dev"}
SUITE = {field.name: 0.375 for field in fields(HeldOut)} | {"clips": 130, "speakers": 10}
SUITE |= {"suite": "core-v1", "suite_digest": "a" * 64, "artifact_sha256": "b" * 64, "confidence_sha256": "c" * 64}


def test_the_confidence_on_dev_and_on_the_suite_are_told_apart(
    labelled: Store, plan: Plan, assessment: Assessment
) -> None:
    dev, suite = Calibration(**DEV), HeldOut(**SUITE)  # type: ignore[arg-type]
    text = write_card(labelled, plan, assessment, dev, suite).read_text()
    card = stored(labelled.settings.models / plan.model_version)
    assert (card.confidence, card.confidence_held_out) == (DEV, SUITE)
    on_dev, on_suite = confidence_sections(text)
    assert on_dev.startswith(
        "On dev speakers, out of fold\n\n17 clips as recorded, of 5 speakers, whom it was fitted on"
    )
    assert "sweep calibration error: 0.125" in on_dev
    assert on_suite.startswith(
        "On suite core-v1, held out\n\n130 clips as recorded, of 10 speakers, "
        "whom this model was neither trained nor fitted on."
    )
    assert "sweep calibration error: 0.375" in on_suite
    assert f"suite digest: {'a' * 64}" in on_suite
    assert "0.375" not in on_dev
    assert "0.125" not in on_suite


def test_a_judgement_that_was_not_made_is_left_out(labelled: Store, plan: Plan, assessment: Assessment) -> None:
    (on_dev,) = confidence_sections(write_card(labelled, plan, assessment, Calibration(**DEV), None).read_text())  # type: ignore[arg-type]
    assert on_dev.startswith("On dev speakers")
    assert stored(labelled.settings.models / plan.model_version).confidence_held_out == {}


def confidence_sections(text: str) -> list[str]:
    whole = text.split("\n## Confidence\n")[1].split("\n## ")[0]
    return whole.split("\n### ")[1:]


def stored(folder: Path) -> ModelCard:
    return ModelCard.model_validate_json((folder / JSON_FORM).read_bytes())
