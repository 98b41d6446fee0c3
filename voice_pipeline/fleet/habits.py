"""What people do with an answer: they notice and correct a wrong word with probability 0.95, and give a dictation up
more easily the worse it is; what a device does with one: it offers those that it doubts, or that were corrected.
"""

from __future__ import annotations

import random

from voice_pipeline.fleet.answers import Answer
from voice_pipeline.schema.clip import FailureMode

CORRECTION_PROBABILITY = 0.95
ABANDON_RATE = 0.01
ABANDON_RATE_AT_WORST = 0.10
LOW_CONFIDENCE = 0.7


def corrected_words(answer: Answer, rng: random.Random) -> int:
    """Words the user changes; insertions can be more than the words said, what is changed cannot."""
    noticed = sum(rng.random() < CORRECTION_PROBABILITY for _ in range(answer.errors))
    return min(noticed, answer.words)


def abandonment(answer: Answer) -> float:
    wrong = min(1.0, answer.errors / max(1, answer.words))
    return ABANDON_RATE + (ABANDON_RATE_AT_WORST - ABANDON_RATE) * wrong


def failure_mode(answer: Answer) -> FailureMode:
    """Why a device would offer a clip."""
    if answer.confidence < LOW_CONFIDENCE:
        return FailureMode.LOW_CONFIDENCE
    return FailureMode.USER_CORRECTED if answer.errors else FailureMode.NONE
