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
from torch import Tensor

from voice_pipeline.schema.training import Hyperparameters
from voice_pipeline.speech import augmentation
from voice_pipeline.speech.audio import FULL_SCALE, SAMPLE_RATE, Samples
from voice_pipeline.speech.frontend import LogMel
from voice_pipeline.speech.tokenizer import CharTokenizer
from voice_pipeline.training.data import Utterance

FRAME_MULTIPLE = 64
SORTED_BATCHES = 8
"""Utterances are sorted by length within this many batches: little padding, still a new order every epoch."""
LONGEST_JOIN_S = 12.0
AHEAD = 4


@dataclass(frozen=True)
class Batch:
    """`features` (B, T, M); `lengths` (B,) in frames; `targets` all classes in a row, `target_lengths` (B,) of them."""

    features: Tensor
    lengths: Tensor
    targets: Tensor
    target_lengths: Tensor
    audio_s: float


@dataclass(frozen=True)
class Augmenter:
    """Turns utterances into training examples.

    Args:
        utterances: the training split.
        noises: recordings to mix in, at least one.
    """

    utterances: Sequence[Utterance]
    noises: Sequence[Samples]
    tokenizer: CharTokenizer
    parameters: Hyperparameters
    frontend: LogMel
    by_speaker: dict[str, list[int]]

    @classmethod
    def over(
        cls,
        utterances: Sequence[Utterance],
        noises: Sequence[Samples],
        tokenizer: CharTokenizer,
        parameters: Hyperparameters,
        frontend: LogMel,
    ) -> Augmenter:
        """An augmenter that knows who said what."""
        by_speaker: dict[str, list[int]] = {}
        for index, utterance in enumerate(utterances):
            by_speaker.setdefault(utterance.speaker, []).append(index)
        return cls(utterances, noises, tokenizer, parameters, frontend, by_speaker)

    def batch(self, rng: np.random.Generator, indices: Sequence[int]) -> Batch:
        """One augmented batch of the utterances `indices`."""
        examples = [self._example(rng, index) for index in indices]
        return collate([features for features, _ in examples], [ids for _, ids in examples])

    def _example(self, rng: np.random.Generator, index: int) -> tuple[Tensor, list[int]]:
        first = self.utterances[index]
        samples, text = as_float(first), first.text
        if rng.random() < self.parameters.join_share:
            own = self.by_speaker[first.speaker]
            second = self.utterances[own[int(rng.integers(len(own)))]]
            if (first.samples.size + second.samples.size) / SAMPLE_RATE <= LONGEST_JOIN_S:
                samples, text = augmentation.join(rng, samples, as_float(second)), f"{text} {second.text}"
        if self.parameters.speed_perturbation:
            samples = augmentation.perturb_speed(rng, samples)
        if rng.random() < self.parameters.noise_share:
            samples = augmentation.add_noise(rng, samples, self.noises)
        features = self.frontend.fast(torch.from_numpy(samples))
        augmentation.mask_features(
            rng, features.numpy(), self.parameters.frequency_mask_bins, self.parameters.time_mask_frames
        )
        return features, self.tokenizer.encode(text)


def as_float(utterance: Utterance) -> Samples:
    """An utterance's samples in [-1, 1]."""
    return utterance.samples.astype(np.float32) / FULL_SCALE


def collate(features: Sequence[Tensor], targets: Sequence[list[int]]) -> Batch:
    """One padded batch; features (T_i, M) are padded with zeros."""
    longest = max(len(f) for f in features)
    padded = torch.zeros(len(features), -(-longest // FRAME_MULTIPLE) * FRAME_MULTIPLE, features[0].shape[1])
    for row, f in enumerate(features):
        padded[row, : len(f)] = f
    lengths = torch.tensor([len(f) for f in features])
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
