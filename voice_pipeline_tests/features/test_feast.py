"""Feast serves what the catalogue knows, training frames see no future, and the erased are forgotten everywhere."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import filelock
import pandas as pd
import pyarrow.parquet as pq
import pytest
from dagster import DagsterInstance, load_asset_checks_from_modules, materialize
from sqlalchemy import select, update

from voice_pipeline.dataset.snapshot import snapshot
from voice_pipeline.features import assets, checks
from voice_pipeline.features import publish as publishing
from voice_pipeline.features.audit import frame_difference, skewed_clips, unmeasured_clips
from voice_pipeline.features.frames import build_frame
from voice_pipeline.features.measure import measure_day
from voice_pipeline.features.publish import publish
from voice_pipeline.settings import PROJECT_ROOT
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.errors import MissingFeaturesError, MissingFrameError
from voice_pipeline.store.feast_repo import (
    FEATURE_SERVICE,
    declared_features,
    feature_store,
    features_at,
    is_published,
    online_features,
    source_folder,
)
from voice_pipeline.store.frames import read_frame
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clip_features, clips, training_frames
from voice_pipeline_tests.features.reports import PROFILE, report
from voice_pipeline_tests.store.labelled_home import LabelledClip, add_batch

DAY = "2026-11-02"
CLIP_PROFILE = "phone_low|built_in|en-US"
PEOPLE = [f"person-{number}" for number in range(9)]


def published(store: Store) -> list[LabelledClip]:
    made = add_batch(store, "batch-20261102-001", PEOPLE)
    measure_day(store, DAY)
    publish(store)
    return made


def ask(store: Store, made: list[LabelledClip]) -> dict[str, dict[str, float | None]]:
    return online_features(store, {clip.clip_id: CLIP_PROFILE for clip in made})


def erase(store: Store, person: str) -> None:
    store.vault.destroy(person)
    gone = select(clips.c.clip_id).where(clips.c.subject_token == person)
    with store.database.write() as connection:
        connection.execute(clip_features.delete().where(clip_features.c.clip_id.in_(gone)))
        connection.execute(
            update(clips).where(clips.c.subject_token == person).values(erased_at=store.now().isoformat())
        )


def test_online_serves_what_was_measured(store: Store) -> None:
    made = published(store)
    values = {row["clip_id"]: row["values"] for row in store.database.rows(select(clip_features))}
    for clip_id, served in ask(store, made).items():
        assert {name: served[name] for name in values[clip_id]} == pytest.approx(values[clip_id])
        assert served["profile_clips"] is None, "the day is not over"
    assert skewed_clips(store) == ()
    assert unmeasured_clips(store) == 0


def test_before_anything_is_published_there_is_nothing_and_it_says_so(store: Store) -> None:
    assert online_features(store, {"clip": CLIP_PROFILE}) == {}
    with pytest.raises(MissingFeaturesError, match="materialise feature_store"):
        features_at(store, pd.DataFrame())
    assert publish(store).clips == 0


def test_clips_and_profiles_that_come_later_are_served_after_the_next_publication(
    store: Store, clock: ManualClock
) -> None:
    first = published(store)
    clock.advance(timedelta(days=5))
    later = add_batch(store, "batch-20261107-001", ["late"])
    measure_day(store, "2026-11-07")
    assert ask(store, later)[later[0].clip_id]["snr_db"] is None
    assert publish(store).clips == len(first) + len(later)
    served = ask(store, first + later)
    assert all(values["snr_db"] is not None for values in served.values())
    assert {values["profile_clips"] for values in served.values()} == {len(first)}


def test_a_join_gives_each_row_what_was_known_at_its_instant_and_drops_none(store: Store, clock: ManualClock) -> None:
    start = store.now()
    report(store, start, words=10, corrected=5)
    made = published(store)
    clock.advance(timedelta(days=2))
    report(store, store.now(), words=10, corrected=0)
    clock.advance(timedelta(days=1))
    publish(store)
    instants = [start - timedelta(minutes=1), start + timedelta(days=1), store.now()]  # 9:00; both days are over
    clip = made[0].clip_id
    asked = [(clip, PROFILE, instant) for instant in instants] + [("never-heard-of", "no|such|profile", store.now())]
    entities = pd.DataFrame(asked, columns=["clip_id", "device_profile", "event_timestamp"])
    joined = features_at(store, entities).sort_values(["clip_id", "event_timestamp"], ignore_index=True)
    assert len(joined) == 4
    assert joined["snr_db"].isna().tolist() == [True, False, False, True]
    rates = joined["profile_correction_rate"].tolist()
    assert rates[1:3] == [0.5, 0.25]
    assert pd.isna(rates[0])
    assert pd.isna(rates[3])


def test_a_frame_holds_every_clip_once_sees_no_future_and_is_reproducible(store: Store, clock: ManualClock) -> None:
    made = published(store)
    unmeasured = add_batch(store, "batch-20261102-002", ["unmeasured"])
    version = snapshot(store).dataset_version
    first = build_frame(store, version)
    assert (first.rows, first.unmeasured) == (len(made) + len(unmeasured), len(unmeasured))
    clock.advance(timedelta(days=3))
    report(store, store.now(), words=10, corrected=9)
    measure_day(store, DAY)
    publish(store)
    again = build_frame(store, version)
    known = read_frame(store, version).set_index("clip_id")
    assert again.unmeasured == 0
    assert known["profile_correction_rate"].isna().all(), "what was reported three days later is not in the past"
    assert known.loc[[clip.clip_id for clip in made], "profile_clips"].isna().all()
    assert (known.loc[[clip.clip_id for clip in unmeasured], "profile_clips"] == len(made)).all()
    assert build_frame(store, version).sha256 == again.sha256
    assert frame_difference(store) == 0


def test_the_erased_leave_sources_online_store_and_frames(store: Store, clock: ManualClock) -> None:
    made = published(store)
    version = snapshot(store).dataset_version
    before = build_frame(store, version)
    gone = [clip for clip in made if clip.speaker == "person-2"]
    erase(store, "person-2")
    clock.advance(timedelta(minutes=5))
    summary = publish(store)
    assert (summary.forgotten, summary.frames_rewritten) == (len(gone), 1)
    served = ask(store, made)
    for clip in made:
        assert (served[clip.clip_id]["snr_db"] is None) == (clip in gone)
    frame = read_frame(store, version)
    assert len(frame) == before.rows - len(gone)
    assert not {clip.clip_id for clip in gone} & set(frame["clip_id"])
    for file in store.settings.root.rglob("*"):
        if file.is_file() and (file.suffix == ".parquet" or "online.db" in file.name):
            data = file.read_bytes()
            inside_dataset = "dataset" in file.parts or "dvc-remote" in file.parts
            assert inside_dataset or not any(clip.clip_id.encode() in data for clip in gone), file
    assert frame_difference(store) == 0


class Killed(BaseException):
    """The process ends here."""


def _die(*_arguments: object, **_options: object) -> None:
    raise Killed


def test_the_erased_are_forgotten_though_the_publication_that_notices_is_killed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = published(store)
    erase(store, "person-2")
    with monkeypatch.context() as patch:
        patch.setattr(publishing, "publish_sources", _die)
        with pytest.raises(Killed):
            publish(store)
    assert ask(store, made) == {}, "what may hold the erased is not served"
    publish(store)
    served = ask(store, made)
    assert all((served[clip.clip_id]["snr_db"] is None) == (clip.speaker == "person-2") for clip in made)


@pytest.mark.parametrize("before", [False, True], ids=["first", "later"])
def test_a_publication_killed_while_it_materialises_is_made_up_for_however_old_its_rows(
    store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    if before:
        published(store)
        clock.advance(timedelta(days=5))
    day = store.now().date().isoformat()
    made = add_batch(store, f"batch-{day.replace('-', '')}-002", ["early"])
    measure_day(store, day)
    clock.advance(timedelta(days=5))
    day = store.now().date().isoformat()
    made += add_batch(store, f"batch-{day.replace('-', '')}-001", ["late"])
    measure_day(store, day)
    with monkeypatch.context() as patch:
        patch.setattr("feast.FeatureStore.materialize", _die)
        with pytest.raises(Killed):
            publish(store)
    assert is_published(store) is before
    publish(store)
    assert all(values["snr_db"] is not None for values in ask(store, made).values())
    assert skewed_clips(store) == ()


def test_who_is_erased_while_a_publisher_waits_for_its_turn_is_not_published(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Busy(filelock.FileLock):
        def acquire(self, *arguments: object, **options: object) -> object:
            erase(store, "person-2")
            return super().acquire(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(filelock, "FileLock", Busy)
    made = published(store)
    gone = {clip.clip_id for clip in made if clip.speaker == "person-2"}
    assert not gone & set(pq.read_table(source_folder(store) / "clip_acoustics.parquet")["clip_id"].to_pylist())
    assert {clip for clip, values in ask(store, made).items() if values["snr_db"] is None} == gone


def test_a_changed_frame_is_not_read(store: Store) -> None:
    published(store)
    version = snapshot(store).dataset_version
    with pytest.raises(MissingFrameError, match="missing or changed"):
        read_frame(store, version)
    frame = build_frame(store, version)
    pq.write_table(pq.read_table(frame.path).slice(1), frame.path)
    with pytest.raises(MissingFrameError, match="missing or changed"):
        read_frame(store, version)


def test_sources_have_microsecond_timestamps(store: Store) -> None:
    published(store)
    for name in ("clip_acoustics", "device_profile"):
        schema = pq.read_schema(source_folder(store) / f"{name}.parquet")
        assert str(schema.field("event_timestamp").type) == "timestamp[us, tz=UTC]"


def test_the_feast_command_finds_the_same_definitions_and_the_same_home(store: Store) -> None:
    from feast import FeatureStore
    from feast.repo_operations import parse_repo

    published(store)
    folder = PROJECT_ROOT / "feature_repo"
    parsed = parse_repo(folder)
    assert {view.name for view in parsed.feature_views} == {"clip_acoustics", "device_profile_stats"}
    assert [service.name for service in parsed.feature_services] == [FEATURE_SERVICE]
    assert {Path(source.path).parent for source in parsed.data_sources} == {source_folder(store)}
    assert FeatureStore(repo_path=str(folder)).get_feature_service(FEATURE_SERVICE).name == FEATURE_SERVICE


def test_the_assets_and_their_checks_run(store: Store) -> None:
    add_batch(store, "batch-20261102-001", PEOPLE)
    snapshot(store)
    shell = [assets.feature_store, assets.training_frame, *load_asset_checks_from_modules([checks])]
    with DagsterInstance.ephemeral() as instance:
        measured = materialize([assets.clip_features], instance=instance, resources={"store": store}, partition_key=DAY)
        assert measured.success
        result = materialize(shell, instance=instance, resources={"store": store})
        outcome = {e.check_name: e.passed for e in result.get_asset_check_evaluations()}
        assert outcome == dict.fromkeys(
            ("every_clip_is_measured", "online_equals_offline", "frame_holds_every_clip"), True
        )
    assert store.database.scalar(select(training_frames.c.rows)) == 2 * len(PEOPLE)


def test_the_features_read_from_the_definitions_text_are_those_of_the_service(store: Store) -> None:
    published(store)
    with feature_store(store) as feast_store:
        service = feast_store.get_feature_service(FEATURE_SERVICE)
        served = {field.name: str(field.dtype) for view in service.feature_view_projections for field in view.features}
    assert declared_features() == served
