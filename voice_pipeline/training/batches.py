"""Augmented batches of features. Every example is decided by (seed, epoch, utterance), every batch by (seed, epoch), so
a resumed run sees the same, and so do processes that share a batch.

What decides an example's length is drawn first: batches are made of like final lengths, and little is padding.

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
from voice_pipeline.speech.frontend import features, frames_of, mel_power
from voice_pipeline.speech.tokenizer import CharTokenizer
from voice_pipeline.training.data import Utterance, Utterances

FRAME_MULTIPLE = 64
SORTED_BATCHES = 8
"""Utterances are sorted by length within this many batches: little padding, still a new order every epoch."""
MOST_FRAMES = 12_800
"""Of one batch, padding included: what bounds the trainer's memory. A single longer example is a batch of its own."""
LONGEST_JOIN_FRAMES = 1200
CACHED_FRAMES = 1_000_000
"""Nearly three hours, 0.3 GB; mel power of what does not fit is computed each time, at a tenth of a step's cost."""
AHEAD = 4


@dataclass(frozen=True)
class Batch:
    """`features` (B, T, M); `lengths` (B,) in frames; `targets` all classes in a row, `target_lengths` (B,) of them;
    `share` of the whole batch that these B examples are, where processes share it. Of two `views` the second half of
    the rows is the first half again, masked otherwise.
    """

    features: Tensor
    lengths: Tensor
    targets: Tensor
    target_lengths: Tensor
    audio_s: float
    share: float = 1.0
    views: int = 1


@dataclass(frozen=True)
class Draw:
    """What decides the length of an example: the utterance, the one joined to it after `gap` frames, the tempo."""

    index: int
    partner: int | None
    gap: int
    speed: float
    frames: int


