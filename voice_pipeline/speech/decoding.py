"""From one class a frame to words with times: repeats collapsed, blanks removed (CTC; Graves et al., 2006, §3.2).

Greedy decoding takes the best class of every frame. `beam` finds better texts, and reads its words off the same way.
Only numpy, so that a device decodes exactly as the pipeline does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voice_pipeline.speech.ctc import log_likelihood
from voice_pipeline.speech.tokenizer import BLANK, CharTokenizer


@dataclass(frozen=True)
class WordSpan:
    """One word, from `start_s` to `end_s` seconds; `confidence` in [0, 1] is the geometric mean of its characters'
    posteriors.
    """

    text: str
    start_s: float
    end_s: float
    confidence: float


@dataclass(frozen=True)
class PosteriorStats:
    """What the confidence model sees of the posteriors. All in [0, 1] except counts and `mean_entropy` (nats).

    `mean_best` and `min_best` are over emitted characters (1 where none was emitted), `mean_margin` is the mean gap
    between best and second best posterior over all frames, `blank_share` the share of frames whose best class is the
    blank. `log_likelihood` ≤ 0 (nats) is that of the text over all its alignments (`ctc.log_likelihood`).
    `log_posterior` ≤ 0 (nats) is how sure the decoder is that exactly this was said: of a path the same again, of a
    search the text's share among those that it was left with.
    `character_entropy` (nats) is the mean over frames whose best class is no blank, 0 where there is none.
    """

    frames: int
    characters: int
    words: int
    mean_best: float
    min_best: float
    mean_word: float
    min_word: float
    mean_margin: float
    mean_entropy: float
    blank_share: float
    log_likelihood: float
    log_posterior: float
    character_entropy: float


@dataclass(frozen=True)
class Hypothesis:
    """What was heard: `text` = the words joined by single spaces."""

    text: str
    words: tuple[WordSpan, ...]
    posteriors: PosteriorStats


def greedy(log_probs: NDArray[np.float32], tokenizer: CharTokenizer, frame_shift_s: float) -> Hypothesis:
    """Decode log-probabilities of shape (T, V), T ≥ 1, one frame every `frame_shift_s` seconds."""
    return along(log_probs.argmax(axis=1), log_probs, tokenizer, frame_shift_s)


def along(
    path: NDArray[np.int64], log_probs: NDArray[np.float32], tokenizer: CharTokenizer, frame_shift_s: float
) -> Hypothesis:
    """What `path`, one class for each of the T frames, says: shape (T,), over log-probabilities (T, V)."""
    starts = np.flatnonzero(np.diff(path, prepend=-1))
    ends = np.append(starts[1:], len(path))
    words: list[WordSpan] = []
    emitted: list[float] = []
    labels: list[int] = []
    current: list[tuple[int, int, int, float]] = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        index = int(path[start])
        if index == BLANK:
            continue
        peak = float(log_probs[start:end, index].max())
        emitted.append(peak)
        labels.append(index)
        if index == tokenizer.space:
            words += _close(current, tokenizer, frame_shift_s)
            current = []
        else:
            current.append((index, start, end, peak))
    words += _close(current, tokenizer, frame_shift_s)
    stats = _statistics(log_probs, emitted, words, log_likelihood(log_probs, labels))
    return Hypothesis(" ".join(word.text for word in words), tuple(words), stats)


def _close(
    characters: list[tuple[int, int, int, float]], tokenizer: CharTokenizer, frame_shift_s: float
) -> list[WordSpan]:
    """The word made of `characters` (class, start frame, end frame, log posterior), or nothing."""
    if not characters:
        return []
    return [
        WordSpan(
            text=tokenizer.decode(index for index, *_ in characters),
            start_s=characters[0][1] * frame_shift_s,
            end_s=characters[-1][2] * frame_shift_s,
            confidence=float(np.exp(np.mean([peak for *_, peak in characters]))),
        )
    ]


def _statistics(
    log_probs: NDArray[np.float32], emitted: list[float], words: list[WordSpan], likelihood: float
) -> PosteriorStats:
    best = log_probs.argmax(axis=1)
    probabilities = np.exp(log_probs.astype(np.float64))
    second, first = np.partition(probabilities, -2, axis=1)[:, -2:].T
    entropy = -(probabilities * np.maximum(log_probs, -50)).sum(axis=1)
    peaks = np.exp(emitted) if emitted else np.ones(1)
    confidences = [word.confidence for word in words] or [0.0]
    return PosteriorStats(
        frames=len(best),
        characters=sum(len(word.text) for word in words),
        words=len(words),
        mean_best=float(np.mean(peaks)),
        min_best=float(np.min(peaks)),
        mean_word=float(np.mean(confidences)),
        min_word=float(np.min(confidences)),
        mean_margin=float(np.mean(first - second)),
        mean_entropy=float(np.mean(entropy)),
        blank_share=float(np.mean(best == BLANK)),
        log_likelihood=likelihood,
        log_posterior=likelihood,
        character_entropy=float(np.mean(entropy[best != BLANK])) if (best != BLANK).any() else 0.0,
    )
