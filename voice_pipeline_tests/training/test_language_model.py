"""The decoder is chosen on dev alone, always alike, and greedy stays where nothing is won."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sqlalchemy import select

from voice_pipeline.schema.dataset import Split
from voice_pipeline.schema.decoding import DecoderKind, Decoding
from voice_pipeline.speech.decoder import ARPA, DECODER, open_decoder, read_decoder
from voice_pipeline.speech.errors import DecoderError
from voice_pipeline.speech.kneser_ney import ngrams
from voice_pipeline.speech.ngram import END, UNKNOWN
from voice_pipeline.speech.recogniser import TorchRecogniser
from voice_pipeline.speech.tokenizer import CharTokenizer
from voice_pipeline.store.manifest import manifest_rows
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import dataset_versions, models
from voice_pipeline.training import data, language_model
from voice_pipeline.training.data import Utterance, Utterances
from voice_pipeline.training.language_model import (
    FIGURES,
    HeardText,
    candidates,
    count_errors,
    fit_language_model,
    heard_texts,
    keep,
    language_models,
    shared_words,
    tune,
)
from voice_pipeline_tests.packaging.small_models import add_trained_model
from voice_pipeline_tests.speech.test_beam import doubtful, path_of, spelt

TOKENIZER = CharTokenizer()
TEXTS = ["call mary now", "call marc", "mary may call", "call mary now please"]
UNSURE = [
    HeardText("call mary now", doubtful("call nary now", 5, "m")),
    HeardText("call marc", spelt(path_of("call marc"))),
]
SURE = [HeardText(text, spelt(path_of(text))) for text in TEXTS]
MODEL = "m-20261102-00000001"


def test_the_search_is_chosen_where_it_makes_fewer_word_errors() -> None:
    tuned = tune(UNSURE, candidates(TEXTS, 3), TOKENIZER, 16)
    assert tuned.decoder.kind == "beam"
    assert tuned.decoder.beam is not None
    assert tuned.decoder.beam.beam_width == 16
    assert (tuned.wer_greedy, tuned.wer_beam) == (pytest.approx(1 / 5), 0)
    figures = tuned.figures()
    assert figures.keys() == FIGURES
    assert figures["lm_words"] == 6


def test_greedy_stays_where_the_search_is_no_better() -> None:
    tuned = tune(SURE, candidates(TEXTS, 2), TOKENIZER, 16)
    assert (tuned.decoder.kind, tuned.model) == ("greedy", None)
    assert tuned.wer_greedy == tuned.wer_beam == 0
    assert set(tuned.figures()) < FIGURES


@pytest.mark.parametrize(("heard", "texts"), [([], TEXTS), (UNSURE, []), (UNSURE, [UNKNOWN, f"{UNKNOWN} {UNKNOWN}"])])
def test_without_dev_clips_or_words_greedy_stays_and_says_why(heard: list[HeardText], texts: list[str]) -> None:
    tuned = tune(heard, candidates(texts, 3), TOKENIZER, 16)
    assert tuned.decoder.kind == "greedy"
    assert "there are no" in tuned.reason


def test_the_same_clips_and_texts_give_the_same_decoder() -> None:
    first, second = (tune(UNSURE, candidates(list(TEXTS), 3), CharTokenizer(), 8) for _ in range(2))
    assert first == second
    assert first.decoder.to_json() == second.decoder.to_json()


def test_of_equal_weights_those_before_stay() -> None:
    """No value makes a difference here: the one that stands first must come out."""
    easy = [HeardText("call mary now", doubtful("call nary now", 5, "m", share=0.48))]
    beam = tune(easy, candidates(TEXTS, 2), TOKENIZER, 16).decoder.beam
    assert beam is not None
    assert (beam.lm_weight, beam.word_bonus, beam.unknown_penalty) == (0.4, 1.0, 4.0)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("xyz"), st.lists(st.sampled_from("abcd"), max_size=4).map(" ".join))),
    st.integers(1, 3),
)
def test_no_word_of_too_few_speakers_enters_the_model(said: list[tuple[str, str]], least: int) -> None:
    texts = shared_words(said, least)
    assert [len(text.split()) for text in texts] == [len(text.split()) for _, text in said]
    for word in {word for text in texts for word in text.split()} - {UNKNOWN}:
        assert len({speaker for speaker, text in said if word in text.split()}) >= least
    for model in candidates(texts, 2):
        assert "".join(model.vocabulary).isalpha()
        assert all(len({who for who, text in said if word in text.split()}) >= least for word in model.vocabulary)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("xyz"), st.lists(st.sampled_from("ab"), max_size=4).map(" ".join)), max_size=12),
    st.integers(1, 3),
)
def test_no_sequence_of_too_few_speakers_enters_the_model_and_it_stays_one(
    said: list[tuple[str, str]], least: int
) -> None:
    sayers: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    for (who, _), text in zip(said, shared_words(said, least), strict=True):
        for gram in ngrams(text, 3):
            sayers[gram].add(who)
    for model in language_models(said, Decoding(kind=DecoderKind.BEAM, order=3, min_speakers=least)):
        assert all(len(sayers[gram]) >= least for gram in model.grams if len(gram) > 1)
        told = {gram for gram, people in sayers.items() if len(people) >= least and 1 < len(gram) <= model.order}
        assert told <= set(model.grams)
        for context in [(), model.start, ("a",), ("b", "a"), ("a", "a")]:
            known = context[max(0, len(context) - model.order + 1) :]
            following = (10 ** model.log10(known, word) for word in (*model.vocabulary, END, UNKNOWN))
            assert math.fsum(following) == pytest.approx(1, abs=1e-5)


def test_errors_are_counted_on_words_without_case_and_marks() -> None:
    clips = [HeardText("Call Mary, now.", np.zeros((1, 2), dtype=np.float32))]
    assert count_errors(clips, lambda _: "call mary now").words == 0
    assert count_errors(clips, lambda _: "call mary").words == 1


@pytest.fixture
def trained(labelled: Store) -> Store:
    """The labelled home, whose 24 speakers all say `call mary`, with a small untrained model."""
    add_trained_model(labelled, MODEL, dataset_of(labelled))
    return labelled


def dataset_of(store: Store) -> str:
    return str(store.database.scalar(select(dataset_versions.c.dataset_version)))


def checkpoint(store: Store) -> Path:
    return store.settings.models / MODEL / "checkpoint"


def figures(store: Store) -> dict[str, object]:
    return dict(store.database.scalar(select(models.c.metrics).where(models.c.model_version == MODEL)) or {})


def test_a_greedy_profile_costs_nothing_and_says_so(trained: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_model, "_fit", None)  # whoever hears a clip or counts a word fails
    fit_language_model(trained, MODEL, dataset_of(trained), Decoding())
    assert read_decoder(checkpoint(trained)).kind == "greedy"
    assert figures(trained)["decoder"] == "greedy"
    assert "profile" in str(figures(trained)["decoder_reason"])


def test_a_model_is_fitted_on_train_texts_and_kept_with_its_figures(
    trained: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        language_model, "heard_texts", lambda *_: [HeardText("call mary", doubtful("call nary", 5, "m"))]
    )
    beam, dataset_version = Decoding(kind=DecoderKind.BEAM, order=2, min_speakers=2), dataset_of(trained)
    tuned = fit_language_model(trained, MODEL, dataset_version, beam)
    assert (tuned.wer_greedy, tuned.wer_beam) == (0.5, 0)
    assert tuned.model is not None
    assert tuned.model.vocabulary == ("call", "mary")
    assert figures(trained)["dev_wer_beam"] == 0
    assert fit_language_model(trained, MODEL, dataset_version, beam) == tuned
    recogniser = TorchRecogniser.load(checkpoint(trained))
    assert recogniser.decode(doubtful("call nary", 5, "m"), 0.02).text == "call mary"
    fit_language_model(trained, MODEL, dataset_version, Decoding())
    assert not (checkpoint(trained) / ARPA).exists()
    assert "dev_wer_beam" not in figures(trained)


def test_every_dev_speaker_is_heard_however_few_clips_may_be(trained: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    speakers = ["old"] * 6 + ["s1", "s2", "s3"]
    crowd = [Utterance(f"c{n}", speaker, "call mary", np.full(1, n, np.int16)) for n, speaker in enumerate(speakers)]
    heard: list[str] = []

    def listen(_recogniser: object, chosen: Sequence[Utterance]) -> list[HeardText]:
        heard.extend(utterance.speaker for utterance in chosen)
        return [HeardText(utterance.text, doubtful("call nary", 5, "m")) for utterance in chosen]

    monkeypatch.setattr(language_model, "heard_texts", listen)
    monkeypatch.setattr(data, "open_utterances", lambda *_: Utterances.of(crowd))
    monkeypatch.setattr(language_model, "MOST_UTTERANCES", 4)
    fit_language_model(trained, MODEL, dataset_of(trained), Decoding(kind=DecoderKind.BEAM, order=2))
    assert sorted(heard) == ["old", "s1", "s2", "s3"]


def test_dev_texts_teach_the_language_model_nothing(trained: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(text: str) -> Utterances:
        return Utterances.of([Utterance(f"c{n}", f"s{n}", text, np.zeros(1, np.int16)) for n in range(3)])

    parts = {Split.TRAIN: said("call mary"), Split.DEV: said("secret mary")}
    monkeypatch.setattr(data, "open_utterances", lambda _store, _version, split: parts[split])
    monkeypatch.setattr(
        language_model, "heard_texts", lambda *_: [HeardText("call mary", doubtful("call nary", 5, "m"))]
    )
    tuned = fit_language_model(trained, MODEL, dataset_of(trained), Decoding(kind=DecoderKind.BEAM, order=2))
    assert tuned.model is not None
    assert tuned.model.vocabulary == ("call", "mary")


def test_every_clip_is_heard_at_every_speed() -> None:
    class Lengths:
        def log_probs(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.zeros((samples.size, 1), dtype=np.float32)

    clips = [Utterance("c", "s", "call mary", np.full(16_000, 100, np.int16))]
    heard = heard_texts(Lengths(), clips)  # type: ignore[arg-type]
    assert [clip.text for clip in heard] == ["call mary"] * 3
    assert len({len(clip.log_probs) for clip in heard}) == 3


def test_the_words_of_erased_people_are_in_no_later_model(trained: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        language_model, "heard_texts", lambda *_: [HeardText("call mary", doubtful("call nary", 5, "m"))]
    )
    heard: list[list[str]] = []
    monkeypatch.setattr(language_model, "candidates", lambda texts, *_: heard.append(list(texts)) or [])
    beam, dataset_version = Decoding(kind=DecoderKind.BEAM), dataset_of(trained)
    fit_language_model(trained, MODEL, dataset_version, beam)
    gone = next(row.speaker for row in manifest_rows(trained, dataset_version) if row.split is Split.TRAIN)
    trained.vault.destroy(gone)
    fit_language_model(trained, MODEL, dataset_version, beam)
    assert len(heard[1]) == len(heard[0]) - 1


def test_an_untrained_network_is_heard_and_judged(trained: Store) -> None:
    beam, dataset_version = Decoding(kind=DecoderKind.BEAM, order=2, beam_width=2), dataset_of(trained)
    tuned = fit_language_model(trained, MODEL, dataset_version, beam)
    assert tuned.wer_beam is not None
    assert read_decoder(checkpoint(trained)) == tuned.decoder


def test_a_fit_killed_between_its_files_is_refused_and_mended_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched, other = (tune(UNSURE, candidates(texts, 2), TOKENIZER, 8) for texts in (TEXTS, [*TEXTS, "mary call"]))
    keep(tmp_path, searched)

    def killed(path: Path, data: bytes) -> None:
        if path.name == DECODER:
            raise KeyboardInterrupt
        path.write_bytes(data)

    with monkeypatch.context() as patch:
        patch.setattr(language_model, "write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            keep(tmp_path, other)
    with pytest.raises(DecoderError, match="sha256"):
        open_decoder(tmp_path, TOKENIZER)
    keep(tmp_path, other)
    assert read_decoder(tmp_path) == other.decoder
    keep(tmp_path, searched)
    assert open_decoder(tmp_path, TOKENIZER)(UNSURE[0].log_probs, 0.02).text == "call mary now"
