"""Trains an acoustic model with CTC: the same spec, data and machine give the same weights, killed and resumed or not.

AdamW (Loshchilov and Hutter, 2019) under a warm-up and cosine schedule, gradient clipping, exponential moving average
of the weights, augmentation as in `batches`. Randomness is drawn from (seed, epoch, example), never from a running
stream, so a run that resumes after its last finished epoch continues bit for bit on CPU. bfloat16 autocast where the
device multiplies matrices in it: CUDA, and CPUs with AMX. Several processes (`team`) share every batch.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from voice_pipeline.schema.training import Hyperparameters, Preset, TrainingSpec
from voice_pipeline.speech.audio import Samples
from voice_pipeline.speech.augmentation import coloured_noise, room_response
from voice_pipeline.speech.decoding import greedy
from voice_pipeline.speech.encoder import AcousticModel
from voice_pipeline.speech.errors import TokenizerError
from voice_pipeline.speech.frontend import frames_of
from voice_pipeline.speech.recogniser import load_checkpoint
from voice_pipeline.speech.scoring import corpus_wer, score
from voice_pipeline.speech.shape import preset
from voice_pipeline.speech.tokenizer import BLANK, CharTokenizer
from voice_pipeline.training import checkpoints
from voice_pipeline.training.batches import FRAME_MULTIPLE, MOST_FRAMES, Augmenter, Batch, Cuts, Epoch, collate
from voice_pipeline.training.cuts import find_cuts
from voice_pipeline.training.data import Utterance, Utterances
from voice_pipeline.training.environment import Compute
from voice_pipeline.training.errors import CheckpointMismatchError, DivergedError, NoTrainingDataError
from voice_pipeline.training.optimiser import AdamW
from voice_pipeline.training.team import Team

GRADIENT_NORM = 5.0
FINAL_RATE = 0.01
DEV_BATCH = 32
KERNEL_CACHE = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
KERNELS_KEPT = 4096
"""Every shape of a batch needs some 37 kernels; oneDNN keeps 1024 unless told otherwise, and building them anew takes
time and leaves holes in the heap.
"""
SYNTHETIC_NOISES = 8
SYNTHETIC_ROOMS = 8
SYNTHETIC_NOISE_SAMPLES = 160_000


@dataclass(frozen=True)
class EpochReport:
    """`loss` mean CTC loss a character; `dev_wer` of the averaged weights, greedy; `seconds` of the whole epoch;
    `audio_s_per_s` of its training alone; `learning_rate` at its end.
    """

    epoch: int
    loss: float
    dev_wer: float
    seconds: float
    audio_s_per_s: float
    learning_rate: float


@dataclass(frozen=True)
class TrainingResult:
    """`checkpoint` is the finished folder, `sha256` its digest, `best_epoch` the one whose weights it holds."""

    checkpoint: Path
    sha256: str
    epochs: tuple[EpochReport, ...]
    best_epoch: int


def train(
    spec: TrainingSpec,
    train: Sequence[Utterance],
    dev: Sequence[Utterance],
    noises: Sequence[Samples],
    workdir: Path,
    parent: Path | None = None,
    progress: Callable[[EpochReport], None] = lambda report: None,
    rooms: Sequence[Samples] = (),
    begun: Callable[[Compute], None] = lambda compute: None,
) -> TrainingResult:
    """Train until `max_epochs`, or until no dev WER of the last `patience_epochs` was as low as the lowest before; keep
    the last weights with the lowest.

    Args:
        noises: recordings mixed in; coloured noise is added to them, so the sequence may be empty.
        workdir: holds the state of an interrupted run, from which this goes on, and the finished checkpoint.
        parent: checkpoint folder to start from.
        progress: called after every epoch, in the process that leads.
        rooms: impulse responses put around speech; synthetic ones are added to them.
        begun: called before this call's first epoch, if it has one to train, in the process that leads.

    Raises:
        NoTrainingDataError: no usable utterance in `train` or `dev`.
        CheckpointMismatchError: `workdir` belongs to another spec, or `parent` does not fit this one.
        DamagedCheckpointError: the interrupted run's state cannot be read.
        DivergedError: the loss is no longer finite.
        ModelFileError: `parent` cannot be loaded.
    """
    with _Run(spec, Utterances.of(train), Utterances.of(dev), noises, rooms, workdir, parent) as run:
        if run.team.leads and not run.finished:
            begun(run.compute)
        while not run.finished:
            report = run.epoch()
            if run.team.leads:
                progress(report)
        return run.finish()


def uses_bfloat16(device: torch.device) -> bool:
    """Whether training on `device` multiplies in bfloat16: where matrix units do (GPUs since Ampere, Intel AMX)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def keep_kernels() -> None:
    """Let oneDNN keep the kernels of every shape of a batch. It asks at a process's first convolution: whoever tries,
    hears or judges before training does this first.
    """
    os.environ.setdefault(KERNEL_CACHE, str(KERNELS_KEPT))


