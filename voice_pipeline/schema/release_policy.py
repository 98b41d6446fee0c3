"""What `policy/release.yaml` may say. A policy that skips a stage, or jumps to 100 %, does not parse.

All margins are pre-registered here: a figure that decides about devices is in the policy's digest, and every verdict
carries that digest, so evidence gathered under one policy never promotes under another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from voice_pipeline.schema.base import Record
from voice_pipeline.schema.bundle import FORMAT
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.evaluation import SLICE_KINDS
from voice_pipeline.schema.evaluation_policy import Phrase
from voice_pipeline.schema.release import Decision, ReleaseState
from voice_pipeline.schema.slices import slice_problem
from voice_pipeline.schema.training import Preset

FILE_NAME = "release.yaml"
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Minutes = Annotated[float, Field(gt=0, le=30 * 24 * 60)]
"""No rule of a rollout looks further than a month."""

ErrorRate = Annotated[float, Field(gt=0, le=0.2)]
"""The chance of a wrong verdict. ICH E9 (1998, 5.5) asks for 0.025 one-sided; trials that only choose what is tried
next take up to 0.2 (Rubinstein et al., J. Clin. Oncol. 2005), and beyond that a test is no evidence. Of a promotion
that is resumed for ever it doubles: 0.4 at most, rarer than a coin still."""

ErrorMargin = Annotated[float, Field(ge=0, le=0.2)]
"""So much worse may a word error rate be, absolute. One word in five more is another recogniser, not a slightly worse
one."""

UsageMargin = Annotated[float, Field(ge=0, le=0.5)]
"""So much worse may a share of what devices do be, absolute. Beyond a half only a model that fails nearly always could
ever be shown to harm."""

LanguageRange = Annotated[str, StringConstraints(pattern=r"^(?:[A-Za-z]{1,8}(?:-[A-Za-z0-9]{1,8})*|\*)$")]
"""A basic language range (RFC 4647, 2.1): `ar` names `ar` and all its regions and scripts, `*` every language."""
AppVersion = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}(?:\.[0-9]{1,9}){0,2}$")]
"""Up to three dotted numbers; `1.4` is 1.4.0."""
FormatVersion = Annotated[int, Field(ge=1, le=FORMAT)]


def _slice(name: str) -> str:
    if problem := slice_problem(name):
        raise ValueError(problem)
    return name


def _slice_or_kind(name: str) -> str:
    kinds = [f"{one}:" for one in SLICE_KINDS]
    if name not in kinds and (problem := slice_problem(name)):
        raise ValueError(f"{problem}; or name a whole kind of slices: {', '.join(kinds)}")
    return name


SliceName = Annotated[str, AfterValidator(_slice)]
"""`accent:en-gb`: a slice that a suite could have."""
SliceOrKind = Annotated[str, AfterValidator(_slice_or_kind)]
"""`accent:en-gb` is that slice, `accent:` all slices of that kind."""

STAGES: tuple[ReleaseState, ...] = (
    ReleaseState.SHADOW,
    ReleaseState.CANARY_5,
    ReleaseState.CANARY_25,
    ReleaseState.CANARY_50,
)
"""The only way to production, in this order."""

ANYONE = "*"
"""In a list of who may: every person that is enrolled."""

PERSON_WORD = r"[a-z0-9][a-z0-9._-]{0,63}"
"""What a person, and a role, can be called."""


def _person_or_role(name: str) -> str:
    if name != ANYONE and not re.fullmatch(PERSON_WORD, name):
        raise ValueError(
            f"{name!r} can be nobody's name or role; write a small letter or digit, then small letters, digits, "
            f"`.`, `_` or `-`, 64 in all, or {ANYONE!r} for anyone enrolled"
        )
    return name


PersonOrRole = Annotated[str, AfterValidator(_person_or_role)]


class NoisyWerGate(Record):
    """On `slice` the candidate's WER must be relatively lower than the champion's (paired bootstrap by speaker).

    Below 0 the least improvement is the most that noise may cost a model that is wanted for something else: a fifth.
    """

    slice: SliceName
    min_relative_improvement: Annotated[float, Field(ge=-0.2, lt=1)]
    max_probability_worse: ErrorRate


class SliceMarginGate(Record):
    """No slice with at least `min_words` and `min_speakers` may be worse by more than its margin (absolute WER).

    A slice fails only if the lower end of the paired interval at `confidence` lies beyond the margin, so that a
    small slice is not rejected for its noise: the surer it must be, the more goes through, hence 0.99 at most. A slice
    that `margins` names in full must be large enough to be judged, or a person signs off.

    Attributes:
        margins: of single slices (`accent:en-gb`) and of kinds of slices (`accent:`); the slice's own goes first.
        max_regression: the margin of all others.
    """

    max_regression: ErrorMargin
    margins: dict[SliceOrKind, ErrorMargin] = Field(default_factory=dict)
    min_words: Count
    min_speakers: Count
    confidence: Annotated[float, Field(ge=0.5, le=0.99)]

    def margin_of(self, name: str) -> float:
        """The margin of a slice: its own, else that of its kind, else `max_regression`."""
        kind = f"{name.partition(':')[0]}:"
        return self.margins.get(name, self.margins.get(kind, self.max_regression))

    @property
    def named_slices(self) -> tuple[str, ...]:
        """The slices that `margins` names in full."""
        return tuple(sorted(name for name in self.margins if not name.endswith(":")))


class Int8DeltaGate(Record):
    """`|WER int8 - WER float|` on the whole suite (absolute)."""

    max_delta: ErrorMargin


class LatencyGate(Record):
    """p95 of waveform-to-text on one thread, of the int8 network, on every device class; a second is no dictation."""

    max_p95_ms: Annotated[float, Field(gt=0, le=1000)]


class SizeGate(Record):
    """Bytes of the largest network file of the bundle, by encoder preset. A preset without a limit fails."""

    max_bytes: dict[Preset, Count]


class DownloadGate(Record):
    """Bytes of everything that a device fetches: all files of the bundle (both forms of the network, language model,
    golden sounds, cards), its manifest and its signature; by encoder preset. A preset without a limit fails.
    """

    max_bytes: dict[Preset, Count]


class WakeWordGate(Record):
    """Limits for every wake word of `policy/evaluation.yaml`, judged by the 95 % intervals of the int8 model's report.

    An interval wholly beyond a limit fails, one wholly within passes; what straddles it, and a wake word that the suite
    does not cover, asks for a person's sign-off. Without a false alarm the upper end is 3.7 over the hours of audio, so
    a limit of 1 an hour needs about 3.7 hours.

    Attributes:
        may_be_uncovered: wake words that no product answers to: a suite in which nobody says them asks nobody. They are
            judged like all others where there is a figure.
    """

    max_false_alarms_per_hour: Annotated[float, Field(gt=0, le=60)]
    min_detection_rate: Annotated[float, Field(ge=0.5, lt=1)]
    may_be_uncovered: tuple[Phrase, ...] = ()


class CoverageGate(Record):
    """Less evidence than this, or a suite with a sensitive locale, does not reject: it asks for a person's sign-off.

    `sensitive_locales` are language ranges. While there is one, a clip that does not tell its locale counts too.
    """

    min_clips: Count
    min_speakers: Count
    min_words: Count
    required_slices: tuple[SliceName, ...]
    sensitive_locales: tuple[LanguageRange, ...] = ()


class Gates(Record):
    """What a bundle must show before any device hears of it; the bundle's integrity is always checked besides.

    Attributes:
        max_age_days: a verdict that is older counts for nothing; a quarter at most, for fleets and suites change.
    """

    noisy_wer_improvement: NoisyWerGate
    slice_margins: SliceMarginGate
    int8_delta: Int8DeltaGate
    latency: LatencyGate
    size: SizeGate
    download: DownloadGate
    wake_words: WakeWordGate
    coverage: CoverageGate
    max_age_days: Annotated[float, Field(gt=0, le=92)]
    bootstrap_samples: Annotated[int, Field(ge=200, le=100_000)]

    @classmethod
    def names(cls) -> frozenset[str]:
        """The gates that have rules here: all but the bundle's integrity."""
        kinds = {name: field.annotation for name, field in cls.model_fields.items()}
        return frozenset(name for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Record))


