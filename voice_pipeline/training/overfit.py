"""One real batch, learnt by heart: the quickest proof that data, loss, gradients, optimiser and decoding fit together.

"Overfit a single batch of only a few examples" is the check that Karpathy's recipe for training neural networks (2019)
puts before every long run: a network that cannot do it has a bug, or a learning rate that no longer run repairs.
The plan's own preset, alphabet, learning rate and weight decay, in the precision that it is trained in; no augmentation
and no dropout, which would fight it.

Shapes: S output frames, V classes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from voice_pipeline.schema.training import TrainingSpec
from voice_pipeline.speech.encoder import AcousticModel
from voice_pipeline.speech.errors import TokenizerError
from voice_pipeline.speech.frontend import features, frames_of, mel_power
from voice_pipeline.speech.recogniser import TorchRecogniser, padded
from voice_pipeline.speech.scoring import score
from voice_pipeline.speech.shape import preset
from voice_pipeline.speech.tokenizer import BLANK, CharTokenizer
from voice_pipeline.training.batches import Batch, as_float, collate
from voice_pipeline.training.data import Utterance, Utterances
from voice_pipeline.training.errors import NoTrainingDataError, OverfitError, UnusableAnswerError
from voice_pipeline.training.optimiser import AdamW
from voice_pipeline.training.trainer import uses_bfloat16

CLIPS = 4
WARMUP_STEPS = 5
GRADIENT_NORM = 5.0
MOST_CER = 0.5
FRAMES_A_CHARACTER = 2
"""Output frames that a clip must have for each character, so that CTC has room for blanks."""


@dataclass(frozen=True)
class Overfit:
    """A batch learnt by heart: mean CTC loss a character before and after, and the network that did it."""

    first_loss: float
    last_loss: float
    steps: int
    seconds: float
    recogniser: TorchRecogniser


def easiest(utterances: Utterances, spec: TrainingSpec, count: int = CLIPS) -> list[Utterance]:
    """The shortest clips whose text CTC can align with room to spare, different texts first; reads only their audio.

    Raises:
        NoTrainingDataError: there is none.
    """
    tokenizer = CharTokenizer(spec.alphabet)
    stride = preset(spec.hyperparameters.preset.value, tokenizer.size).stride
    lengths = list(enumerate(zip(utterances.texts, utterances.sample_counts, strict=True)))
    fitting = [
        (samples, index, text)
        for index, (text, samples) in lengths
        if _characters(tokenizer, text) and FRAMES_A_CHARACTER * len(text) <= frames_of(samples) // stride
    ]
    if not fitting:
        raise NoTrainingDataError(
            f"none of {len(utterances)} train clips of {spec.dataset_version} is long enough for its text; label more"
        )
    fitting.sort()
    firsts = {text: index for _, index, text in reversed(fitting)}
    ranked = sorted((firsts[text] != index, samples, index) for samples, index, text in fitting)
    return [utterances[index] for _, _, index in ranked[:count]]


def overfit(spec: TrainingSpec, clips: Sequence[Utterance], share: float, most_steps: int) -> Overfit:
    """Train the plan's network on `clips` alone until the loss is below `share` of the first.

    Raises:
        OverfitError: it was not after `most_steps`, or is no longer a number; both losses are named.
    """
    torch.set_flush_denormal(True)  # as in training: without it, steps slow down as weights settle
    try:
        return _overfit(spec, clips, share, most_steps)
    finally:
        torch.set_flush_denormal(False)


def _overfit(spec: TrainingSpec, clips: Sequence[Utterance], share: float, most_steps: int) -> Overfit:
    started = time.perf_counter()
    tokenizer, parameters = CharTokenizer(spec.alphabet), spec.hyperparameters
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(spec.seed)
    model = AcousticModel(preset(parameters.preset.value, tokenizer.size))
    batch = _batch(clips, tokenizer, model.config.mels)
    model.to(device).train()
    optimizer = AdamW(list(model.parameters()), parameters.weight_decay)
    losses: list[float] = []
    while len(losses) < most_steps and not (losses and losses[-1] <= share * losses[0]):
        rate = parameters.learning_rate * min(1.0, (len(losses) + 1) / WARMUP_STEPS)
        losses.append(_step(model, optimizer, batch, rate))
    if not losses[-1] <= share * losses[0]:  # also where it is no number
        raise OverfitError(
            f"preset {parameters.preset.value} cannot learn {len(clips)} clips by heart: loss {losses[0]:.2f} → "
            f"{losses[-1]:.2f} in {len(losses)} steps, {share * losses[0]:.2f} wanted; "
            f"is learning_rate {parameters.learning_rate:g} right?"
        )
    _settle(model, batch)
    seconds = time.perf_counter() - started
    return Overfit(losses[0], losses[-1], len(losses), seconds, TorchRecogniser(model.cpu(), tokenizer))


def smoke(recogniser: TorchRecogniser, clips: Sequence[Utterance]) -> float:
    """Character error rate of clips that were learnt by heart, heard as a device hears: waveform → text.

    Raises:
        UnusableAnswerError: log-probabilities have another shape, are not finite or do not add up to one; or more than
            `MOST_CER` of the characters are wrong, so that what was learnt is not what is heard.
    """
    scores = [score(clip.text, _hear(recogniser, clip)) for clip in clips]
    cer = sum(s.char_errors for s in scores) / max(1, sum(s.chars for s in scores))
    if cer > MOST_CER:
        raise UnusableAnswerError(
            f"clips learnt by heart are heard with {cer:.0%} wrong characters, at most {MOST_CER:.0%} expected; "
            "frontend, averaging of the normalisation or decoding differ between training and recognition"
        )
    return cer


def _hear(recogniser: TorchRecogniser, clip: Utterance) -> str:
    samples = as_float(clip)
    log_probs = recogniser.log_probs(samples)
    config = recogniser.model.config
    wanted = (-(-frames_of(samples.size) // config.stride), recogniser.tokenizer.size)
    if log_probs.shape != wanted:
        raise UnusableAnswerError(f"clip {clip.clip_id} gives log-probabilities {log_probs.shape}, {wanted} expected")
    sums = np.exp(log_probs.astype(np.float64)).sum(axis=1)
    if not np.isfinite(log_probs).all() or not np.allclose(sums, 1, atol=1e-3):
        raise UnusableAnswerError(f"clip {clip.clip_id} gives log-probabilities that are no distribution")
    return recogniser.transcribe(samples).text


def _characters(tokenizer: CharTokenizer, text: str) -> int:
    try:
        return len(tokenizer.encode(text))
    except TokenizerError:
        return 0


def _batch(clips: Sequence[Utterance], tokenizer: CharTokenizer, mels: int) -> Batch:
    examples = [torch.from_numpy(features(mel_power(padded(as_float(clip)), mels))) for clip in clips]
    return collate(examples, [tokenizer.encode(clip.text) for clip in clips])


@torch.no_grad()
def _settle(model: AcousticModel, batch: Batch) -> None:
    """Take the normalisation's statistics from the batch as the finished weights see it: running means lag behind."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative: one pass sets them
    device = next(model.parameters()).device
    model.encoder(batch.features.to(device), batch.lengths.to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _step(model: AcousticModel, optimizer: AdamW, batch: Batch, rate: float) -> float:
    device = next(model.parameters()).device
    lengths = batch.lengths.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(device)):  # as the trainer's own step
        log_probs = model.encoder(batch.features.to(device), lengths)
    loss = nn.functional.ctc_loss(
        log_probs.transpose(0, 1),
        batch.targets.to(device),
        model.encoder.output_lengths(lengths),
        batch.target_lengths.to(device),
        blank=BLANK,
    )
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM, foreach=True)
    optimizer.step(rate)
    return float(loss.detach())
