"""Augmented batches of features. Every example is decided by (seed, epoch, utterance), every batch by (seed, epoch), so
a resumed run sees the same, and so do processes that share a batch.

What decides an example's length is drawn first: batches are made of like final lengths, and little is padding.

Shapes: B batch, T feature frames padded to a multiple of 64 (a new length costs a kernel build), M mel bins.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from voice_pipeline.schema.training import Hyperparameters
from voice_pipeline.speech import augmentation
from voice_pipeline.speech.audio import FULL_SCALE, SAMPLE_RATE, Samples
from voice_pipeline.speech.frontend import HOP, features, frames_of, mel_power
from voice_pipeline.speech.recogniser import SHORTEST_INPUT, padded
from voice_pipeline.speech.tokenizer import CharTokenizer
from voice_pipeline.training.data import Utterance, Utterances

FRAME_MULTIPLE = 64
SORTED_BATCHES = 8
"""Utterances are sorted by length within this many batches: little padding, still a new order every epoch."""
MOST_FRAMES = 12_800
"""Of one batch, padding included: what bounds the trainer's memory. A single longer example is a batch of its own."""
LONGEST_JOIN_FRAMES = 1200
AHEAD = 4


@dataclass(frozen=True)
class Batch:
    """`features` (B, T, M); `lengths` (B,) in frames; `targets` all classes in a row, `target_lengths` (B,) of them.
    Where processes share a batch, these B examples are a `share` of it.
    """

    features: Tensor
    lengths: Tensor
    targets: Tensor
    target_lengths: Tensor
    audio_s: float
    share: float = 1.0


Cuts = tuple[int, ...]
"""Samples at which an utterance can be cut, one for each space of its text, ascending; none where it has no space."""


@dataclass(frozen=True)
class Ending:
    """The end of the utterance `index`, from the sample `start` and the word number `word` on, in place of what comes
    after the first `words` words, `samples` samples, of one's own.
    """

    samples: int
    words: int
    index: int
    start: int
    word: int


@dataclass(frozen=True)
class Draw:
    """What decides the length of an example: the utterance, another one's ending, the one joined to it after `gap`
    samples, the speed in percent, the samples from frame to frame. It has `samples` samples and `frames` frames.
    """

    index: int
    ending: Ending | None
    partner: int | None
    gap: int
    speed: int
    hop: int
    samples: int
    frames: int


