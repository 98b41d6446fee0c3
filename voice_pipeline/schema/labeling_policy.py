"""What `policy/labeling.yaml` may say: how clips are routed, how many people look at, and when a batch closes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from voice_pipeline.schema.alphabet import LOWERCASE, Alphabet
from voice_pipeline.schema.base import Record
from voice_pipeline.schema.policy_file import load_policy

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
FILE_NAME = "labeling.yaml"


class RoutingRules(Record):
    """Thresholds of the routes. Confidence is the calibrated probability ([0, 1]) that the hypothesis is right.

    `novel_below_clips`: an accent or cohort with fewer labelled clips than this counts as under-represented.
    """

    accept_above_confidence: Share = 0.97
    reject_below_loudness_dbfs: float = -65.0
    reject_below_duration_s: Annotated[float, Field(ge=0)] = 0.1
    reject_above_clipping: Share = 0.3
    augment_below_snr_db: float = -3.0
    novel_below_clips: Count = 40
    phonetic_above_unknown_words: Share = 0.3


class PriorityWeights(Record):
    """How much each reason adds to the priority of a clip; the sum is scaled to [0, 1]."""

    uncertainty: Annotated[float, Field(ge=0)] = 3.0
    disagreement: Annotated[float, Field(ge=0)] = 2.0
    novel_accent: Annotated[float, Field(ge=0)] = 1.0
    novel_vocabulary: Annotated[float, Field(ge=0)] = 1.0
    noise: Annotated[float, Field(ge=0)] = 1.0
    cohort: Annotated[float, Field(ge=0)] = 1.0

    @model_validator(mode="after")
    def _some_weight(self) -> PriorityWeights:
        if not any(self.model_dump().values()):
            raise ValueError("at least one priority weight must be above 0")
        return self


class Budget(Record):
    """How many clips of one capture day people may be asked about, the audit stream apart.

    `imports_per_day` is for clips that no machine has heard yet, `captures_per_day` for what devices sent with a
    hypothesis, `incident_per_day` replaces the latter on days within `incident_lookback_days` of an open incident
    that asks for labels. `audit_share` (at least 1 %) of all usable clips is always drawn, whatever their score.
    """

    imports_per_day: Count = 1000
    captures_per_day: Count = 40
    incident_per_day: Count = 800
    incident_lookback_days: Count = 7
    audit_share: Annotated[float, Field(ge=0.01, le=1)] = 0.02


class ReviewRules(Record):
    """How answers are checked. Shares are of clips, drawn from `seed` and the clip id.

    A clip gets a blind second pass at random (`second_pass_share`), when the device was unsure
    (`second_pass_below_confidence`), when the answer is far from the hypothesis (`second_pass_above_distance`, word
    edits over words), when the first reviewer found it unintelligible, or when that reviewer's gold items went badly.
    """

    second_pass_share: Share = 0.1
    second_pass_below_confidence: Share = 0.3
    second_pass_above_distance: Annotated[float, Field(ge=0)] = 0.8
    hidden_preview_share: Share = 0.2
    gold_share: Share = 0.02
    gold_min_items: Annotated[int, Field(ge=1)] = 5
    gold_max_wer: Share = 0.2
    deadline_hours: Annotated[float, Field(gt=0)] = 72
    lease_minutes: Annotated[float, Field(gt=0)] = 15
    min_agreement: Share = 0.6


class BatchRules(Record):
    """When labels close into a batch: nobody is still asked and at least `min_clips` wait (`incident_min_clips` where
    an incident asked for them), or `close_at_clips` wait whatever is open."""

    min_clips: Annotated[int, Field(ge=1)] = 25
    incident_min_clips: Annotated[int, Field(ge=1)] = 10
    close_at_clips: Annotated[int, Field(ge=1)] = 2000


class LabelingPolicy(Record):
    """The whole file. Draws are deterministic: the same policy and clips give the same selection.

    `alphabet`: `lowercase`, `cased_punctuated`, or the characters themselves (`schema.alphabet`). Labels made from now
    on are written in it; a dataset version takes labels of this alphabet only.
    """

    seed: int = 11
    alphabet: Alphabet = LOWERCASE
    routing: RoutingRules = RoutingRules()
    priority: PriorityWeights = PriorityWeights()
    budget: Budget = Budget()
    review: ReviewRules = ReviewRules()
    batch: BatchRules = BatchRules()


def load_labeling_policy(policy_dir: Path) -> LabelingPolicy:
    """Read `labeling.yaml` of the policy folder.

    Raises:
        PolicyError: names the file and every key that is wrong.
    """
    return load_policy(policy_dir / FILE_NAME, LabelingPolicy)
