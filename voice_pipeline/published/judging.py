"""Judging one trained seed: decoder and int8 network chosen on the development split, then the test clips heard."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import model_validator

from voice_pipeline.evaluation.artifacts import CONFIDENCE, INT8, NETWORK, Artifact, open_recogniser
from voice_pipeline.evaluation.noises import Noise
from voice_pipeline.evaluation.report import Subject, evaluate
from voice_pipeline.evaluation.suites import SuiteClip
from voice_pipeline.published.corpus import CORPUS, Splits, read_sounds, read_splits
from voice_pipeline.published.recipe import CURVE, commits_of
from voice_pipeline.schema.base import Record
from voice_pipeline.schema.decoding import Decoding
from voice_pipeline.schema.training import EvaluationReport, Interval
from voice_pipeline.stats.confidence import judge_confidence
from voice_pipeline.stats.sampling import spread
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.store import Store

if TYPE_CHECKING:
    from voice_pipeline.speech.audio import Samples
    from voice_pipeline.speech.recogniser import OnnxRecogniser, Recogniser, Recognition, TorchRecogniser
    from voice_pipeline.training.data import Utterances

RESULT = "result.json"


class SeedResult(Record):
    """One seed on AN4 test, trained by the code of `code_commits` in turn, judged by that of `judged_by`. WERs are
    fractions, 95 % intervals over speakers; `p95_ms` is waveform to text of the int8 network with the search, one
    thread; confidence figures are those of what the search answers.
    """

    seed: int
    code_commits: tuple[str, ...]
    judged_by: str
    decoding: Decoding
    parameters: int
    epochs: int
    best_epoch: int
    training_minutes: float
    audio_s_per_s: float
    dev_wer: float
    wer_float_greedy: Interval
    wer_int8_greedy: Interval
    wer_int8_lm: Interval
    cer_int8_greedy: float
    int8_method: str
    int8_bytes: int
    decoder: str
    p50_ms: float
    p95_ms: float
    confidence_ece: float
    confidence: dict[str, float]

    @model_validator(mode="before")
    @classmethod
    def _of_an_older_program(cls, values: Any) -> Any:
        """A result that names one commit, the last that trained the seed."""
        if not isinstance(values, dict) or "code_commit" not in values:
            return values
        others = {name: value for name, value in values.items() if name != "code_commit"}
        return {**others, "code_commits": commits_of(values)}


def judge_seed(store: Store, corpus: Path, folder: Path, decoding: Decoding) -> SeedResult:
    """The figures of a trained seed under this `decoding`, measured now, or kept where this very code measured them.

    Raises:
        PublishedError: there is no AN4 in `corpus`.
        ModelFileError: the checkpoint in `folder` cannot be loaded.
    """
    from voice_pipeline.training.provenance import code_commit

    kept = folder / RESULT
    if kept.exists():
        result = SeedResult.model_validate_json(kept.read_bytes())
        if (result.decoding, result.judged_by) == (decoding, code_commit()):
            return result
    splits = read_splits(corpus)
    _choose_decoder(folder / "checkpoint", splits, decoding)
    method = _quantise(folder, splits)
    _fit_confidence(folder, splits, corpus)
    result = _judge(store, folder, splits, method, decoding)
    write_atomically(kept, result.model_dump_json(indent=1).encode())
    return result


def _choose_decoder(checkpoint: Path, splits: Splits, decoding: Decoding) -> None:
    from voice_pipeline.speech.recogniser import TorchRecogniser, load_checkpoint
    from voice_pipeline.training.language_model import heard_texts, keep, language_models, tune

    recogniser = TorchRecogniser(*load_checkpoint(checkpoint))
    models = language_models(zip(splits.train.speakers, splits.train.texts, strict=True), decoding)
    heard = heard_texts(recogniser, splits.dev)
    keep(checkpoint, tune(heard, models, recogniser.tokenizer, decoding.beam_width))


def _quantise(folder: Path, splits: Splits) -> str:
    """Write `int8/` as a device has it; returns the method that was chosen on dev."""
    from voice_pipeline.packaging.export import onnx_bytes
    from voice_pipeline.packaging.quantise import CALIBRATION_CLIPS, Heard, choose, make_candidates, measure, words_of
    from voice_pipeline.speech.decoder import ARPA, DECODER
    from voice_pipeline.speech.recogniser import TOKENIZER, load_checkpoint
    from voice_pipeline.training.batches import as_float

    checkpoint = folder / "checkpoint"
    model, tokenizer = load_checkpoint(checkpoint)
    chosen_clips = spread(splits.train.speakers, splits.train.clip_ids, CALIBRATION_CLIPS)
    calibration = [Heard(u.text, as_float(u)) for u in splits.train.select(chosen_clips)]
    development = [Heard(u.text, as_float(u)) for u in splits.dev]
    with tempfile.TemporaryDirectory() as scratch:
        exported = Path(scratch) / "float.onnx"
        exported.write_bytes(onnx_bytes(model))
        files = make_candidates(exported, calibration, Path(scratch))
        measured = [measure(name, path, tokenizer, development) for name, path in files.items()]
        chosen = choose(measured, words_of(development))
        write_atomically(folder / INT8 / NETWORK[INT8], files[chosen.method].read_bytes())
    for name in (TOKENIZER, DECODER, ARPA):
        if (checkpoint / name).exists():
            write_atomically(folder / INT8 / name, (checkpoint / name).read_bytes())
    return chosen.method


def _fit_confidence(folder: Path, splits: Splits, corpus: Path) -> None:
    """Fit on the dev speakers; without a feature store the features are measured as the device measures them."""
    from voice_pipeline.speech.confidence import ConfidenceModel
    from voice_pipeline.speech.measures import measure
    from voice_pipeline.speech.recogniser import TorchRecogniser
    from voice_pipeline.training.batches import as_float
    from voice_pipeline.training.confidence import hear, shared_vocabulary
    from voice_pipeline.training.confidence_fit import choose_penalty, design

    bank = [Noise(f"noise-{number}", samples) for number, samples in enumerate(read_sounds(corpus, "noise"))]
    vocabulary = shared_vocabulary(zip(splits.train.speakers, splits.train.texts, strict=True))
    features = {u.clip_id: asdict(measure(as_float(u))) for u in splits.dev}
    hearing = hear(TorchRecogniser.load(folder / "checkpoint"), splits.dev, bank, features, vocabulary)
    x, right, importance = design(hearing.clips)
    fitted = ConfidenceModel.fit(x, right, choose_penalty(hearing.clips), importance, vocabulary)
    write_atomically(folder / INT8 / CONFIDENCE, fitted.to_json().encode())


def _judge(store: Store, folder: Path, splits: Splits, method: str, decoding: Decoding) -> SeedResult:
    import json

    from voice_pipeline.speech.decoder import greedily, read_decoder
    from voice_pipeline.speech.recogniser import TorchRecogniser, load_checkpoint
    from voice_pipeline.training.provenance import code_commit

    curve = json.loads((folder / CURVE).read_bytes())
    network = folder / INT8 / NETWORK[INT8]
    searching = open_recogniser(Artifact(folder.name, INT8, folder / INT8, ""))
    plain = open_recogniser(Artifact(folder.name, INT8, folder / INT8, ""))
    plain.decode = greedily(plain.tokenizer)
    floating = TorchRecogniser(*load_checkpoint(folder / "checkpoint"))
    listener = _Remembering(searching)
    reports = [_report(store, recogniser, splits) for recogniser in (floating, plain, listener)]
    right = [heard.text == said for heard, said in zip(listener.heard, splits.test.texts, strict=True)]
    _, _, speakers, errors, words = zip(*reports[2].utterances, strict=True)
    judgement = judge_confidence([heard.confidence for heard in listener.heard], right, errors, words, speakers)
    epochs = curve["epochs"]
    return SeedResult(
        seed=curve["seed"],
        code_commits=commits_of(curve),
        judged_by=code_commit(),
        decoding=decoding,
        parameters=floating.model.parameter_count,
        epochs=len(epochs),
        best_epoch=curve["best_epoch"],
        training_minutes=sum(epoch["seconds"] for epoch in epochs) / 60,
        audio_s_per_s=median(epoch["audio_s_per_s"] for epoch in epochs),
        dev_wer=min(epoch["dev_wer"] for epoch in epochs),
        wer_float_greedy=reports[0].overall.wer,
        wer_int8_greedy=reports[1].overall.wer,
        wer_int8_lm=reports[2].overall.wer,
        cer_int8_greedy=reports[1].overall.cer.value,
        int8_method=method,
        int8_bytes=network.stat().st_size,
        decoder=read_decoder(folder / INT8).kind,
        p50_ms=reports[2].latency.p50_ms,
        p95_ms=reports[2].latency.p95_ms,
        confidence_ece=judgement.sweep_calibration_error,
        confidence={name: float(value) for name, value in asdict(judgement).items()},
    )


class _Remembering:
    """A recogniser that keeps its answers, so that report and confidence are of one hearing."""

    def __init__(self, recogniser: OnnxRecogniser | TorchRecogniser) -> None:
        self._recogniser = recogniser
        self.heard: list[Recognition] = []

    def transcribe(self, samples: Samples) -> Recognition:
        self.heard.append(self._recogniser.transcribe(samples))
        return self.heard[-1]


def _report(store: Store, recogniser: Recogniser, splits: Splits) -> EvaluationReport:
    subject = Subject(CORPUS, INT8, f"{CORPUS}-test", splits.version)
    return evaluate(recogniser, _test_clips(splits.test), subject, store.now())


def _test_clips(test: Utterances) -> Iterator[SuiteClip]:
    from voice_pipeline.training.batches import as_float

    for utterance in test:
        yield SuiteClip(
            clip_id=utterance.clip_id,
            speaker=utterance.speaker,
            text=utterance.text,
            samples=np.asarray(as_float(utterance)),
            slices=("corpus:an4",),
            condition="clean",
        )