class _Run:
    """One training run: builds everything from the spec, or takes up where `workdir` stands."""

    def __init__(
        self,
        spec: TrainingSpec,
        train: Utterances,
        dev: Utterances,
        noises: Sequence[Samples],
        rooms: Sequence[Samples],
        workdir: Path,
        parent: Path | None,
    ) -> None:
        keep_kernels()
        self.spec, self.parameters, self.workdir = spec, spec.hyperparameters, workdir
        self.tokenizer = CharTokenizer(spec.alphabet)
        self.team = Team.join()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        config = preset(self.parameters.preset.value, self.tokenizer.size)
        lengths = zip(train.texts, train.sample_counts, strict=True)
        usable = train.select(
            index for index, (text, count) in enumerate(lengths) if _fits(text, count, self.tokenizer, config.stride)
        )
        if not usable or not dev:
            raise NoTrainingDataError(
                f"dataset {spec.dataset_version} gives {len(usable)} train and {len(dev)} dev utterances; label more"
            )
        torch.manual_seed(spec.seed)
        self.model = AcousticModel(config, self.parameters.dropout)
        if parent is not None:
            _start_from(self.model, self.tokenizer, parent)
        self.augmenter = Augmenter(
            usable,
            [*noises, *_synthetic_noises(spec.seed)],
            [*rooms, *_synthetic_rooms(spec.seed)],
            self.tokenizer,
            self.parameters,
            config.mels,
        )
        self.dev = dev
        self.average = copy.deepcopy(self.model).eval().to(self.device)
        self.team.prepare(self.model)
        self.model.to(self.device)
        self.bfloat16 = uses_bfloat16(self.device)
        self.optimizer = AdamW(list(self.model.parameters()), self.parameters.weight_decay)
        self.loss = nn.CTCLoss(blank=BLANK, zero_infinity=True)  # a clip too fast for its text teaches nothing
        self.state = checkpoints.TrainingState(0, {}, {}, {}, {}, math.inf, 0)

    def __enter__(self) -> _Run:
        self._flush = torch.set_flush_denormal(True)  # without it, steps slow down fivefold as weights settle
        self._threads = torch.get_num_threads()
        if self.parameters.preset in (Preset.MICRO, Preset.TINY):
            torch.set_num_threads(1)  # kernels so small that waking a second thread costs a third of the speed
        state = checkpoints.load_state(self.workdir, self.spec.digest)
        if state is not None:
            self.state = state
            try:
                self.model.load_state_dict(state.model)
                self.average.load_state_dict(state.average)
                self.optimizer.load_state_dict(state.optimizer)
            except (RuntimeError, ValueError) as error:
                raise CheckpointMismatchError(
                    f"training state in {self.workdir} is of a network of another shape; delete it to start over"
                ) from error
            self.augmenter.cuts = self._kept_cuts()
        return self

    def __exit__(self, *_: object) -> None:
        torch.set_flush_denormal(False)
        torch.set_num_threads(self._threads)

    @property
    def compute(self) -> Compute:
        gpu = f" ({torch.cuda.get_device_name(self.device)})" if self.device.type == "cuda" else ""
        device, threads = f"{self.device.type}{gpu}", torch.get_num_threads()
        return Compute(device, self.bfloat16, threads, self.team.size, self.state.epoch + 1)

    @property
    def finished(self) -> bool:
        stale = self.state.epoch - self.state.best_epoch
        return self.state.epoch >= self.parameters.max_epochs or stale >= self.parameters.patience_epochs

    def epoch(self) -> EpochReport:
        """Train one epoch, judge it, save the state."""
        number = self.state.epoch + 1
        started = time.perf_counter()
        torch.manual_seed(self.spec.seed * 1_000_003 + number)  # dropout
        self._cut(number)
        self.model.train()
        losses, audio_s, rate = [], 0.0, 0.0
        batches = Epoch(self.augmenter, self.spec.seed, number, self.team.rank, self.team.size)
        for index, batch in enumerate(batches):
            rate = _rate((number - 1 + (index + 1) / len(batches)) / self.parameters.max_epochs, self.parameters)
            losses.append(self._step(batch, rate))
            audio_s += batch.audio_s
        training_s = time.perf_counter() - started
        mean_loss, audio_s = self.team.sum(float(np.mean(losses))), self.team.sum(audio_s)
        if not math.isfinite(mean_loss):
            raise DivergedError(
                f"loss of spec {self.spec.digest[:8]} is {mean_loss} in epoch {number}; lower learning_rate"
            )
        dev_wer = self.team.from_leader(self._dev_wer() if self.team.leads else None)
        seconds = time.perf_counter() - started
        report = EpochReport(number, mean_loss, dev_wer, seconds, audio_s / training_s, rate)
        self._record(report)
        return report

    def _cut(self, epoch: int) -> None:
        """Find out where utterances can be cut, at the start of the first epoch that splices them."""
        parameters = self.parameters
        if parameters.splice_share == 0 or epoch <= parameters.splice_from * parameters.max_epochs:
            return
        if self.augmenter.cuts is None:
            found = find_cuts(self.average, self.tokenizer, self.augmenter.utterances) if self.team.leads else None
            self.augmenter.cuts = self.team.from_leader(found)

    def _kept_cuts(self) -> list[Cuts] | None:
        """Those of the interrupted run, of the utterances that are still there; None where one has none yet."""
        kept, clip_ids = self.state.cuts, self.augmenter.utterances.clip_ids
        return [kept[clip_id] for clip_id in clip_ids] if kept and kept.keys() >= set(clip_ids) else None

    def _step(self, batch: Batch, rate: float) -> float:
        """One update; returns this process's part of the mean loss."""
        self.team.idle = batch.share == 0
        lengths = batch.lengths.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            log_probs = self.model.encoder(batch.features.to(self.device), lengths)
        steps = self.model.encoder.output_lengths(lengths)
        target_lengths = batch.target_lengths.to(self.device)
        loss = self.loss(log_probs.transpose(0, 1), batch.targets.to(self.device), steps, target_lengths)
        (batch.share * loss).backward()
        self.team.sum_gradients(self.model.parameters())
        nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM, foreach=True)
        self.optimizer.step(rate)
        self._average_weights()
        return batch.share * float(loss.detach())

    @torch.no_grad()
    def _average_weights(self) -> None:
        step = self.optimizer.steps
        decay = min(self.parameters.ema_decay, step / (9 + step))
        floats = [
            (a, b) for a, b in zip(_tensors(self.average), _tensors(self.model), strict=True) if a.is_floating_point()
        ]
        torch._foreach_lerp_([a for a, _ in floats], [b for _, b in floats], 1 - decay)

    @torch.inference_mode()
    def _dev_wer(self) -> float:
        scores = []
        for batch, texts in _dev_batches(self.dev, self.augmenter):
            lengths = batch.lengths.to(self.device)
            log_probs = self.average.encoder(batch.features.to(self.device), lengths).float().cpu().numpy()
            steps = self.average.encoder.output_lengths(lengths).tolist()
            for row, (text, frames) in enumerate(zip(texts, steps, strict=True)):
                scores.append(score(text, greedy(log_probs[row, :frames], self.tokenizer, 0.01).text))
        return corpus_wer(scores)

    def _record(self, report: EpochReport) -> None:
        state = self.state
        state.epoch = report.epoch
        state.history.append(vars(report))
        state.model, state.average = _weights(self.model), _weights(self.average)
        state.optimizer = self.optimizer.state_dict()
        if self.augmenter.cuts is not None:
            state.cuts = dict(zip(self.augmenter.utterances.clip_ids, self.augmenter.cuts, strict=True))
        if report.dev_wer <= state.best_wer:
            state.best, state.best_wer, state.best_epoch = state.average, report.dev_wer, report.epoch
        if self.team.leads:
            checkpoints.save_state(self.workdir, self.spec.digest, state)

    def finish(self) -> TrainingResult:
        """Write the best weights as the finished checkpoint."""
        if self.team.leads:
            checkpoints.write_checkpoint(self.workdir, self.spec, self.model.config, self.tokenizer, self.state.best)
        self.team.from_leader(None)  # nobody reads before it is written
        folder = self.workdir / checkpoints.CHECKPOINT
        history = tuple(EpochReport(**{**line, "epoch": int(line["epoch"])}) for line in self.state.history)  # type: ignore[arg-type]
        return TrainingResult(folder, checkpoints.checkpoint_digest(folder), history, self.state.best_epoch)


