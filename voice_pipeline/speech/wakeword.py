"""Keyword spotting on CTC posteriors: how surely a phrase was said, without decoding, at every frame.

A window of frames is scored by its best CTC path that spells the phrase, minus the free path (the best class of every
frame), per character of the phrase: 0 where greedy decoding itself spells the phrase, negative elsewhere. The score of
a frame is that of the best window that ends there. Keyword against free path is the classic likelihood ratio of filler
models; on character CTC: Hwang et al., 2015, "Online keyword spotting with a character-level recurrent neural network"
(arXiv:1512.08903); Lengerich and Hannun, 2016, "An end-to-end architecture for keyword spotting and voice activity
detection" (arXiv:1611.09405), who sum over paths where this takes the best.

Over all windows at once that is one Viterbi pass whose first state may be entered anywhere for nothing. Each state is
computed for all frames together: with E the running sum of its emissions and e_t what enters it, the best score of
being there is E_t + max over the last L frames u of (e_u - E_{u-1}), a sliding maximum. L bounds how long a character
or the pause behind it may last: else letters scattered over minutes would make a phrase. Only numpy: fit for a device.

A phrase is also found inside longer words ("computer" in "computers"): there is no model of word boundaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from voice_pipeline.speech.errors import TokenizerError
from voice_pipeline.speech.normalise import plain
from voice_pipeline.speech.tokenizer import BLANK, CharTokenizer

FLOOR = -30.0
"""Least log-ratio that one frame may cost, so that one frame never decides alone; exp(-30) is 1e-13."""

LONGEST_STAY_S = 0.5
"""How long a character, or the pause behind it, may last in seconds."""

Classes = tuple[tuple[int, ...], ...]
"""For each character of a phrase the classes that stand for it: in a cased alphabet two, else one."""


def phrase_classes(phrase: str, tokenizer: CharTokenizer) -> Classes:
    """Classes of the characters of `phrase`, in any case that the alphabet holds.

    Raises:
        TokenizerError: the phrase has no word, or a character that the alphabet lacks.
    """
    words = plain(phrase)
    found = tuple(
        tuple(i for i, known in enumerate(tokenizer.alphabet, start=1) if known.casefold() == character)
        for character in words
    )
    if not words or not all(found):
        raise TokenizerError(
            f"phrase {phrase!r} cannot be spelled in alphabet {tokenizer.alphabet!r}; write it in words"
        )
    return found


def spot(log_probs: NDArray[np.float32], phrase: Classes, longest_stay: int) -> NDArray[np.float64]:
    """Score of the best window ending at each frame, -inf where none can end.

    Args:
        log_probs: shape (T, V), T ≥ 1.
        phrase: as `phrase_classes` gives.
        longest_stay: frames that a character, or the blank between two, may last; at least 1.

    Returns:
        Shape (T,), log-likelihood ratio per character, at most 0.
    """
    margins = np.maximum(log_probs.astype(np.float64) - log_probs.max(axis=1, keepdims=True), FLOOR)
    blank = margins[:, BLANK]
    said = _stay(np.zeros(len(margins)), margins[:, list(phrase[0])].max(axis=1), longest_stay)
    for before, character in pairwise(phrase):
        paused = _stay(_later(said), blank, longest_stay)
        entering = paused if before == character else np.maximum(said, paused)
        said = _stay(_later(entering), margins[:, list(character)].max(axis=1), longest_stay)
    return np.asarray(said / len(phrase), dtype=np.float64)


def detections(scores: NDArray[np.float64], threshold: float, refractory: int) -> list[int]:
    """Frames at which a device would fire: `threshold` is reached, and none fired in the `refractory` frames before."""
    fired: list[int] = []
    for frame in np.flatnonzero(scores >= threshold).tolist():
        if not fired or frame - fired[-1] > refractory:
            fired.append(frame)
    return fired


def operating_threshold(best_scores: Sequence[float], detection_rate: float) -> float:
    """The highest threshold that finds at least `detection_rate` (in (0, 1]) of clips with these best scores.

    Args:
        best_scores: the highest score of each clip that holds the phrase; at least one.
    """
    ordered = np.sort(np.asarray(best_scores, dtype=np.float64))[::-1]
    needed = int(np.ceil(detection_rate * len(ordered) - 1e-9))
    return float(ordered[max(needed, 1) - 1])


def _stay(entering: NDArray[np.float64], emitted: NDArray[np.float64], longest: int) -> NDArray[np.float64]:
    """Best score of being in a state at each frame, entered with `entering` there or < `longest` frames before."""
    total = np.cumsum(emitted)
    gained = np.concatenate((np.full(longest - 1, -np.inf), entering - (total - emitted)))
    return np.asarray(total + np.lib.stride_tricks.sliding_window_view(gained, longest).max(axis=1), dtype=np.float64)


def _later(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """What can be entered at each frame: the score one frame earlier."""
    return np.concatenate(([-np.inf], scores[:-1]))
