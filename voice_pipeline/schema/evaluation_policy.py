"""What `policy/evaluation.yaml` may say: which wake words are judged, and how sure they must be heard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from voice_pipeline.schema.base import Record
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.policy_file import load_policy

FILE_NAME = "evaluation.yaml"

Phrase = Annotated[str, StringConstraints(pattern=r"^[a-z']+(?: [a-z']+)*$")]


class WakeWords(Record):
    """Attributes:
    phrases: lowercase words, single spaces; none means that no wake word is judged.
    required_detection: share of spoken wake words that must be found; the threshold of each phrase is the highest that
        finds so many of the calibration clips, and false alarms are counted at it.
    refractory_s: having fired, a device is deaf for so long; nearer detections count once.
    """

    phrases: tuple[Phrase, ...] = ()
    required_detection: Annotated[float, Field(gt=0, le=1)] = 0.9
    refractory_s: Annotated[float, Field(ge=0)] = 1.0

    @model_validator(mode="after")
    def _distinct(self) -> WakeWords:
        if len(set(self.phrases)) != len(self.phrases):
            raise ValueError("a phrase is named twice")
        return self


class EvaluationPolicy(Record):
    """The whole file."""

    wake_words: WakeWords = WakeWords()

    @property
    def digest(self) -> str:
        """What a report is bound to: another digest, another report."""
        return digest(self)


def load_evaluation_policy(policy_dir: Path) -> EvaluationPolicy:
    """Read `evaluation.yaml` of the policy folder; a folder without one asks for nothing.

    Raises:
        PolicyError: names the file and every key that is wrong.
    """
    path = policy_dir / FILE_NAME
    return load_policy(path, EvaluationPolicy) if path.exists() else EvaluationPolicy()
