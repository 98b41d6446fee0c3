"""Triage keeps consent, budget, audit stream and its own word."""

from __future__ import annotations

import threading

from sqlalchemy import select, update

from voice_pipeline.labeling.triage import labeling_incident, triage_day
from voice_pipeline.schema.labeling_policy import LabelingPolicy, load_labeling_policy
from voice_pipeline.schema.monitoring import Action, Incident, IncidentKind
from voice_pipeline.store.incidents import open_incident
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clips, consents, triage
from voice_pipeline_tests.labeling.catalogue import add_captures, add_clips

DAY = "2026-11-02"


def policy_of(store: Store, **budget: object) -> LabelingPolicy:
    policy = load_labeling_policy(store.settings.policy_dir)
    return policy.model_copy(update={"budget": policy.budget.model_copy(update=budget)})


def drift(store: Store, action: Action = Action.RETRAIN) -> Incident:
    return open_incident(store, IncidentKind.INPUT_DRIFT, {"day": DAY}, "m-1", action, "drift", {})


def rows(store: Store) -> dict[str, dict[str, object]]:
    return {row["clip_id"]: dict(row) for row in store.database.rows(select(triage))}


def test_a_first_import_is_selected_whole(store: Store) -> None:
    add_clips(store, 600, DAY)
    summary = triage_day(store, load_labeling_policy(store.settings.policy_dir), DAY, [])
    assert (summary.clips, summary.selected) == (600, 600)
    assert summary.routes == {"transcription_qa": 600}


def test_an_ordinary_day_of_captures_stays_within_budget_plus_audit(store: Store) -> None:
    add_captures(store, 300, DAY)
    summary = triage_day(store, policy_of(store, captures_per_day=40), DAY, [])
    assert 40 <= summary.selected <= 40 + summary.audited
    assert 0 < summary.audited < 20
    by_budget = [row for row in rows(store).values() if "budget" in row["reasons"]]  # type: ignore[operator]
    assert len(by_budget) == 40


def test_repeating_triage_changes_nothing(store: Store) -> None:
    add_captures(store, 120, DAY)
    policy = policy_of(store)
    triage_day(store, policy, DAY, [])
    before = rows(store)
    again = triage_day(store, policy, DAY, [])
    assert again.newly_selected == 0
    assert rows(store) == before


def test_captures_that_arrive_later_share_the_days_budget(store: Store) -> None:
    policy = policy_of(store, captures_per_day=40, audit_share=0.01)
    add_captures(store, 30, DAY, seed=1)
    first = triage_day(store, policy, DAY, [])
    add_captures(store, 100, DAY, seed=2)
    second = triage_day(store, policy, DAY, [])
    assert first.selected == 30
    assert 40 <= second.selected <= 40 + second.audited


def test_two_triages_at_once_spend_the_budget_once(store: Store) -> None:
    add_captures(store, 200, DAY)
    policy = policy_of(store, captures_per_day=40)
    threads = [threading.Thread(target=triage_day, args=(store, policy, DAY, [])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    by_budget = [row for row in rows(store).values() if "budget" in row["reasons"]]  # type: ignore[operator]
    assert len(by_budget) == 40


def test_a_drift_incident_opens_the_budget_and_is_named_as_the_reason(store: Store) -> None:
    add_captures(store, 200, DAY)
    policy = policy_of(store, captures_per_day=40)
    ordinary = triage_day(store, policy, DAY, [])
    incident = drift(store)
    raised = triage_day(store, policy, DAY, [incident])
    assert raised.selected == 200
    tagged = [r for r in rows(store).values() if f"incident:{incident.incident_id}" in r["reasons"]]  # type: ignore[operator]
    assert len(tagged) == 200 - ordinary.selected


def test_only_open_drift_incidents_that_ask_for_labels_raise_the_budget(store: Store) -> None:
    policy = policy_of(store, incident_lookback_days=7)
    incident = drift(store)
    assert labeling_incident(policy, [incident], DAY) == incident
    assert labeling_incident(policy, [incident], "2026-10-20") is None
    watched = incident.model_copy(update={"action": Action.OBSERVE})
    harm = incident.model_copy(update={"kind": IncidentKind.RELEASE_HARM})
    assert labeling_incident(policy, [watched, harm], DAY) is None


def test_without_review_consent_nothing_is_ever_selected(store: Store) -> None:
    silent = add_clips(store, 50, DAY, scopes=("train",), subject="s1")
    revoked = add_clips(store, 50, DAY, subject="s2")
    with store.database.write() as connection:
        connection.execute(update(consents).where(consents.c.subject_token == "s2").values(revoked_at="2026-11-02"))
    triage_day(store, policy_of(store, audit_share=1.0), DAY, [drift(store)])
    found = rows(store)
    assert {found[c]["route"] for c in (*silent, *revoked)} == {"reject"}
    assert not any(found[c]["selected"] for c in (*silent, *revoked))
    assert {found[c]["inclusion_probability"] for c in (*silent, *revoked)} == {0.0}


def test_speakers_who_allow_only_evaluation_are_labelled_too(store: Store) -> None:
    add_clips(store, 20, DAY, scopes=("transcribe_review", "evaluate"))
    assert triage_day(store, policy_of(store), DAY, []).selected == 20


def test_erased_clips_are_passed_over(store: Store) -> None:
    truth = add_clips(store, 3, DAY)
    with store.database.write() as connection:
        connection.execute(update(clips).where(clips.c.clip_id == next(iter(truth))).values(erased_at="2026-11-02"))
    assert triage_day(store, policy_of(store), DAY, []).clips == 2


def test_of_equal_samples_one_is_selected_across_days(store: Store) -> None:
    add_clips(store, 1, "2026-11-01", content_sha256="same")
    add_clips(store, 3, DAY, content_sha256="same")
    assert triage_day(store, policy_of(store), "2026-11-01", []).selected == 1
    later = triage_day(store, policy_of(store), DAY, [])
    assert (later.selected, later.routes) == (0, {"duplicate": 3})


def test_confident_clips_are_looked_at_only_by_the_audit_stream(store: Store) -> None:
    add_clips(store, 2000, DAY, hypothesis="one two", confidence=0.99)
    summary = triage_day(store, policy_of(store, audit_share=0.05), DAY, [])
    assert summary.routes == {"accept": 2000}
    assert summary.selected == summary.audited
    assert 60 <= summary.audited <= 140
    assert {round(float(row["inclusion_probability"]), 9) for row in rows(store).values()} == {0.05}  # type: ignore[arg-type]


def test_surer_clips_have_a_smaller_recorded_chance(store: Store) -> None:
    unsure = add_captures(store, 100, DAY, confidence=0.1, seed=1)
    surer = add_captures(store, 100, DAY, confidence=0.9, seed=2)
    triage_day(store, policy_of(store), DAY, [])
    found = rows(store)
    chance = {name: found[next(iter(group))]["inclusion_probability"] for name, group in (("u", unsure), ("s", surer))}
    assert chance["u"] > chance["s"] > 0.02  # type: ignore[operator]


def test_measured_silence_and_hopeless_noise_do_not_reach_people(store: Store) -> None:
    add_clips(store, 5, DAY, snr_db=-9.0)
    assert triage_day(store, policy_of(store, audit_share=0.01), DAY, []).routes == {"augment": 5}