class Augmenter:
    """Turns utterances into training examples. Mel power is computed once an utterance and augmented in that domain;
    only a room is put on the waveform.

    Args:
        utterances: the training split.
        noises: recordings to mix in, at least one.
        rooms: impulse responses, at least one.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        noises: Sequence[Samples],
        rooms: Sequence[Samples],
        tokenizer: CharTokenizer,
        parameters: Hyperparameters,
        mels: int,
    ) -> None:
        self.utterances = Utterances.of(utterances)
        self.tokenizer = tokenizer
        self.parameters = parameters
        self.mels = mels
        self.texts = self.utterances.texts
        self.frames = [frames_of(count) for count in self.utterances.sample_counts]
        self._rooms = rooms
        self._noises = [mel_power(noise, mels) for noise in noises]
        self._cache: dict[int, NDArray[np.float32]] = {}
        self._cached_frames = 0
        self._speakers = self.utterances.speakers
        self._by_speaker: dict[str, list[int]] = {}
        for index, speaker in enumerate(self._speakers):
            self._by_speaker.setdefault(speaker, []).append(index)

    def draw(self, rng: np.random.Generator, index: int) -> Draw:
        """The length-deciding half of one example; hears nothing."""
        frames, partner, gap = self.frames[index], None, 0
        if rng.random() < self.parameters.join_share:
            own = self._by_speaker[self._speakers[index]]
            other = own[int(rng.integers(len(own)))]
            pause = int(rng.uniform(*augmentation.GAP_RANGE_S) * 100)
            if frames + pause + self.frames[other] <= LONGEST_JOIN_FRAMES:
                partner, gap, frames = other, pause, frames + pause + self.frames[other]
        speed = 1.0
        if self.parameters.speed_perturbation:
            speed = float(rng.uniform(*augmentation.SPEED_RANGE))
            frames = augmentation.stretched(frames, speed)
        return Draw(index, partner, gap, speed, frames)

    def example(self, rng: np.random.Generator, draw: Draw, views: int = 1) -> tuple[list[Tensor], list[int]]:
        """`views` times the features (T, M) of one drawn example, masked anew each time, and its classes."""
        room = self._rooms[int(rng.integers(len(self._rooms)))] if rng.random() < self.parameters.room_share else None
        power, text = self._power(draw.index, room), self.texts[draw.index]
        if draw.partner is not None:
            power = augmentation.join_power(power, self._power(draw.partner, room), draw.gap)
            text = f"{text} {self.texts[draw.partner]}"
        if self.parameters.speed_perturbation:
            power = augmentation.stretch(power, draw.speed)
            power = augmentation.shift_frequencies(power, float(rng.uniform(*augmentation.SPEED_RANGE)))
        if rng.random() < self.parameters.noise_share:
            power = augmentation.add_noise_power(rng, power, self._noises)
        whole = features(power)
        return [self._masked(rng, whole.copy()) for _ in range(views)], self.tokenizer.encode(text)

    def _masked(self, rng: np.random.Generator, example: NDArray[np.float32]) -> Tensor:
        for _ in range(self.parameters.masks):
            augmentation.mask_features(
                rng, example, self.parameters.frequency_mask_bins, self.parameters.time_mask_frames
            )
        return torch.from_numpy(example)

    def clean(self, utterance: Utterance) -> Tensor:
        """Features (T, M) of an utterance as it is."""
        return torch.from_numpy(features(mel_power(as_float(utterance), self.mels)))

    def _power(self, index: int, room: Samples | None) -> NDArray[np.float32]:
        """Mel power of an utterance; kept as long as CACHED_FRAMES allows and there is no room around it."""
        if room is not None:
            return mel_power(augmentation.reverberate(as_float(self.utterances[index]), room), self.mels)
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


def collate(
    examples: Sequence[Tensor], targets: Sequence[list[int]], frames: int = 0, share: float = 1.0, views: int = 1
) -> Batch:
    """One padded batch, at least `frames` long; examples (T_i, M) are padded with zeros."""
    longest = max(frames, *(len(f) for f in examples))
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
        share=share,
        views=views,
    )


def plan_epoch(rng: np.random.Generator, frames: Sequence[int], batch_size: int) -> list[list[int]]:
    """All examples once, in batches of like lengths and at most MOST_FRAMES, batches and pools in random order."""
    order = rng.permutation(len(frames))
    batches: list[list[int]] = []
    for start in range(0, len(order), batch_size * SORTED_BATCHES):
        pool = sorted(order[start : start + batch_size * SORTED_BATCHES].tolist(), key=lambda i: frames[i])
        batch: list[int] = []
        for index in pool:  # ascending: the newest is the longest
            if batch and (len(batch) == batch_size or (len(batch) + 1) * frames[index] > MOST_FRAMES):
                batches.append(batch)
                batch = []
            batch.append(index)
        batches.append(batch)
    return [batches[i] for i in rng.permutation(len(batches))]


class Epoch:
    """The batches of one epoch, made a little ahead of use by a thread of their own.

    Args:
        views: of each example; each counts as a row of MOST_FRAMES.
        rank, processes: this process takes every `processes`-th example of each batch, from the `rank`-th on.
    """

    def __init__(
        self, augmenter: Augmenter, seed: int, epoch: int, views: int = 1, rank: int = 0, processes: int = 1
    ) -> None:
        self._augmenter, self._key, self._views = augmenter, (seed, epoch), views
        self._rank, self._processes = rank, processes
        self._draws = [
            augmenter.draw(np.random.default_rng([seed, epoch, index, 0]), index)
            for index in range(len(augmenter.utterances))
        ]
        frames = [views * draw.frames for draw in self._draws]
        self._plan = plan_epoch(np.random.default_rng([seed, epoch]), frames, augmenter.parameters.batch_size)

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._plan)

    def __iter__(self) -> Iterator[Batch]:
        return ahead(self._make, len(self))

    def _make(self, number: int) -> Batch:
        whole = [self._draws[index] for index in self._plan[number]]
        own = whole[self._rank :: self._processes]
        share = len(own) / len(whole)
        own = own or whole[:1]  # nothing to do: one example that counts for nothing
        made = [
            self._augmenter.example(np.random.default_rng([*self._key, draw.index, 1]), draw, self._views)
            for draw in own
        ]
        examples = [seen[view] for view in range(self._views) for seen, _ in made]
        targets = [ids for _, ids in made] * self._views
        return collate(examples, targets, max(draw.frames for draw in whole), share, self._views)


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
