"""The likeliest CTC path of a known text (Viterbi, after Graves et al., 2006, §4.1), so that its words get times.

A space at either end of the text, or beside another space, says nothing: it stands there for silence, like the blank.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from voice_pipeline.speech.tokenizer import BLANK, CharTokenizer


def best_path(log_probs: NDArray[np.float32], text: str, tokenizer: CharTokenizer) -> NDArray[np.int64]:
    """One class for each of the T frames, shape (T,): of all paths that say `text`, the likeliest under `log_probs`.

    Args:
        log_probs: shape (T, V), with enough frames for the text and a blank between its repeated letters.
        text: words parted by single spaces, of the tokenizer's alphabet; may be empty.
    """
    labels = np.array(tokenizer.encode(text), dtype=np.int64)
    states = np.full(2 * len(labels) + 1, BLANK)
    states[1::2] = labels
    edge = np.array([True, *(labels == tokenizer.space), True])
    silent = np.zeros(len(states), dtype=bool)
    silent[::2] = edge[:-1] | edge[1:]
    gap = np.where(log_probs[:, tokenizer.space] > log_probs[:, BLANK], tokenizer.space, BLANK)
    emitted = log_probs[:, states].astype(np.float64)
    emitted[:, silent] = log_probs[np.arange(len(gap)), gap][:, None]
    reached = _viterbi(
        emitted, np.array([s > 2 and s % 2 == 1 and states[s] != states[s - 2] for s in range(len(states))])
    )
    return np.where(silent[reached], gap, states[reached])


def _viterbi(emitted: NDArray[np.float64], may_skip: NDArray[np.bool_]) -> NDArray[np.int64]:
    """State of every frame, shape (T,): each stays, goes on by one, or by two where the middle may be skipped."""
    frames, count = emitted.shape
    skipped = np.where(may_skip, 0.0, -np.inf)
    ways = np.full((3, count), -np.inf)
    steps = np.zeros((frames, count), dtype=np.int8)
    ways[0, :2] = emitted[0, :2]
    for frame in range(1, frames):
        ways[1, 1:] = ways[0, :-1]
        ways[2, 2:] = ways[0, :-2] + skipped[2:]
        steps[frame] = ways.argmax(axis=0)
        ways[0] = ways.max(axis=0) + emitted[frame]
    state = count - 1 - int(count > 1 and ways[0, -2] > ways[0, -1])
    reached = np.empty(frames, dtype=np.int64)
    for frame in range(frames - 1, -1, -1):
        reached[frame] = state
        state -= int(steps[frame, state])
    return reached
