"""Confidence is judged on speakers that neither the fit nor the choice of its prior has heard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from voice_pipeline.evaluation.artifacts import FLOAT, checkpoint_folder, report_for
from voice_pipeline.evaluation.errors import EmptySuiteError
from voice_pipeline.evaluation.noises import Noise, pink_noise
from voice_pipeline.evaluation.suites import CLEAN, current_suite
from voice_pipeline.features.frames import build_frame
from voice_pipeline.schema.dataset import ManifestRow
from voice_pipeline.schema.retrain_policy import Alarms
from voice_pipeline.speech.audio import Samples
from voice_pipeline.speech.confidence import FEATURES, INPUT_NAMES, ConfidenceModel
from voice_pipeline.speech.recogniser import Recognition, TorchRecogniser
from voice_pipeline.speech.tokenizer import CharTokenizer
from voice_pipeline.store import manifest
from voice_pipeline.store.errors import MissingFrameError
from voice_pipeline.store.frames import frame_features
from voice_pipeline.store.manifest import manifest_rows, read_manifest
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clip_features, models, training_frames
from voice_pipeline.training import confidence as fitting
from voice_pipeline.training import data, stages
from voice_pipeline.training.confidence import (
    CONDITIONS,
    HELD_OUT,
    QUALITY,
    RELIABILITY,
    RISK_COVERAGE,
    Hearing,
    calibrate,
    fit_confidence,
    hear,
    heard_under,
    judge_on_suite,
    known_words,
    read_calibration,
    read_held_out,
)
from voice_pipeline.training.confidence_fit import PENALTIES, HeardClip, choose_penalty, design, out_of_fold
from voice_pipeline.training.data import Utterance, Utterances
from voice_pipeline.training.plan_errors import NothingToFitError, NothingToJudgeError
from voice_pipeline.training.verdicts import check_calibration
from voice_pipeline_tests.packaging.small_models import network, write_checkpoint

VERSION = "m-20261102-0000000a"
BANK = [Noise("pink-0", pink_noise(0))]


def clips(count: int, signal: float, seed: int = 0, speakers: int = 10, input_number: int = 0) -> list[HeardClip]:
    """Clips of which one input tells with strength `signal` whether they are right; all else is noise."""
    rng = np.random.default_rng(seed)
    made = []
    for n in range(count):
        right = bool(rng.random() < 0.6)
        inputs = rng.normal(size=len(INPUT_NAMES))
        inputs[input_number] += signal if right else -signal
        condition = CONDITIONS[n % len(CONDITIONS)]
        made.append(HeardClip(f"s{n % speakers}", condition, inputs, right, int(not right), 3))
    return made


def judged(heard: list[HeardClip]) -> fitting.Calibration:
    return calibrate(Hearing(tuple(heard), 0, 0.0), out_of_fold(heard), 1.0, "dev")


def test_a_telling_input_gives_a_sharp_and_calibrated_confidence() -> None:
    calibration = judged(clips(2100, signal=1.5))
    assert calibration.auc > 0.9
    assert calibration.sweep_calibration_error < 0.08
    assert calibration.brier < 0.12
    assert calibration.wer_cut_at_80_coverage > 0.3
    assert (calibration.clips, calibration.heard, calibration.speakers) == (300, 2100, 10)


def test_noise_is_not_mistaken_for_knowledge_because_speakers_are_held_out() -> None:
    assert judged(clips(700, signal=0.0)).auc == pytest.approx(0.5, abs=0.15)


def test_what_one_speaker_alone_shows_does_not_help_to_judge_that_speaker() -> None:
    heard = [
        replace(clip, inputs=np.append(clip.inputs[:-1], 5.0 if clip.right and clip.speaker == "s0" else 0.0))
        for clip in clips(700, signal=0.0)
    ]
    sure = out_of_fold(heard)
    own = [n for n, clip in enumerate(heard) if clip.speaker == "s0"]
    assert abs(np.mean([sure[n] for n in own if heard[n].right]) - np.mean(sure[own])) < 0.1


def test_the_prior_is_strong_where_there_is_nothing_to_learn_and_weak_where_there_is() -> None:
    assert choose_penalty(clips(210, signal=0.0)) == PENALTIES[-1]
    assert choose_penalty(clips(2100, signal=2.0, input_number=5)) < PENALTIES[-1]
    assert choose_penalty(clips(70, signal=2.0, speakers=1)) == PENALTIES[-1], "one speaker cannot tell"


def test_a_clip_as_recorded_weighs_as_much_as_all_that_was_made_of_it() -> None:
    heard = clips(len(CONDITIONS) * 5, signal=1.0)
    importance = design(heard)[2]
    recorded = np.array([clip.condition == CLEAN for clip in heard])
    assert importance[recorded].sum() == pytest.approx(importance[~recorded].sum())
    assert importance.sum() == pytest.approx(5)


@pytest.mark.parametrize("right", [True, False])
def test_one_class_alone_still_gives_figures(right: bool) -> None:
    calibration = judged([replace(clip, right=right) for clip in clips(70, signal=1.0)])
    assert calibration.auc == 0.5
    assert calibration.right_share == float(right)
    assert abs(calibration.mean_confidence - right) < 0.3, "ten clips allow no more certainty"


def test_one_speaker_alone_is_judged_in_sample() -> None:
    assert judged(clips(280, signal=1.5, speakers=1)).auc > 0.8


# --- hearing ----------------------------------------------------------------------------------------------------------


def utterances(count: int = 3) -> list[Utterance]:
    rng = np.random.default_rng(0)
    sounds = [(rng.normal(0, 2000, 9600 + 300 * n)).astype(np.int16) for n in range(count)]
    return [Utterance(f"clip-{n}", f"s{n}", "call mary", sound) for n, sound in enumerate(sounds)]


def stored(features: Mapping[str, float]) -> dict[str, dict[str, float | None]]:
    return {f"clip-{n}": dict(features) for n in range(3)}


def test_features_of_a_recording_are_the_frames_and_of_what_was_played_those_of_the_sound() -> None:
    odd = dict.fromkeys(FEATURES, 7.0)
    heard = hear(TorchRecogniser(network(0), CharTokenizer()), utterances(), BANK, stored(odd))
    snr = INPUT_NAMES.index("snr_db")
    assert len(heard.clips) == 3 * len(CONDITIONS)
    for clip in heard.clips:
        assert (clip.inputs[snr] == 7.0) == (clip.condition == CLEAN)
    assert heard.feature_skew > 1, "what was served is not what the recogniser measures"


def test_a_clip_without_features_is_left_out_and_counted() -> None:
    features = stored(dict.fromkeys(FEATURES, 1.0))
    features["clip-1"]["snr_db"] = None
    del features["clip-2"]
    heard = hear(TorchRecogniser(network(0), CharTokenizer()), utterances(), BANK, features)
    assert {clip.speaker for clip in heard.clips} == {"s0"}
    assert heard.unmeasured == 2


def test_conditions_change_speed_and_noise_and_leave_the_recording_alone() -> None:
    samples = utterances()[0].samples / np.float32(32768)
    assert heard_under(CLEAN, samples, BANK, "c") is samples
    assert len(heard_under("speed_0.9", samples, BANK, "c")) == math.ceil(len(samples) / 0.9)
    noisy = heard_under("noise_5db", samples, BANK, "c")
    assert len(noisy) == len(samples)
    assert np.array_equal(noisy, heard_under("noise_5db", samples, BANK, "c"))


# --- in a home --------------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(labelled: Store) -> tuple[Store, str]:
    """A home with a dataset, its frame, and a (small, untrained) model; returns the dataset version too."""
    version = str(labelled.database.scalar(select(training_frames.c.dataset_version)))
    write_checkpoint(checkpoint_folder(labelled, VERSION), seed=0)
    row = {"model_version": VERSION, "spec_digest": "0" * 64, "spec": {}, "dataset_version": version}
    row |= {"state": "trained", "cause": {}, "planned_at": labelled.now().isoformat()}
    with labelled.database.write() as connection:
        connection.execute(models.insert(), row)
    return labelled, version


def test_fit_leaves_a_model_its_judgement_and_its_charts(trained: tuple[Store, str]) -> None:
    store, version = trained
    made = fit_confidence(store, VERSION, version)
    folder = checkpoint_folder(store, VERSION)
    fitted = ConfidenceModel.from_json((folder / "confidence.json").read_text())
    assert fitted.names == INPUT_NAMES
    assert fitted.feature_service == "clip_features_v1"
    assert fitted.vocabulary == ("call", "mary")
    assert read_calibration(folder) == made.calibration
    assert {path.name for path in made.files} == {"confidence.json", QUALITY, RELIABILITY, RISK_COVERAGE}
    assert all(png.startswith(b"\x89PNG") for png in made.charts.values())
    assert made.calibration.unmeasured == 0
    assert all(finding.passed for finding in check_calibration(store, VERSION, Alarms(calibration_error=1)))
    before = [path.read_bytes() for path in made.files]
    again = fit_confidence(store, VERSION, version)
    assert [path.read_bytes() for path in again.files] == before
    assert judge_on_suite(store, VERSION, current_suite(store)).clips == 4


def test_the_suite_is_judged_on_its_recordings_as_they_are(trained: tuple[Store, str]) -> None:
    store, version = trained
    fit_confidence(store, VERSION, version)
    suite = current_suite(store)
    assert len(suite.conditions) > 1
    judged = judge_on_suite(store, VERSION, suite)
    assert (judged.suite, judged.suite_digest) == (suite.suite_id, suite.digest)
    clean = report_for(store, VERSION, FLOAT, suite).slice(f"condition:{CLEAN}")
    assert clean is not None
    assert (judged.clips, judged.speakers) == (clean.clips, clean.speakers)
    assert judged.wer == pytest.approx(clean.wer.value)
    assert judged.right_share == 0, "an untrained network hears nothing right"


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of every sound that a float network hears."""
    lengths: list[int] = []
    honest = TorchRecogniser.transcribe

    def transcribe(recogniser: TorchRecogniser, samples: Samples) -> Recognition:
        lengths.append(len(samples))
        return honest(recogniser, samples)

    monkeypatch.setattr(TorchRecogniser, "transcribe", transcribe)
    return lengths


