"""The rows behind the two feature views, as the catalogue knows them now. Each carries the instant it became known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import Integer, RowMapping, cast, func, select

from voice_pipeline.schema.dataset import ManifestRow
from voice_pipeline.speech.measures import speaking_rate
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clip_features, clips, labels, telemetry

WINDOW_DAYS = 7
ACOUSTICS = (
    *("duration_s", "snr_db", "loudness_dbfs", "clipping"),
    *("spectral_tilt", "band_low", "band_mid", "band_high"),
)


def profile_of(row: RowMapping | ManifestRow) -> str:
    """`device_class|microphone|locale` of a clip."""
    device_class, microphone, locale = (
        (row.device_class, row.microphone, row.locale)
        if isinstance(row, ManifestRow)
        else (row["device_class"], row["microphone"], row["locale"])
    )
    return f"{device_class}|{microphone}|{locale}"


def acoustic_rows(store: Store) -> list[dict[str, Any]]:
    """One row when a clip was measured (speaking rate from the device's hypothesis, if any), one more when its label
    was approved (speaking rate from the transcript). Clips of erased subjects have none.
    """
    joined = clip_features.join(clips, clip_features.c.clip_id == clips.c.clip_id).outerjoin(
        labels, labels.c.clip_id == clips.c.clip_id
    )
    statement = (
        select(clip_features, clips.c.hypothesis, labels.c.text, labels.c.approved_at)
        .select_from(joined)
        .where(clips.c.erased_at.is_(None))
        .order_by(clip_features.c.clip_id)
    )
    rows: list[dict[str, Any]] = []
    for row in store.database.rows(statement):
        known = _instant(row["known_at"])
        versions = {known: _acoustics(row, row["hypothesis"], known)}
        if row["text"]:
            labelled = max(known, _instant(row["approved_at"]))
            versions[labelled] = _acoustics(row, row["text"], labelled)
        rows.extend(versions.values())
    return rows


def profile_rows(store: Store) -> list[dict[str, Any]]:
    """Statistics of each device profile over the seven days that end with a day, known since that day's end.

    A dictation counts on the day its report was received, a clip on the day it was measured: before that nobody knew.
    A day that is not over has no row yet. So what is published once never changes, however late a report comes, and
    frames can be built again; only an erasure takes its clips out of the past too.
    """
    daily: defaultdict[str, dict[date, _Day]] = defaultdict(dict)
    for profile, day, counts in (*_telemetry_days(store), *_clip_days(store)):
        daily[profile][day] = daily[profile].get(day, _Day()).plus(counts)
    today = store.now().astimezone(UTC).date()
    rows = []
    for profile, days in sorted(daily.items()):
        for day in sorted(day for day in days if day < today):
            window = [c for d, c in days.items() if day - timedelta(days=WINDOW_DAYS) < d <= day]
            known = datetime.combine(day + timedelta(days=1), time(), UTC)
            rows.append({"device_profile": profile, "event_timestamp": known, **_statistics(window)})
    return rows


@dataclass(frozen=True)
class _Day:
    """Sums of one profile on one day."""

    dictations: int = 0
    clips: int = 0
    words: int = 0
    corrected: int = 0
    fallbacks: int = 0
    snr_sum: float = 0.0

    def plus(self, other: _Day) -> _Day:
        return _Day(
            dictations=self.dictations + other.dictations,
            clips=self.clips + other.clips,
            words=self.words + other.words,
            corrected=self.corrected + other.corrected,
            fallbacks=self.fallbacks + other.fallbacks,
            snr_sum=self.snr_sum + other.snr_sum,
        )


def _statistics(window: Sequence[_Day]) -> dict[str, Any]:
    total = _Day()
    for day in window:
        total = total.plus(day)
    heard = total.dictations + total.clips
    return {
        "profile_correction_rate": total.corrected / total.words if total.words else None,
        "profile_fallback_rate": total.fallbacks / total.dictations if total.dictations else None,
        "profile_mean_snr_db": total.snr_sum / heard if heard else None,
        "profile_dictations": total.dictations,
        "profile_clips": total.clips,
    }


def _telemetry_days(store: Store) -> Iterator[tuple[str, date, _Day]]:
    event = telemetry.c.event
    day = func.coalesce(func.substr(telemetry.c.received_at, 1, 10), telemetry.c.day)
    profile = [event[("context", name)].as_string() for name in ("device_class", "microphone", "locale")]
    statement = select(
        day.label("day"),
        *(column.label(name) for column, name in zip(profile, ("device_class", "microphone", "locale"), strict=True)),
        func.count().label("n"),
        func.sum(event["words"].as_integer()).label("words"),
        func.sum(event["corrected_words"].as_integer()).label("corrected"),
        func.sum(cast(event["fallback"].as_boolean(), Integer)).label("fallbacks"),
        func.sum(event["snr_db"].as_float()).label("snr"),
    ).group_by(day, *profile)
    for row in store.database.rows(statement):
        counts = _Day(row["n"], 0, row["words"], row["corrected"], row["fallbacks"], row["snr"])
        yield profile_of(row), date.fromisoformat(row["day"]), counts


def _clip_days(store: Store) -> Iterator[tuple[str, date, _Day]]:
    day = func.substr(clip_features.c.known_at, 1, 10)
    profile = (clips.c.device_class, clips.c.microphone, clips.c.locale)
    statement = (
        select(
            day.label("day"),
            *profile,
            func.count().label("n"),
            func.sum(clip_features.c["values"]["snr_db"].as_float()).label("snr"),
        )
        .select_from(clip_features.join(clips, clip_features.c.clip_id == clips.c.clip_id))
        .where(clips.c.erased_at.is_(None))
        .group_by(day, *profile)
    )
    for row in store.database.rows(statement):
        yield profile_of(row), date.fromisoformat(row["day"]), _Day(clips=row["n"], snr_sum=row["snr"])


def _acoustics(row: RowMapping, text: str | None, known: datetime) -> dict[str, Any]:
    values = row["values"]
    rate = speaking_rate(text, values["duration_s"]) if text else None
    measures = {name: values[name] for name in ACOUSTICS}
    return {"clip_id": row["clip_id"], "event_timestamp": known, **measures, "speaking_rate": rate}


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
