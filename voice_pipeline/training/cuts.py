"""Where utterances can be cut between two words, so that one can end as another of the same speaker does.

Aligned data augmentation (Lam et al., Interspeech 2021): of a small corpus a network learns the sequences of words by
heart, so it is given new ones. The words' times are those of the likeliest path of the known text through the network
that is being trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import torch

from voice_pipeline.speech.alignment import best_path
from voice_pipeline.speech.audio import SAMPLE_RATE, Samples
from voice_pipeline.speech.decoding import along
from voice_pipeline.speech.encoder import AcousticModel
from voice_pipeline.speech.frontend import features, mel_power
from voice_pipeline.speech.measures import HOP
from voice_pipeline.speech.recogniser import padded
from voice_pipeline.speech.tokenizer import CharTokenizer
from voice_pipeline.training.batches import Cuts, as_float
from voice_pipeline.training.data import Utterance


@torch.inference_mode()
def find_cuts(model: AcousticModel, tokenizer: CharTokenizer, utterances: Iterable[Utterance]) -> list[Cuts]:
    """The cuts of each utterance; `model` in evaluation mode, texts of its alphabet and short enough to be aligned."""
    device = next(model.parameters()).device
    found: list[Cuts] = []
    for utterance in utterances:
        if " " not in utterance.text:
            found.append(())
            continue
        samples = padded(as_float(utterance))
        heard = torch.from_numpy(features(mel_power(samples, model.config.mels)))[None]
        log_probs = model.encoder(heard.to(device))[0].float().cpu().numpy()
        path = best_path(log_probs, utterance.text, tokenizer)
        words = along(path, log_probs, tokenizer, model.config.frame_shift_s).words
        found.append(tuple(_quietest(samples, a.end_s, b.start_s) for a, b in pairwise(words)))
    return found


def _quietest(samples: Samples, start_s: float, end_s: float) -> int:
    """The middle of the quietest 30 ms between two words: a network names a word within it, not at its edges."""
    start = round(start_s * SAMPLE_RATE)
    hops = samples[start : round(end_s * SAMPLE_RATE)]
    hops = hops[: hops.size // HOP * HOP].reshape(-1, HOP)
    if len(hops) == 0:
        return min(start, samples.size)
    power = np.convolve(np.pad(np.square(hops).mean(axis=1), 1, "edge"), np.ones(3), "valid")
    return start + HOP * int(power.argmin()) + HOP // 2