def test_a_suite_is_heard_once_for_report_and_judgement(trained: tuple[Store, str], heard: list[int]) -> None:
    store, version = trained
    fit_confidence(store, VERSION, version)
    suite = current_suite(store)
    of_its_own_hearing = judge_on_suite(store, VERSION, suite)
    (checkpoint_folder(store, VERSION) / HELD_OUT).unlink()
    heard.clear()
    stages._assess(store, VERSION)
    assert len(heard) == len(suite.conditions) * len(suite.clip_ids)
    heard.clear()
    assert read_held_out(store, VERSION) == of_its_own_hearing
    assert judge_on_suite(store, VERSION, suite) == of_its_own_hearing
    stages._assess(store, VERSION)
    assert heard == []


def test_what_is_not_of_this_suite_and_this_model_is_heard_again(trained: tuple[Store, str], heard: list[int]) -> None:
    store, version = trained
    fit_confidence(store, VERSION, version)
    suite = current_suite(store)
    judge_on_suite(store, VERSION, suite)
    heard.clear()
    another = suite.model_copy(update={"suite_id": "another-v1", "digest": "f" * 64})
    assert judge_on_suite(store, VERSION, another).suite_digest == "f" * 64
    assert len(heard) == len(suite.clip_ids)
    stages._assess(store, VERSION)
    heard.clear()
    fitted = checkpoint_folder(store, VERSION) / "confidence.json"
    fitted.write_bytes(fitted.read_bytes() + b" ")
    stages._assess(store, VERSION)
    assert heard == [], "the report is of the network, which is the same"
    assert judge_on_suite(store, VERSION, suite) == read_held_out(store, VERSION)
    assert len(heard) == len(suite.clip_ids), "as recorded alone"


