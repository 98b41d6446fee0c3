"""What Feast knows: entities, feature views and the feature service of voice_pipeline.

`event_timestamp` means "known since" everywhere, so that a point-in-time join never sees what nobody knew yet.
Scalars only; audio stays in the blob store, the acoustic frontend inside the model's graph.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64

from voice_pipeline.settings import load_settings

FEATURE_SERVICE = "clip_features_v1"

clip = Entity(name="clip", join_keys=["clip_id"], value_type=ValueType.STRING, description="One captured clip")
device_profile = Entity(
    name="device_profile",
    join_keys=["device_profile"],
    value_type=ValueType.STRING,
    description="device_class|microphone|locale",
)


def feature_objects(data: Path) -> list[Any]:
    """All Feast objects, with their parquet sources in `data`."""
    acoustics = FeatureView(
        name="clip_acoustics",
        description="Acoustic measures of a clip; speaking rate as soon as there is any text",
        entities=[clip],
        ttl=timedelta(days=3650),
        schema=[
            Field(name="duration_s", dtype=Float64, description="seconds"),
            Field(name="snr_db", dtype=Float64, description="blind estimate, -10 to 60 dB"),
            Field(name="loudness_dbfs", dtype=Float64, description="RMS, dB of full scale"),
            Field(name="clipping", dtype=Float64, description="share of samples at full scale"),
            Field(name="spectral_tilt", dtype=Float64, description="dB an octave, 100-7000 Hz"),
            Field(name="band_low", dtype=Float64, description="energy share below 500 Hz"),
            Field(name="band_mid", dtype=Float64, description="energy share 500-2000 Hz"),
            Field(name="band_high", dtype=Float64, description="energy share above 2000 Hz"),
            Field(name="speaking_rate", dtype=Float64, description="characters a second; empty while no text is known"),
        ],
        source=FileSource(
            name="clip_acoustics_source",
            path=str(data / "clip_acoustics.parquet"),
            timestamp_field="event_timestamp",
        ),
    )
    profiles = FeatureView(
        name="device_profile_stats",
        description="What the last seven days said about a device profile",
        entities=[device_profile],
        ttl=timedelta(days=30),
        schema=[
            Field(name="profile_correction_rate", dtype=Float64, description="corrected words / words"),
            Field(name="profile_fallback_rate", dtype=Float64, description="share of dictations that fell back"),
            Field(name="profile_mean_snr_db", dtype=Float64, description="over dictations and clips"),
            Field(name="profile_dictations", dtype=Int64, description="dictations reported"),
            Field(name="profile_clips", dtype=Int64, description="clips measured"),
        ],
        source=FileSource(
            name="device_profile_source",
            path=str(data / "device_profile.parquet"),
            timestamp_field="event_timestamp",
        ),
    )
    service = FeatureService(
        name=FEATURE_SERVICE,
        description="What triage reads online; training frames join it as of each clip's measurement",
        features=[acoustics, profiles],
        owner="team:speech",
    )
    return [clip, device_profile, acoustics, profiles, service]


_, _, clip_acoustics, device_profile_stats, clip_features_v1 = feature_objects(load_settings().feast_repo / "data")
