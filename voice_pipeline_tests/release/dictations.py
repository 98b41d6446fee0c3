"""What devices of the small world are and send: how a model does on them, and one event as the edge stores it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from voice_pipeline.schema.clip import DeviceClass, Microphone

CLASSES = tuple(DeviceClass)
APP = "1.2.0"
ACOUSTICS = {"duration_s": 2.0, "snr_db": 20, "loudness_dbfs": -20, "clipping": 0, "speaking_rate": 10}
ACOUSTICS |= {"spectral_tilt": -3, "band_low": 0.3, "band_mid": 0.4, "band_high": 0.3}


@dataclass
class Behaviour:
    """How a model does on devices: share of words corrected, latency on a clip of two seconds (others in proportion),
    crash share, on some apps another; `silent` devices report nothing.
    """

    correction: float = 0.2
    latency_ms: float = 20.0
    crash: float = 0.0
    crash_on: Mapping[str, float] = field(default_factory=dict)
    silent: bool = False


def context(number: int, app: str) -> dict:
    microphone = Microphone.BUILT_IN.value
    return {"device_class": CLASSES[number % 4].value, "os": "android", "app_version": app, "microphone": microphone}


def telemetry_row(event: dict) -> dict:
    columns = {name: event[name] for name in ("event_id", "at", "device_id", "model_version", "release_id")}
    return {**columns, "day": event["at"][:10], "event": event}