class Stage(Record):
    """Least time and least sample of a stage, and the non-inferiority margin of its promotion test.

    Looks at the data are spaced by `min_minutes`; after `max_looks` without a pass the release is held.

    Attributes:
        silence_margin: a look must show that not so many more of the candidate's devices are silent, of those active
            before the stage. A stage with too few devices to show it has none (a device is one trial; some 60 show
            0.2 where few are silent in any case); harm is looked for in any case. Where there is one, `min_minutes`
            are no less than lease and `silence_minutes` together: who has not taken the candidate yet, or not been
            quiet for long enough, is not silent.
    """

    state: ReleaseState
    min_minutes: Minutes
    min_devices: Count
    min_events: Count
    noninferiority_margin: Annotated[UsageMargin, Field(gt=0)]
    silence_margin: Annotated[UsageMargin, Field(gt=0)] | None = None


class Shadow(Record):
    """Share of devices that run the candidate silently beside the live model; the others are what harm is told by."""

    device_percent: Annotated[float, Field(gt=0, le=90)]


class Promotion(Record):
    """The promotion test: one-sided, by device, `alpha` spent over `max_looks` looks a stage."""

    alpha: ErrorRate
    max_looks: Annotated[int, Field(ge=1, le=50)]
    max_latency_ratio: Annotated[float, Field(ge=1, le=5)]


