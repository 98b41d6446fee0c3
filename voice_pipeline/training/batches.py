"""Augmented batches of features. Every batch is decided by (seed, epoch, batch number), so a resumed run sees the same.

Shapes: B batch, T feature frames padded to a multiple of 64 (a new length costs a kernel build), M mel bins.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from voice_pipeline.schema.training import Hyperparameters
from voice_pipeline.speech import augmentation
from voice_pipeline.speech.audio import FULL_SCALE, Samples
from voice_pipeline.speech.frontend import features, mel_power
from voice_pipeline.speech.tokenizer import CharTokenizer
from voice_pipeline.training.data import Utterance

FRAME_MULTIPLE = 64
SORTED_BATCHES = 8
"""Utterances are sorted by length within this many batches: little padding, still a new order every epoch."""
LONGEST_JOIN_FRAMES = 1200
CACHED_FRAMES = 2_500_000
"""About seven hours, 0.8 GB."""
AHEAD = 4


@dataclass(frozen=True)
class Batch:
    """`features` (B, T, M); `lengths` (B,) in frames; `targets` all classes in a row, `target_lengths` (B,) of them."""

    features: Tensor
    lengths: Tensor
    targets: Tensor
    target_lengths: Tensor
    audio_s: float


class Augmenter:
    """Turns utterances into training examples. Mel power is computed once an utterance and augmented in that domain.

    Args:
        utterances: the training split.
        noises: recordings to mix in, at least one.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        noises: Sequence[Samples],
        tokenizer: CharTokenizer,
        parameters: Hyperparameters,
        mels: int,
    ) -> None:
        self.utterances = utterances
        self.tokenizer = tokenizer
        self.parameters = parameters
        self.mels = mels
        self._noises = [mel_power(noise, mels) for noise in noises]
        self._cache: dict[int, NDArray[np.float32]] = {}
        self._cached_frames = 0
        self._by_speaker: dict[str, list[int]] = {}
        for index, utterance in enumerate(utterances):
            self._by_speaker.setdefault(utterance.speaker, []).append(index)

    def batch(self, rng: np.random.Generator, indices: Sequence[int]) -> Batch:
        """One augmented batch of the utterances `indices`."""
        examples = [self._example(rng, index) for index in indices]
        return collate([example for example, _ in examples], [ids for _, ids in examples])

    def clean(self, utterance: Utterance) -> Tensor:
        """Features (T, M) of an utterance as it is."""
        return torch.from_numpy(features(mel_power(as_float(utterance), self.mels)))

    def _example(self, rng: np.random.Generator, index: int) -> tuple[Tensor, list[int]]:
        first = self.utterances[index]
        power, text = self._power(index), first.text
        if rng.random() < self.parameters.join_share:
            own = self._by_speaker[first.speaker]
            other = own[int(rng.integers(len(own)))]
            second = self._power(other)
            if len(power) + len(second) <= LONGEST_JOIN_FRAMES:
                power = augmentation.join_power(rng, power, second)
                text = f"{text} {self.utterances[other].text}"
        if self.parameters.speed_perturbation:
            power = augmentation.stretch(power, float(rng.uniform(*augmentation.SPEED_RANGE)))
            power = augmentation.shift_frequencies(power, float(rng.uniform(*augmentation.SPEED_RANGE)))
        if rng.random() < self.parameters.noise_share:
            power = augmentation.add_noise_power(rng, power, self._noises)
        example = features(power)
        augmentation.mask_features(rng, example, self.parameters.frequency_mask_bins, self.parameters.time_mask_frames)
        return torch.from_numpy(example), self.tokenizer.encode(text)

    def _power(self, index: int) -> NDArray[np.float32]:
        """Mel power of an utterance; kept as long as CACHED_FRAMES allows, then computed anew each time."""
        power = self._cache.get(index)
        if power is None:
            power = mel_power(as_float(self.utterances[index]), self.mels)
            if self._cached_frames + len(power) <= CACHED_FRAMES:
                self._cache[index] = power
                self._cached_frames += len(power)
        return power


def as_float(utterance: Utterance) -> Samples:
    """An utterance's samples in [-1, 1]."""
    return utterance.samples.astype(np.float32) / np.float32(FULL_SCALE)


def collate(examples: Sequence[Tensor], targets: Sequence[list[int]]) -> Batch:
    """One padded batch; examples (T_i, M) are padded with zeros."""
    longest = max(len(f) for f in examples)
    padded = torch.zeros(len(examples), -(-longest // FRAME_MULTIPLE) * FRAME_MULTIPLE, examples[0].shape[1])
    for row, f in enumerate(examples):
        padded[row, : len(f)] = f
    lengths = torch.tensor([len(f) for f in examples])
    return Batch(
        features=padded,
        lengths=lengths,
        targets=torch.tensor([index for ids in targets for index in ids]),
        target_lengths=torch.tensor([len(ids) for ids in targets]),
        audio_s=float(lengths.sum()) / 100,
    )


def plan_epoch(rng: np.random.Generator, sizes: Sequence[int], batch_size: int) -> list[list[int]]:
    """All utterances once, in batches of like lengths, batches and pools in random order."""
    order = rng.permutation(len(sizes))
    batches: list[list[int]] = []
    for start in range(0, len(order), batch_size * SORTED_BATCHES):
        pool = sorted(order[start : start + batch_size * SORTED_BATCHES].tolist(), key=lambda i: sizes[i])
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def epoch_batches(augmenter: Augmenter, seed: int, epoch: int) -> Iterator[Batch]:
    """The batches of one epoch, made a little ahead of use by a thread of their own."""
    sizes = [u.samples.size for u in augmenter.utterances]
    plan = plan_epoch(np.random.default_rng([seed, epoch]), sizes, augmenter.parameters.batch_size)

    def make(number: int) -> Batch:
        return augmenter.batch(np.random.default_rng([seed, epoch, number + 1]), plan[number])

    return ahead(make, len(plan))


def ahead(make: Callable[[int], Batch], count: int) -> Iterator[Batch]:
    """`make(0) … make(count - 1)` in order, at most AHEAD of them waiting. An error in `make` is raised here."""
    ready: queue.Queue[Batch | BaseException] = queue.Queue(AHEAD)
    stopped = threading.Event()

    def fill() -> None:
        for number in range(count):
            if stopped.is_set():
                return
            try:
                item: Batch | BaseException = make(number)
            except BaseException as error:  # noqa: BLE001 - handed to the consumer, which raises it
                item = error
            while not stopped.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue

    thread = threading.Thread(target=fill, name="batches", daemon=True)
    thread.start()
    try:
        for _ in range(count):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