def _fits(text: str, samples: int, tokenizer: CharTokenizer, stride: int) -> bool:
    """Whether CTC can align the text: a frame for every character and a blank between equal neighbours."""
    try:
        ids = tokenizer.encode(text)
    except TokenizerError:
        return False
    needed = len(ids) + sum(a == b for a, b in pairwise(ids))
    return bool(ids) and needed <= frames_of(samples) // stride


def _start_from(model: AcousticModel, tokenizer: CharTokenizer, parent: Path) -> None:
    older, alphabet = load_checkpoint(parent)
    if older.config != model.config or alphabet != tokenizer:
        raise CheckpointMismatchError(
            f"parent {parent} has shape {older.config}, this spec {model.config}; train from scratch"
        )
    model.load_state_dict(older.state_dict())


def _synthetic_noises(seed: int) -> list[Samples]:
    rng = np.random.default_rng([seed, 0])
    return [coloured_noise(rng, SYNTHETIC_NOISE_SAMPLES) for _ in range(SYNTHETIC_NOISES)]


def _synthetic_rooms(seed: int) -> list[Samples]:
    rng = np.random.default_rng([seed, 1])
    return [room_response(rng) for _ in range(SYNTHETIC_ROOMS)]


def _dev_batches(dev: Utterances, augmenter: Augmenter) -> Iterator[tuple[Batch, list[str]]]:
    """Dev utterances as they are, shortest first, at most DEV_BATCH and, padding included, MOST_FRAMES at once; heard
    anew each time: their audio is not kept.
    """
    counts = dev.sample_counts
    padded = [-(-frames_of(count) // FRAME_MULTIPLE) * FRAME_MULTIPLE for count in counts]
    waiting = sorted(range(len(dev)), key=lambda index: counts[index])
    while waiting:
        rows = [n for n, index in enumerate(waiting[:DEV_BATCH], 1) if n * padded[index] <= MOST_FRAMES]
        taken = max(rows, default=1)  # ascending: the last is the longest
        group = list(dev.select(waiting[:taken]))
        del waiting[:taken]
        yield collate([augmenter.clean(u) for u in group], [[] for _ in group]), [u.text for u in group]


def _rate(progress: float, parameters: Hyperparameters) -> float:
    """Learning rate after `progress` in (0, 1] of the run: linear warm-up, then a cosine to FINAL_RATE of the peak."""
    warmup = parameters.warmup_fraction
    if progress < warmup:
        return parameters.learning_rate * progress / warmup
    share = (progress - warmup) / (1 - warmup)
    return parameters.learning_rate * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * share)))


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