class Guardrails(Record):
    """Margins on the share of a device's dictations, for harm and for promotion.

    `alpha` is the error budget of a rollout: the chance that a harmless model is ever rolled back.

    Attributes:
        dictations_per_device: a device speaks once a stage in the test, when it has sent this many dictations.
        slow_ratio: a dictation is slow when its real-time factor (latency / duration) exceeds this multiple of the
            live model's p95 on the same device class.
        correction_rate: share of words that the user changed.
        failure: share of dictations that failed in any way: crashed, abandoned or fallen back.
        silence: share of devices, active before or heard in the stage, that say nothing for `silence_minutes`.
        silence_minutes: how long silence must last.
    """

    alpha: ErrorRate
    dictations_per_device: Count
    slow_ratio: Annotated[float, Field(ge=1, le=5)]
    correction_rate: UsageMargin
    slow: UsageMargin
    crash: UsageMargin
    abandonment: UsageMargin
    fallback: UsageMargin
    failure: UsageMargin
    silence: UsageMargin
    silence_minutes: Minutes


class TelemetryRules(Record):
    """When telemetry is too bad to conclude anything: INVALID, never a pass.

    Attributes:
        active_minutes: devices heard this long before a stage are those expected in it; those heard so
            long before the rollout are also the live model's reference for latency and each device's baseline.
        stale_minutes: newest event of either arm may be this old.
        min_reporting_share: active devices of the candidate's arm, relative to those of the control arm.
        min_heard_share: devices heard within `stale_minutes`, of those that were active before the stage, in each arm.
        hold_after_minutes: a stage in which nothing was concluded for so long is held for a person.
        sample_ratio_p: below this chi-square p-value the split of devices is not the one that was assigned: beyond 0.05
            sound stages too would often count for nothing, below a millionth a broken split would count.
    """

    active_minutes: Minutes
    stale_minutes: Minutes
    min_reporting_share: Annotated[Share, Field(ge=0.5)]
    min_heard_share: Annotated[Share, Field(ge=0.1)]
    hold_after_minutes: Minutes
    sample_ratio_p: Annotated[float, Field(ge=1e-6, le=0.05)]


class Compatibility(Record):
    """The upper end of the range of apps that run a bundle; the lower end is the bundle's own `min_app_version`.

    Attributes:
        last_app_of_format: by the format number of bundle manifests, the last app version that still reads it. A
            format that is not named is read by every later app.
    """

    last_app_of_format: dict[FormatVersion, AppVersion] = Field(default_factory=dict)


