"""Where one clip goes and how much its label would teach: pure rules over what is known of the clip.

The score follows uncertainty sampling (Settles, 2009, "Active learning literature survey", §3.1) with bonuses for
what the labels so far do not cover: accents, cohorts, words, noise. Every reason that counted is named, so a
reviewer or an auditor can read why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from voice_pipeline.schema.clip import FailureMode
from voice_pipeline.schema.consent import Scope
from voice_pipeline.schema.labeling import Route
from voice_pipeline.schema.labeling_policy import LabelingPolicy, PriorityWeights, RoutingRules
from voice_pipeline.speech.normalise import plain

REVIEWED_ROUTES = frozenset({Route.TRANSCRIPTION_QA, Route.ACCENT_REVIEW, Route.PHONETIC_REVIEW})
"""Routes whose clips compete for the labelling budget; of the others only the audit stream draws."""

QUIET_SNR_DB = 25.0


@dataclass(frozen=True)
class Signals:
    """What the feature store says online about a clip and its device profile; None where it does not know (yet).

    `confidence` is that of the hypothesis, computed from these features and what the device told of its posteriors.
    """

    snr_db: float | None = None
    loudness_dbfs: float | None = None
    clipping: float | None = None
    correction_rate: float | None = None
    confidence: float | None = None


@dataclass(frozen=True)
class Candidate:
    """One clip as triage sees it. `scopes` are those of a consent still in force; empty when it was revoked.

    `selected`, `in_budget` (by the budget, not only by the audit stream) and `inclusion_probability` are what earlier
    draws gave it. `confidence` is the computed one, else the device's; `misreported` that the device claims another.
    """

    clip_id: str
    capture_date: str
    content_sha256: str
    received_at: str
    duration_s: float
    cohort: str
    accent: str
    failure_mode: str
    hypothesis: str | None
    confidence: float | None
    scopes: frozenset[str]
    signals: Signals = field(default_factory=Signals)
    selected: bool = False
    in_budget: bool = False
    inclusion_probability: float = 0.0
    misreported: bool = False

    @property
    def heard(self) -> bool:
        """Has a machine transcribed it?"""
        return self.hypothesis is not None

    @property
    def reviewable(self) -> bool:
        """May a person listen to it at all?"""
        return Scope.TRANSCRIBE_REVIEW.value in self.scopes


@dataclass(frozen=True)
class Coverage:
    """What labels exist already: labelled clips by accent and by cohort, and every word they contain."""

    accents: Mapping[str, int] = field(default_factory=dict)
    cohorts: Mapping[str, int] = field(default_factory=dict)
    vocabulary: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Routed:
    """`priority` in [0, 1]; `auditable` clips can be drawn by the audit stream whatever their route."""

    route: Route
    priority: float
    reasons: tuple[str, ...]

    @property
    def auditable(self) -> bool:
        return self.route is not Route.DUPLICATE and "no_review_consent" not in self.reasons

    @property
    def reviewed(self) -> bool:
        return self.route in REVIEWED_ROUTES


def route(policy: LabelingPolicy, clip: Candidate, coverage: Coverage, duplicate_of: str | None) -> Routed:
    """Route one clip. `duplicate_of` is the clip that carries the same samples and stands for both."""
    if not clip.reviewable:
        return Routed(Route.REJECT, 0.0, ("no_review_consent",))
    if duplicate_of is not None:
        return Routed(Route.DUPLICATE, 0.0, (f"duplicate_of:{duplicate_of}",))
    unusable = _unusable(policy.routing, clip)
    if unusable:
        return Routed(Route.REJECT, 0.0, (unusable,))
    if clip.signals.snr_db is not None and clip.signals.snr_db < policy.routing.augment_below_snr_db:
        return Routed(Route.AUGMENT, 0.0, ("too_noisy_to_transcribe",))
    parts = _parts(policy.routing, clip, coverage)
    priority = _score(policy.priority, parts)
    reasons = tuple(name for name, value in parts.items() if value >= 0.5)
    if clip.hypothesis is None:
        return Routed(Route.TRANSCRIPTION_QA, priority, ("no_hypothesis", *reasons))
    sure = clip.confidence is not None and clip.confidence >= policy.routing.accept_above_confidence
    if sure and clip.failure_mode == FailureMode.NONE.value:
        return Routed(Route.ACCEPT, priority, ("confident", *reasons))
    if clip.accent and parts["novel_accent"] >= 0.5:
        return Routed(Route.ACCENT_REVIEW, priority, reasons)
    if parts["novel_vocabulary"] >= policy.routing.phonetic_above_unknown_words:
        return Routed(Route.PHONETIC_REVIEW, priority, ("unknown_words", *reasons))
    return Routed(Route.TRANSCRIPTION_QA, priority, reasons or ("unsure",))


def _unusable(rules: RoutingRules, clip: Candidate) -> str | None:
    loudness, clipping = clip.signals.loudness_dbfs, clip.signals.clipping
    if clip.duration_s < rules.reject_below_duration_s:
        return "too_short"
    if loudness is not None and loudness < rules.reject_below_loudness_dbfs:
        return "silent"
    if clipping is not None and clipping > rules.reject_above_clipping:
        return "clipped"
    return None


def _parts(rules: RoutingRules, clip: Candidate, coverage: Coverage) -> dict[str, float]:
    """Each reason's strength in [0, 1]."""
    words = plain(clip.hypothesis or "").split()
    unknown = sum(word not in coverage.vocabulary for word in words) / len(words) if words else 0.0
    corrected = 1.0 if clip.failure_mode == FailureMode.USER_CORRECTED.value else (clip.signals.correction_rate or 0.0)
    snr = clip.signals.snr_db
    return {
        "uncertainty": 1.0 - clip.confidence if clip.confidence is not None else 1.0,
        "disagreement": min(1.0, corrected),
        "novel_accent": _rarity(coverage.accents.get(clip.accent, 0), rules.novel_below_clips) if clip.accent else 0.0,
        "novel_vocabulary": unknown,
        "noise": 0.0 if snr is None else min(1.0, max(0.0, 1.0 - snr / QUIET_SNR_DB)),
        "cohort": _rarity(coverage.cohorts.get(clip.cohort, 0), rules.novel_below_clips),
    }


def _rarity(labelled: int, enough: int) -> float:
    return max(0.0, 1.0 - labelled / enough) if enough else 0.0


def _score(weights: PriorityWeights, parts: Mapping[str, float]) -> float:
    table = weights.model_dump()
    return sum(table[name] * value for name, value in parts.items()) / sum(table.values())


def originals(clips: Iterable[Candidate]) -> dict[str, str]:
    """content_sha256 → the clip that stands for all with the same samples: one already selected for review, else the
    first received. Clips nobody may listen to never stand for others."""
    first: dict[str, str] = {}
    for clip in sorted(clips, key=lambda c: (not c.selected, c.received_at, c.clip_id)):
        if clip.reviewable:
            first.setdefault(clip.content_sha256, clip.clip_id)
    return first
