"""On real recordings: AN4's own test speakers are no drift, accented digits over a noisy telephone are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from voice_pipeline.fleet.corpus import CorpusClip, load_corpus
from voice_pipeline.fleet.scenario import FleetClip, Populations, populations
from voice_pipeline.monitoring.drift import DriftReport, DriftStatus, report_drift
from voice_pipeline.monitoring.windows import build_windows
from voice_pipeline.schema.monitoring import Action
from voice_pipeline.schema.monitoring_policy import load_monitoring_policy
from voice_pipeline.settings import PROJECT_ROOT
from voice_pipeline.speech.measures import AcousticMeasures, measure, speaking_rate
from voice_pipeline.store.incidents import incidents
from voice_pipeline.store.store import Store
from voice_pipeline_tests.monitoring.world import Features, go_live, report, train_on

DICTATIONS = 1800


@pytest.fixture(scope="session")
def spoken(corpus: Path) -> tuple[list[Features], Populations]:
    """Features of AN4's training clips, and the story's two populations."""
    clips = load_corpus(corpus)
    an4 = [clip for clip in clips if clip.corpus == "an4"]
    train = [features(measure(clip.samples()), clip) for clip in an4 if clip.split == "train"]
    return train, populations(an4, [clip for clip in clips if clip.corpus == "fsdd"], seed=1)


def features(measures: AcousticMeasures, clip: CorpusClip | FleetClip) -> Features:
    return {**vars(measures), "speaking_rate": speaking_rate(clip.text, measures.duration_s)}


def dictations(people: Populations, share: float) -> list[Features]:
    """What a fleet reports of which `share` is the new population."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(DICTATIONS):
        population = people.new if rng.random() < share else people.home
        person = population.people[rng.integers(len(population.people))]
        clip = person.clips[rng.integers(len(person.clips))]
        rows.append(features(clip.heard()[1], clip))
    return rows


def judge(store: Store, spoken: tuple[list[Features], Populations], share: float) -> DriftReport:
    train_on(store, spoken[0])
    go_live(store)
    day = report(store, dictations(spoken[1], share), devices=300)
    build_windows(store, day)
    return report_drift(store, load_monitoring_policy(PROJECT_ROOT / "policy"), day)


def test_unseen_speakers_of_the_same_corpus_open_no_incident(
    store: Store, spoken: tuple[list[Features], Populations]
) -> None:
    found = judge(store, spoken, share=0.0)
    assert found.status in (DriftStatus.CLEAR, DriftStatus.WITHIN_FLOORS)
    assert not incidents(store)


@pytest.mark.parametrize("share", [0.4, 0.7, 1.0])
def test_accented_digits_over_a_noisy_telephone_ask_for_training(
    store: Store, spoken: tuple[list[Features], Populations], share: float
) -> None:
    found = judge(store, spoken, share)
    assert "all" in found.drifted_cohorts
    (incident,) = incidents(store)
    assert incident.action is Action.RETRAIN
    assert "snr_db" in incident.detail["drifted_features"]  # type: ignore[operator]