class Augmenter:
    """Turns utterances into training examples. All but the masks is done to the waveform or in taking its mel power:
    tempo and vocal tract made by interpolating mel bands blur every example.

    Args:
        utterances: the training split.
        noises: recordings to mix in, at least one.
        rooms: impulse responses, at least one.

    `cuts` of each utterance, once they are known, let it end as another one of its speaker does.
    """

    cuts: Sequence[Cuts] | None = None

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
        self._counts = self.utterances.sample_counts
        self._rooms, self._noises = rooms, noises
        self._speakers = self.utterances.speakers
        self._by_speaker: dict[str, list[int]] = {}
        for index, speaker in enumerate(self._speakers):
            self._by_speaker.setdefault(speaker, []).append(index)

    def draw(self, rng: np.random.Generator, index: int) -> Draw:
        """The length-deciding half of one example; hears nothing."""
        own = self._by_speaker[self._speakers[index]]
        count, ending, partner, gap = self._counts[index], None, None, 0
        if self.cuts is not None and rng.random() < self.parameters.splice_share:
            ending = self._ending(rng, index, own[int(rng.integers(len(own)))])
            if ending is not None:
                count = ending.samples + self._counts[ending.index] - ending.start
        if rng.random() < self.parameters.join_share:
            other = own[int(rng.integers(len(own)))]
            pause = int(rng.uniform(*augmentation.GAP_RANGE_S) * SAMPLE_RATE)
            joined = count + pause + self._counts[other]
            if frames_of(joined) <= LONGEST_JOIN_FRAMES:
                partner, gap, count = other, pause, joined
        speed = 100
        if self.parameters.speed_perturbation:
            speed = int(rng.choice(augmentation.SPEEDS_PERCENT))
        count = max(SHORTEST_INPUT, augmentation.length_at_speed(count, speed))
        hop = int(rng.choice(augmentation.TEMPO_HOPS)) if self.parameters.tempo_perturbation else HOP
        return Draw(index, ending, partner, gap, speed, hop, count, frames_of(count, hop))

    def example(self, rng: np.random.Generator, draw: Draw) -> tuple[Tensor, list[int]]:
        """Features (T, M) of one drawn example, and its classes."""
        heard = as_float(self.utterances[draw.index])
        if draw.ending is not None:
            end = as_float(self.utterances[draw.ending.index])[draw.ending.start :]
            heard = augmentation.splice(heard[: draw.ending.samples], end)
        if draw.partner is not None:
            heard = augmentation.join(rng, heard, as_float(self.utterances[draw.partner]), draw.gap)
        heard = augmentation.change_speed(heard, draw.speed)
        if rng.random() < self.parameters.room_share:
            heard = augmentation.reverberate(heard, self._rooms[int(rng.integers(len(self._rooms)))])
        if rng.random() < self.parameters.noise_share:
            heard = augmentation.add_noise(rng, heard, self._noises)
        warp = augmentation.vocal_tract(rng, self.parameters.formant_mel) if self.parameters.formant_mel > 0 else ()
        seen = features(mel_power(padded(heard), self.mels, warp, draw.hop))
        for _ in range(self.parameters.masks):
            augmentation.mask_features(rng, seen, self.parameters.frequency_mask_bins, self.parameters.time_mask_frames)
        return torch.from_numpy(seen), self._classes(draw)

    def _classes(self, draw: Draw) -> list[int]:
        text = self.texts[draw.index]
        if draw.ending is not None:
            words, others = text.split(" "), self.texts[draw.ending.index].split(" ")
            text = " ".join([*words[: draw.ending.words], *others[draw.ending.word :]])
        if draw.partner is not None:
            text = f"{text} {self.texts[draw.partner]}"
        return self.tokenizer.encode(text)

    def _ending(self, rng: np.random.Generator, index: int, other: int) -> Ending | None:
        """An ending of `other` for `index`, each cut between two words; None where one of them is a single word."""
        assert self.cuts is not None
        own, others = self.cuts[index], self.cuts[other]
        if not own or not others:
            return None
        place, there = int(rng.integers(len(own))), int(rng.integers(len(others)))
        return Ending(own[place], place + 1, other, others[there], there + 1)

    def clean(self, utterance: Utterance) -> Tensor:
        """Features (T, M) of an utterance as a recogniser hears it."""
        return torch.from_numpy(features(mel_power(padded(as_float(utterance)), self.mels)))


def as_float(utterance: Utterance) -> Samples:
    """An utterance's samples in [-1, 1]."""
    return utterance.samples.astype(np.float32) / np.float32(FULL_SCALE)


def collate(examples: Sequence[Tensor], targets: Sequence[list[int]], frames: int = 0) -> Batch:
    """One padded batch, at least `frames` long; examples (T_i, M) are padded with zeros."""
    longest = max(frames, *(len(f) for f in examples))
    rows = torch.zeros(len(examples), -(-longest // FRAME_MULTIPLE) * FRAME_MULTIPLE, examples[0].shape[1])
    for row, f in enumerate(examples):
        rows[row, : len(f)] = f
    lengths = torch.tensor([len(f) for f in examples])
    return Batch(
        features=rows,
        lengths=lengths,
        targets=torch.tensor([index for ids in targets for index in ids]),
        target_lengths=torch.tensor([len(ids) for ids in targets]),
        audio_s=float(lengths.sum()) / 100,
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
        rank, processes: this process takes every `processes`-th example of each batch, from the `rank`-th on.
    """

    def __init__(self, augmenter: Augmenter, seed: int, epoch: int, rank: int = 0, processes: int = 1) -> None:
        self._augmenter, self._key = augmenter, (seed, epoch)
        self._rank, self._processes = rank, processes
        self._draws = [
            augmenter.draw(np.random.default_rng([seed, epoch, index, 0]), index)
            for index in range(len(augmenter.utterances))
        ]
        frames = [draw.frames for draw in self._draws]
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
        made = [self._augmenter.example(np.random.default_rng([*self._key, draw.index, 1]), draw) for draw in own]
        batch = collate([seen for seen, _ in made], [ids for _, ids in made], max(draw.frames for draw in whole))
        return replace(batch, share=share, audio_s=sum(draw.samples for draw in own) / SAMPLE_RATE if share else 0.0)


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
