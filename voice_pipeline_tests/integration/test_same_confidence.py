"""One clip, one bundle: fit, device and triage say the same confidence, and a skewed side is noticed."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select, update

from voice_pipeline.capture.ingest import ingest_day
from voice_pipeline.capture.intake import accept
from voice_pipeline.device.recogniser import DeviceRecogniser, load_bundle
from voice_pipeline.features import measure as measuring
from voice_pipeline.features.measure import measure_day
from voice_pipeline.features.publish import publish
from voice_pipeline.labeling.confidence import bundled_model
from voice_pipeline.labeling.signals import read_signals
from voice_pipeline.labeling.triage import MISREPORTED_REASON, triage_day
from voice_pipeline.packaging.signing import signing_public_key
from voice_pipeline.schema.clip import CaptureEvent, FailureMode
from voice_pipeline.schema.labeling_policy import LabelingPolicy
from voice_pipeline.settings import Settings, load_settings
from voice_pipeline.speech.audio import encode_flac
from voice_pipeline.speech.confidence import INPUT_NAMES, ConfidenceModel, scalars
from voice_pipeline.speech.recogniser import Recognition, TorchRecogniser
from voice_pipeline.speech.tokenizer import CharTokenizer
from voice_pipeline.store.feast_repo import online_features
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clip_features, triage
from voice_pipeline_tests.capture.clips import DAY, capture
from voice_pipeline_tests.packaging import small_models
from voice_pipeline_tests.packaging.small_models import network, sign_small_bundle

VERSION = "m-20261102-0000000c"


def fitted() -> ConfidenceModel:
    """Every input counts, so that a difference in any of them shows."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(200, len(INPUT_NAMES)))
    right = rng.random(200) < 1 / (1 + np.exp(-x.sum(axis=1)))
    model = ConfidenceModel.fit(x, right, 1.0, vocabulary=("call",), feature_service="clip_features_v1")
    return replace(model, scale=tuple(20.0 for _ in model.names))


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home with one signed bundle, exported once."""
    settings = load_settings(tmp_path_factory.mktemp("publisher"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_models, "CONFIDENCE", fitted())
        sign_small_bundle(settings, VERSION, seed=3)
    return settings


@pytest.fixture
def device(store: Store, publisher: Settings) -> DeviceRecogniser:
    """The recogniser of a signed bundle that this home holds too."""
    shutil.copytree(publisher.bundles, store.settings.bundles)
    return load_bundle(store.settings.bundles / VERSION, signing_public_key(publisher.keys))


def spoken() -> np.ndarray:
    """What a microphone gives: not on the PCM16 grid."""
    rng = np.random.default_rng(1)
    return (0.1 * rng.standard_normal(24_000) * np.hanning(24_000)).astype(np.float32)


def sent(store: Store, answer: Recognition, **claims: object) -> str:
    """A device posts its clip and what it made of it; the pipeline takes it in and measures it."""
    event = capture(1).model_copy(
        update={
            "failure_mode": FailureMode.LOW_CONFIDENCE,
            "model_version": VERSION,
            "hypothesis": answer.text,
            "confidence": answer.confidence,
            "posteriors": scalars(answer.posteriors),
            **claims,
        }
    )
    accept(store, CaptureEvent.model_validate_json(event.model_dump_json()), encode_flac(spoken()))
    ingest_day(store, DAY)
    measure_day(store, DAY)
    publish(store)
    return event.clip_id


def test_device_and_triage_say_the_same_to_the_last_bit_and_the_fit_to_five_digits(
    store: Store, device: DeviceRecogniser
) -> None:
    answer = device.transcribe(spoken())
    clip_id = sent(store, answer)
    served = online_features(store, {clip_id: "x"})[clip_id]
    assert {name: served[name] for name in asdict(answer.measures)} == asdict(answer.measures)
    assert read_signals(store, DAY)[clip_id].confidence == answer.confidence
    in_fit = TorchRecogniser(network(3), CharTokenizer(), fitted()).transcribe(spoken())
    assert in_fit.confidence == pytest.approx(answer.confidence, abs=1e-5)
    assert 0.02 < answer.confidence < 0.98, "a confidence at its limits would hide a difference"


def test_triage_acts_on_the_computed_confidence_and_names_a_claim_that_differs(
    store: Store, device: DeviceRecogniser
) -> None:
    answer = device.transcribe(spoken())
    clip_id = sent(store, answer, confidence=0.9999)
    triage_day(store, LabelingPolicy(), DAY, [])
    row = store.database.row(select(triage).where(triage.c.clip_id == clip_id))
    assert row is not None
    assert MISREPORTED_REASON in row["reasons"]
    assert "confident" not in row["reasons"]


def test_an_honest_claim_is_not_named(store: Store, device: DeviceRecogniser) -> None:
    clip_id = sent(store, device.transcribe(spoken()))
    triage_day(store, LabelingPolicy(), DAY, [])
    row = store.database.row(select(triage).where(triage.c.clip_id == clip_id))
    assert row is not None
    assert MISREPORTED_REASON not in row["reasons"]


def test_a_changed_measure_on_one_side_is_noticed(
    store: Store, device: DeviceRecogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = measuring.measure
    monkeypatch.setattr(measuring, "measure", lambda x: replace(measure(x), snr_db=measure(x).snr_db + 1e-3))
    answer = device.transcribe(spoken())
    clip_id = sent(store, answer)
    signals = read_signals(store, DAY)[clip_id]
    assert signals.confidence is not None
    assert abs(signals.confidence - answer.confidence) > 1e-6
    triage_day(store, LabelingPolicy(), DAY, [])
    row = store.database.row(select(triage).where(triage.c.clip_id == clip_id))
    assert row is not None
    assert MISREPORTED_REASON in row["reasons"]


@pytest.mark.parametrize("claims", [{"posteriors": None}, {"model_version": "m-20200101-00000000"}])
def test_without_posteriors_or_bundle_the_devices_word_has_to_do(
    store: Store, device: DeviceRecogniser, claims: dict[str, object]
) -> None:
    clip_id = sent(store, device.transcribe(spoken()), confidence=0.9999, **claims)
    assert read_signals(store, DAY)[clip_id].confidence is None
    triage_day(store, LabelingPolicy(), DAY, [])
    row = store.database.row(select(triage).where(triage.c.clip_id == clip_id))
    assert row is not None
    assert MISREPORTED_REASON not in row["reasons"]


def test_an_unmeasured_clip_has_no_computed_confidence(store: Store, device: DeviceRecogniser) -> None:
    clip_id = sent(store, device.transcribe(spoken()))
    with store.database.write() as connection:
        connection.execute(update(clip_features).values(values={}))
    publish_nothing = store.settings.feast_repo / "published_until"
    publish_nothing.unlink()
    assert read_signals(store, DAY)[clip_id].confidence is None


def test_a_damaged_document_or_one_over_other_features_is_not_used(store: Store, device: DeviceRecogniser) -> None:
    assert bundled_model(store, VERSION) is not None
    path: Path = store.settings.bundles / VERSION / "confidence.json"
    path.write_text(replace(fitted(), feature_service="clip_features_v2").to_json())
    assert bundled_model(store, VERSION) is None
    path.write_text("{")
    assert bundled_model(store, VERSION) is None
    assert bundled_model(store, None) is None
