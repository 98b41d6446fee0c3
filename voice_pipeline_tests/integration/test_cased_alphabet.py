"""Case and punctuation the whole way: reviewed, labelled, versioned, planned, learnt, exported, recognised, judged.

The speech is a language of two tones, written with a capital at the start and a point at the end, which a small network
learns in seconds from the silence around the tones.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from voice_pipeline.capture.ingest import ingest_day
from voice_pipeline.dataset.snapshot import snapshot
from voice_pipeline.dataset.suites import freeze_suites
from voice_pipeline.evaluation.report import Subject, evaluate
from voice_pipeline.evaluation.suites import suite_clips
from voice_pipeline.fleet.corpus import CorpusClip, synthesise_corpus
from voice_pipeline.fleet.importer import import_clips
from voice_pipeline.fleet.phrases import written
from voice_pipeline.fleet.reviewers import SimulatedReviewers
from voice_pipeline.labeling.batches import close_batch
from voice_pipeline.labeling.labels import resolve
from voice_pipeline.labeling.tasks import open_tasks
from voice_pipeline.labeling.triage import triage_day
from voice_pipeline.packaging.export import onnx_bytes
from voice_pipeline.schema.alphabet import CASED_PUNCTUATED
from voice_pipeline.schema.dataset import Split
from voice_pipeline.schema.labeling_policy import load_labeling_policy
from voice_pipeline.schema.retrain_policy import RetrainCause, RetrainTrigger
from voice_pipeline.schema.training import Hyperparameters, Preset
from voice_pipeline.settings import PROJECT_ROOT, Settings
from voice_pipeline.speech.normalise import label_form
from voice_pipeline.speech.recogniser import OnnxRecogniser, load_checkpoint
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import labels
from voice_pipeline.training.data import Utterance, open_utterances
from voice_pipeline.training.planning import build_spec, read_policy
from voice_pipeline.training.trainer import train
from voice_pipeline_tests.training.speech_made_of_tones import language

DAY = "2026-11-01"
QUICK = Hyperparameters(
    preset=Preset.MICRO, max_epochs=12, batch_size=8, learning_rate=4e-3, ema_decay=0.9, noise_share=0.2,
    dropout=0.0, join_share=0.0, time_mask_frames=4, frequency_mask_bins=4,
)  # fmt: skip


@pytest.fixture
def cased(tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store in an empty home whose labelling policy asks for case and punctuation."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc-site-cache"))
    policy = tmp_path / "policy"
    policy.mkdir()
    (policy / "labeling.yaml").write_text("alphabet: cased_punctuated\nreview: {gold_share: 0}\n")
    (policy / "retrain.yaml").write_text((PROJECT_ROOT / "policy" / "retrain.yaml").read_text())
    return Store.open(Settings(home=tmp_path / "home", policy_dir=policy), clock)


def tones() -> list[CorpusClip]:
    """Eight speakers, 88 clips, two of the speakers for tests."""
    return [_spoken(number, utterance) for number, utterance in enumerate(language(88))]


def _spoken(number: int, utterance: Utterance) -> CorpusClip:
    samples = (utterance.samples / 32_768).astype(np.float32)
    return CorpusClip(
        name=f"tone-{number}",
        text=utterance.text.capitalize() + " .",  # a space too many: labels are normalised
        speaker=f"speaker-{number % 8}",
        accent="",
        gender="",
        age="",
        split="test" if number % 8 < 2 else "train",
        corpus="tones",
        read=lambda: samples,
    )


def test_case_and_punctuation_go_the_whole_way(cased: Store, tmp_path: Path) -> None:
    truth = import_clips(cased, tones(), [date.fromisoformat(DAY)], seed=1).texts
    ingest_day(cased, DAY)
    policy = load_labeling_policy(cased.settings.policy_dir)
    triage_day(cased, policy, DAY, [])
    open_tasks(cased, policy)
    SimulatedReviewers(truth, error_rate=0.0).answer_open_tasks(cased)
    resolve(cased, policy)
    assert close_batch(cased, policy) is not None
    written_labels = cased.database.rows(select(labels))
    assert {row["normaliser_version"] for row in written_labels} == {label_form(CASED_PUNCTUATED)}
    assert all(
        row["text"][0].isupper() and row["text"].endswith(".") and " ." not in row["text"] for row in written_labels
    )

    version = snapshot(cased).dataset_version
    suite = freeze_suites(cased, version)
    spec = build_spec(
        cased, read_policy(cased), RetrainCause(trigger=RetrainTrigger.DATASET_VERSION, dataset_version=version)
    )
    assert spec.alphabet == CASED_PUNCTUATED
    quick = spec.model_copy(update={"hyperparameters": QUICK})
    taught, held_out = (open_utterances(cased, version, split) for split in (Split.TRAIN, Split.DEV))
    result = train(quick, taught, held_out, [], tmp_path / "run")

    network, tokenizer = load_checkpoint(result.checkpoint)
    assert tokenizer.alphabet == CASED_PUNCTUATED
    (tmp_path / "model.onnx").write_bytes(onnx_bytes(network))
    recogniser = OnnxRecogniser(tmp_path / "model.onnx", tokenizer)
    subject = Subject("m-20261102-00000000", "float", suite.suite_id, suite.digest)
    report = evaluate(recogniser, suite_clips(cased, suite), subject, cased.now(), resamples=200)
    assert report.punctuation is not None
    assert report.punctuation.f1 is not None
    heard = [recogniser.transcribe(clip.samples).text for clip in suite_clips(cased, suite)]
    assert set("".join(heard)) <= set(CASED_PUNCTUATED)
    assert any("." in text for text in heard)
    assert any(character.isupper() for text in heard for character in text)
    assert report.punctuation.f1.value > 0.5
    assert report.punctuation.casing_accuracy is not None
    assert report.punctuation.casing_accuracy.value > 0.5


def test_synthetic_references_are_written_in_the_alphabet_asked_for_and_sound_the_same() -> None:
    plain, _ = synthesise_corpus(1, 12, 4)
    cased_clips, _ = synthesise_corpus(1, 12, 4, CASED_PUNCTUATED)
    assert [clip.text for clip in cased_clips] == [written(clip.text) for clip in plain]
    assert all(clip.text[0].isupper() and clip.text.endswith(".") for clip in cased_clips)
    assert (plain[0].samples() == cased_clips[0].samples()).all()
    assert written("call anna at nine") == "Call Anna at nine."
    assert written("s m i t h") == "S M I T H."