class ReleasePolicy(Record):
    """All of `policy/release.yaml`.

    Attributes:
        authority: names or roles of enrolled people that may make each decision; overriding is said gate by gate.
        overrides: names or roles of enrolled people that may override each gate; a gate that is not there can not be.
        people: names or roles of enrolled people that may enrol and remove others.
    """

    version: Count
    owner: str
    gates: Gates
    shadow: Shadow
    stages: tuple[Stage, ...]
    promotion: Promotion
    guardrails: Guardrails
    telemetry: TelemetryRules
    lease_seconds: Annotated[int, Field(ge=1, le=7 * 24 * 3600)]
    compatibility: Compatibility
    authority: dict[Decision, tuple[PersonOrRole, ...]]
    overrides: dict[str, tuple[PersonOrRole, ...]]
    people: Annotated[tuple[PersonOrRole, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _whole_way(self) -> ReleasePolicy:
        if tuple(stage.state for stage in self.stages) != STAGES:
            wanted = ", ".join(STAGES)
            raise ValueError(f"stages must be exactly {wanted}, in this order: no stage can be skipped")
        if Decision.OVERRIDE in self.authority:
            raise ValueError("who may override is said gate by gate, under overrides, not under authority")
        if missing := set(Decision) - {Decision.OVERRIDE} - set(self.authority):
            raise ValueError(f"authority does not say who may: {', '.join(sorted(missing))}")
        if unknown := set(self.overrides) - Gates.names():
            names = ", ".join(sorted(Gates.names()))
            raise ValueError(
                f"overrides: {', '.join(sorted(unknown))} cannot be overridden; gates that can are: {names}"
            )
        if contradictions := list(self._contradictions()):
            raise ValueError("; ".join(contradictions))
        return self

    def _contradictions(self) -> Iterator[str]:
        """Times that do not go together: a stage in which nothing is concluded ends in a hold; and before devices took
        the candidate and could have been quiet for long enough, no look tells who is silent.
        """
        held = self.telemetry.hold_after_minutes
        waits = {f"stages.{stage.state}.min_minutes": stage.min_minutes for stage in self.stages}
        waits["telemetry.stale_minutes"] = self.telemetry.stale_minutes
        waits["guardrails.silence_minutes"] = self.guardrails.silence_minutes
        for key, minutes in waits.items():
            if minutes > held:
                yield (
                    f"{key} is {minutes:g}, but telemetry.hold_after_minutes holds a stage after {held:g}: "
                    f"make it {held:g} or less, or hold later"
                )
        told = self.lease_seconds / 60 + self.guardrails.silence_minutes
        for stage in self.stages:
            if stage.silence_margin is not None and stage.min_minutes < told:
                yield (
                    f"stages.{stage.state}.min_minutes is {stage.min_minutes:g}, but silence cannot be told before "
                    f"{told:g} (lease_seconds / 60 + guardrails.silence_minutes): make it {told:g} or more, or leave "
                    "out the stage's silence_margin"
                )

    @property
    def digest(self) -> str:
        """Binds verdicts and analyses to exactly these rules."""
        return digest(self)

    def stage(self, state: ReleaseState) -> Stage:
        """The rules of a stage."""
        return next(stage for stage in self.stages if stage.state is state)

    def named(self, decision: Decision, gate: str | None = None) -> tuple[str, ...]:
        """Names and roles that may make this decision; of an override, those that may override `gate`."""
        return self.overrides.get(gate or "", ()) if decision is Decision.OVERRIDE else self.authority[decision]

    def said(self, decision: Decision, gate: str | None = None) -> str:
        """The same in words."""
        named = self.named(decision, gate)
        return "anyone enrolled" if ANYONE in named else " or ".join(named) or "nobody"

    def may(self, name: str, role: str, decision: Decision, gate: str | None = None) -> bool:
        """Whether the enrolled person `name`, whose role is `role`, is named for it."""
        return bool({name, role, ANYONE} & set(self.named(decision, gate)))

    def may_enrol(self, name: str, role: str) -> bool:
        """Whether the enrolled person `name`, whose role is `role`, may enrol and remove others."""
        return bool({name, role, ANYONE} & set(self.people))
