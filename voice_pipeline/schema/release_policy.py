"""What `policy/release.yaml` may say. A policy that skips a stage, or jumps to 100 %, does not parse.

All margins are pre-registered here: a figure that decides about devices is in the policy's digest, and every verdict
carries that digest, so evidence gathered under one policy never promotes under another.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from voice_pipeline.schema.base import Record
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.release import Decision, ReleaseState
from voice_pipeline.schema.training import Preset

FILE_NAME = "release.yaml"
Share = Annotated[float, Field(ge=0, le=1)]
Probability = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Minutes = Annotated[float, Field(gt=0)]

STAGES: tuple[ReleaseState, ...] = (
    ReleaseState.SHADOW,
    ReleaseState.CANARY_5,
    ReleaseState.CANARY_25,
    ReleaseState.CANARY_50,
)
"""The only way to production, in this order."""

ANYONE = "*"


class NoisyWerGate(Record):
    """On `slice` the candidate's WER must be relatively lower than the champion's (paired bootstrap by speaker)."""

    slice: str
    min_relative_improvement: Annotated[float, Field(gt=-1, lt=1)]
    max_probability_worse: Probability


class SliceMarginGate(Record):
    """No slice with at least `min_words` and `min_speakers` may be worse by more than `max_regression` (absolute WER).

    A slice fails only if the lower end of the paired interval at `confidence` lies beyond the margin, so that a
    small slice is not rejected for its noise.
    """

    max_regression: Share
    min_words: Count
    min_speakers: Count
    confidence: Probability


class Int8DeltaGate(Record):
    """`|WER int8 - WER float|` on the whole suite (absolute)."""

    max_delta: Share


class LatencyGate(Record):
    """p95 of waveform-to-text on one thread, of the int8 network, on every device class."""

    max_p95_ms: Annotated[float, Field(gt=0)]


class SizeGate(Record):
    """Bytes of the largest network file of the bundle, by encoder preset. A preset without a limit fails."""

    max_bytes: dict[Preset, Count]


class DownloadGate(Record):
    """Bytes of everything that a device fetches: all files of the bundle (both forms of the network, language model,
    golden sounds, cards), its manifest and its signature; by encoder preset. A preset without a limit fails.
    """

    max_bytes: dict[Preset, Count]


class CoverageGate(Record):
    """Less evidence than this, or a suite with a sensitive locale, does not reject: it asks for a person's sign-off."""

    min_clips: Count
    min_speakers: Count
    min_words: Count
    required_slices: tuple[str, ...]
    sensitive_locales: tuple[str, ...] = ()


class Gates(Record):
    """What a bundle must show before any device hears of it; the bundle's integrity is always checked besides."""

    noisy_wer_improvement: NoisyWerGate
    slice_margins: SliceMarginGate
    int8_delta: Int8DeltaGate
    latency: LatencyGate
    size: SizeGate
    download: DownloadGate
    coverage: CoverageGate
    max_age_days: Annotated[float, Field(gt=0)]
    bootstrap_samples: Annotated[int, Field(ge=200)]


class Stage(Record):
    """Least time and least sample of a stage, and the non-inferiority margin of its promotion test.

    Looks at the data are spaced by `min_minutes`; after `max_looks` without a pass the release is held.
    """

    state: ReleaseState
    min_minutes: Minutes
    min_devices: Count
    min_events: Count
    noninferiority_margin: Probability


class Shadow(Record):
    """Share of devices that run the candidate silently beside the live model."""

    device_percent: Annotated[float, Field(gt=0, le=100)]


class Promotion(Record):
    """The promotion test: one-sided, by device, at `alpha` split over `max_looks` looks a stage."""

    alpha: Probability
    max_looks: Count
    max_latency_ratio: Annotated[float, Field(ge=1)]


class Guardrails(Record):
    """The harm test: margins on the share of a device's dictations, at a common error budget `alpha` a rollout.

    Attributes:
        dictations_per_device: a device speaks once a stage in the test, when it has sent this many dictations.
        slow_ratio: a dictation is slow when its real-time factor (latency / duration) exceeds this multiple of the
            live model's p95 on the same device class.
        correction_rate: share of words that the user changed.
        silence: share of devices heard shortly before the stage that fall silent in it.
        silence_minutes: how long silence must last.
    """

    alpha: Probability
    dictations_per_device: Count
    slow_ratio: Annotated[float, Field(ge=1)]
    correction_rate: Share
    slow: Share
    crash: Share
    abandonment: Share
    fallback: Share
    silence: Share
    silence_minutes: Minutes


class TelemetryRules(Record):
    """When telemetry is too bad to conclude anything: INVALID, never a pass.

    Attributes:
        active_minutes: devices heard this long before a stage are those expected in it; also the live model's
            reference for latency and each device's baseline.
        stale_minutes: newest event of either arm may be this old.
        min_reporting_share: active devices of the candidate's arm, relative to those of the control arm.
        sample_ratio_p: below this chi-square p-value the split of devices is not the one that was assigned.
    """

    active_minutes: Minutes
    stale_minutes: Minutes
    min_reporting_share: Share
    sample_ratio_p: Probability


class ReleasePolicy(Record):
    """All of `policy/release.yaml`."""

    version: Count
    owner: str
    gates: Gates
    shadow: Shadow
    stages: tuple[Stage, ...]
    promotion: Promotion
    guardrails: Guardrails
    telemetry: TelemetryRules
    lease_seconds: Count
    authority: dict[Decision, tuple[str, ...]]

    @model_validator(mode="after")
    def _whole_way(self) -> ReleasePolicy:
        if tuple(stage.state for stage in self.stages) != STAGES:
            wanted = ", ".join(STAGES)
            raise ValueError(f"stages must be exactly {wanted}, in this order: no stage can be skipped")
        if set(self.authority) != set(Decision):
            missing = ", ".join(sorted(set(Decision) - set(self.authority)))
            raise ValueError(f"authority does not say who may: {missing}")
        return self

    @property
    def digest(self) -> str:
        """Binds verdicts and analyses to exactly these rules."""
        return digest(self)

    def stage(self, state: ReleaseState) -> Stage:
        """The rules of a stage."""
        return next(stage for stage in self.stages if stage.state is state)

    def may(self, actor: str, decision: Decision) -> bool:
        """Whether `actor` is named for `decision`."""
        named = self.authority[decision]
        return ANYONE in named or actor in named