def test_a_judgement_on_the_suite_is_kept_for_as_long_as_the_model_is_what_was_judged(
    trained: tuple[Store, str],
) -> None:
    store, version = trained
    folder = checkpoint_folder(store, VERSION)
    assert read_held_out(store, VERSION) is None, "nobody judged it yet"
    fit_confidence(store, VERSION, version)
    judged = judge_on_suite(store, VERSION, current_suite(store))
    assert read_held_out(store, VERSION) == judged
    fit_confidence(store, VERSION, version)
    assert read_held_out(store, VERSION) == judged, "the same confidence, fitted again"
    for name in ("confidence.json", "model.pt"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")
        assert read_held_out(store, VERSION) is None, f"{name} is another one"
        (folder / name).write_bytes(content)
    for damaged in ("", "[1]", "{}", '{"suite": "core-v1"}'):
        (folder / HELD_OUT).write_text(damaged)
        assert read_held_out(store, VERSION) is None


def test_a_model_without_a_fitted_confidence_is_not_judged(trained: tuple[Store, str]) -> None:
    store, _ = trained
    (checkpoint_folder(store, VERSION) / "confidence.json").unlink()
    with pytest.raises(NothingToJudgeError, match=f"{VERSION} has no confidence.json; materialise confidence_model"):
        judge_on_suite(store, VERSION, current_suite(store))


def test_a_suite_whose_speakers_are_erased_meanwhile_is_refused_by_name(
    trained: tuple[Store, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = trained
    suite = current_suite(store)

    def read_then_erase(*told: object) -> list[ManifestRow]:
        rows = read_manifest(*told)  # type: ignore[arg-type]
        for speaker in {row.speaker for row in rows if row.clip_id in suite.clip_ids}:
            store.vault.destroy(speaker)
        return rows

    monkeypatch.setattr(manifest, "read_manifest", read_then_erase)
    for _ in ("erased after the manifest was read", "erased before"):
        with pytest.raises(EmptySuiteError, match=f"{suite.name} has no clip left .* freeze a new one"):
            judge_on_suite(store, VERSION, suite)


def test_every_dev_speaker_is_heard_however_few_clips_may_be(
    trained: tuple[Store, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, version = trained
    speakers = ["old"] * 6 + ["s1", "s2", "s3"]
    crowd = [Utterance(f"c{n}", speaker, "call mary", np.zeros(1, np.int16)) for n, speaker in enumerate(speakers)]
    heard: list[str] = []

    def hear_none(_recogniser: object, utterances: Utterances, *_: object) -> Hearing:
        heard.extend(utterances.speakers)
        return Hearing((), 0, 0.0)

    monkeypatch.setattr(data, "open_utterances", lambda *_: Utterances.of(crowd))
    monkeypatch.setattr(fitting, "MOST_UTTERANCES", 4)
    monkeypatch.setattr(fitting, "hear", hear_none)
    with pytest.raises(NothingToFitError):
        fit_confidence(store, VERSION, version)
    assert sorted(heard) == ["old", "s1", "s2", "s3"]


def test_features_served_equal_what_the_recogniser_measures(trained: tuple[Store, str]) -> None:
    store, version = trained
    assert fit_confidence(store, VERSION, version).calibration.feature_skew == 0.0


def test_the_fit_reads_the_frame_and_a_skewed_measurement_is_an_alarm(trained: tuple[Store, str]) -> None:
    store, version = trained
    with store.database.write() as connection:
        for row in connection.execute(select(clip_features)).mappings().all():
            changed = {**row["values"], "snr_db": row["values"]["snr_db"] + 0.5}
            chosen = clip_features.c.clip_id == row["clip_id"]
            connection.execute(clip_features.update().where(chosen).values(values=changed))
    from voice_pipeline.features.publish import publish

    publish(store)
    build_frame(store, version)
    assert fit_confidence(store, VERSION, version).calibration.feature_skew == pytest.approx(0.5)
    failed = [f.name for f in check_calibration(store, VERSION, Alarms(calibration_error=1)) if not f.passed]
    assert failed == ["feature skew"]


def test_without_its_frame_nothing_is_fitted(trained: tuple[Store, str]) -> None:
    store, version = trained
    path = store.settings.root / str(store.database.scalar(select(training_frames.c.uri)))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(MissingFrameError, match="materialise training_frame"):
        fit_confidence(store, VERSION, version)


def test_a_frame_that_knows_no_clip_is_refused_by_name(
    trained: tuple[Store, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, version = trained
    monkeypatch.setattr(fitting, "frame_features", lambda *_: {})
    with pytest.raises(NothingToFitError, match=version):
        fit_confidence(store, VERSION, version)


def test_frame_features_are_by_name_and_unknown_ones_are_none(trained: tuple[Store, str]) -> None:
    store, version = trained
    found = frame_features(store, version)
    assert set(found) == {row.clip_id for row in manifest_rows(store, version)}
    for values in found.values():
        assert set(FEATURES) <= set(values)
        assert values["profile_clips"] is None, "the day was not over when the clips were measured"


def test_words_of_one_person_only_are_not_shipped(store: Store) -> None:
    from voice_pipeline.dataset.snapshot import snapshot
    from voice_pipeline_tests.store.labelled_home import add_batch

    add_batch(store, "batch-20261102-001", [f"p{n}" for n in range(12)], text="call me")
    add_batch(store, "batch-20261102-002", ["q1"], text="my secret", seed=5)
    assert known_words(store, snapshot(store).dataset_version) == ("call", "me")


def test_the_judgement_of_an_older_program_counts_as_none(tmp_path: Path) -> None:
    assert read_calibration(tmp_path) is None
    (tmp_path / QUALITY).write_text('{"clips": 3, "auc": 0.9}')
    assert read_calibration(tmp_path) is None
