"""What `policy/monitoring.yaml` may say: when telemetry is reported on and when a report becomes an incident."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from voice_pipeline.schema.base import Record
from voice_pipeline.schema.policy_file import load_policy
from voice_pipeline.schema.telemetry import DRIFT_FEATURES

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
FILE_NAME = "monitoring.yaml"


class TelemetryPolicy(Record):
    """A day is reported on at `min_events`, then each time it has grown by `growth` or by `step_events`."""

    min_events: Count
    growth: Annotated[float, Field(gt=0, le=10)]
    step_events: Count
    lookback_days: Count


class Floors(Record):
    """Distances below these are of no practical size, however sure one is of them. JS is in bits."""

    psi: Annotated[float, Field(gt=0)]
    ks: Annotated[float, Field(gt=0, le=1)]
    js: Annotated[float, Field(gt=0, le=1)]

    def scaled(self, factor: float) -> Floors:
        return Floors(psi=self.psi * factor, ks=min(1.0, self.ks * factor), js=min(1.0, self.js * factor))


class DriftPolicy(Record):
    """A feature has drifted when all three distances reach their floor AND it passes false-discovery control AND both
    sides are large enough; a window has drifted when `min_features` counted features have.
    """

    min_window_events: Count
    min_reference_clips: Count
    min_devices: Count
    false_discovery_rate: Annotated[float, Field(gt=0, lt=1)]
    floors: Floors
    cohort_floor_factor: Annotated[float, Field(ge=1)]
    min_features: Annotated[int, Field(ge=1, le=len(DRIFT_FEATURES))]
    uncounted: tuple[str, ...] = ()
    clear_share: Annotated[float, Field(gt=0, le=1)]
    clear_reports: Count
    cooldown_hours: Annotated[float, Field(ge=0)]


class ConceptPolicy(Record):
    """Same inputs, worse answers: how much worse, on how much evidence."""

    baseline_events: Count
    min_events: Count
    cells_per_feature: Annotated[int, Field(ge=1, le=10)]
    min_cell_words: Count
    min_coverage: Share
    margin: Share
    calibration_margin: Share
    level: Annotated[float, Field(gt=0.5, lt=1)]
    min_audited_clips: Count
    audited_wer_margin: Share


class QualityPolicy(Record):
    """Limits of the live model in the field."""

    min_events: Count
    max_crash_rate: Share
    max_abandoned_rate: Share
    max_fallback_rate: Share
    max_latency_p95_ms: Annotated[float, Field(gt=0)]
    min_reporting_share: Share
    level: Annotated[float, Field(gt=0.5, lt=1)]


class MonitoringPolicy(Record):
    """The whole file."""

    telemetry: TelemetryPolicy
    drift: DriftPolicy
    concept: ConceptPolicy
    quality: QualityPolicy


def load_monitoring_policy(policy_dir: Path) -> MonitoringPolicy:
    """Raises:
    PolicyError: the file is missing or says something it may not.
    """
    return load_policy(policy_dir / FILE_NAME, MonitoringPolicy)
