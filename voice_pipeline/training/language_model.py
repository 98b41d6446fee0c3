"""The language model of a beam search: n-grams from the train speakers' texts, weights tuned on the dev speakers.

The posteriors of each dev clip are computed once. For each order the best of a fixed grid of lm_weight and word_bonus
is taken (they hang together: what the model takes from long texts, the bonus gives back), then the best
unknown_penalty. Fewest word errors win, then fewest character errors, then what stands first. Greedy decoding stays
unless the search makes strictly fewer word errors. Nothing is drawn by chance.

An n-gram model is text that people said, learnt as weights are: erasing a person removes their texts from every later
fit, not from a model that has learnt them already; lineage names those models. Unlike weights it can be read on every
device. So words said by fewer than `min_speakers` train speakers enter it as `<unk>` only, and sequences of words that
fewer said stay out of it. Weights are tuned on the float network, before there is an int8 one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update

from voice_pipeline.evaluation.artifacts import checkpoint_folder
from voice_pipeline.schema.dataset import Split
from voice_pipeline.schema.decoding import DecoderKind, Decoding
from voice_pipeline.speech.beam import BeamSearch, BeamSettings, Lexicon
from voice_pipeline.speech.decoder import ARPA, DECODER, Decoder
from voice_pipeline.speech.decoding import greedy
from voice_pipeline.speech.kneser_ney import estimate, ngrams
from voice_pipeline.speech.ngram import UNKNOWN, NGram, Words
from voice_pipeline.speech.normalise import plain
from voice_pipeline.stats.sampling import by_turns
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import models

if TYPE_CHECKING:
    from voice_pipeline.speech.recogniser import LogProbs, OnnxRecogniser, TorchRecogniser
    from voice_pipeline.speech.tokenizer import CharTokenizer
    from voice_pipeline.training.data import Utterance

SHORTEST_ORDER = 2
MOST_UTTERANCES = 200
"""Of more dev clips, speakers give one in turn: a new population is heard however many older clips there are."""
TUNING_SPEEDS_PERCENT = (100, 90, 110)
"""Every clip is heard at each: dev clips are few, and weights chosen for the slips of one hearing carry over badly."""
LM_WEIGHTS = (0.4, 0.2, 0.6, 0.8, 1.1)
WORD_BONUSES = (1.0, 0.0, 2.0, 3.0)
UNKNOWN_PENALTIES = (4.0, 2.0, 0.0, 8.0)
"""What is tried, in order of preference where it makes no difference."""
FIGURES = frozenset(
    {"decoder", "decoder_reason", "lm_order", "lm_words", "lm_ngrams", "lm_weight", "lm_word_bonus"}
    | {"lm_unknown_penalty", "lm_beam_width", "lm_dev_perplexity", "dev_wer_greedy", "dev_wer_beam"}
)
"""All names that `Tuned.figures` may tell; an earlier fit's are taken back."""


@dataclass(frozen=True, order=True)
class Errors:
    """What a decoder got wrong; fewer is less, words first."""

    words: int
    characters: int


@dataclass(frozen=True)
class HeardText:
    """A dev clip at one speed: what was said, and its log-probabilities, shape (T, V)."""

    text: str
    log_probs: LogProbs


@dataclass(frozen=True)
class Tuned:
    """The decoder to deploy, with its model (None for greedy), and why. WERs are fractions on the dev clips at all
    TUNING_SPEEDS_PERCENT.

    `wer_beam` and `perplexity` are those of the best search, deployed or not; None where none was tried.
    """

    decoder: Decoder
    model: NGram | None
    reason: str
    wer_greedy: float | None = None
    wer_beam: float | None = None
    perplexity: float | None = None

    def figures(self) -> dict[str, Any]:
        """What the catalogue, MLflow and the asset page are told."""
        found: dict[str, Any] = {"decoder": self.decoder.kind, "decoder_reason": self.reason}
        if self.model and self.decoder.beam:
            found |= {
                "lm_order": self.model.order,
                "lm_words": len(self.model.vocabulary),
                "lm_ngrams": len(self.model.grams),
                "lm_weight": self.decoder.beam.lm_weight,
                "lm_word_bonus": self.decoder.beam.word_bonus,
                "lm_unknown_penalty": self.decoder.beam.unknown_penalty,
                "lm_beam_width": self.decoder.beam.beam_width,
            }
        measured = {
            "lm_dev_perplexity": self.perplexity,
            "dev_wer_greedy": self.wer_greedy,
            "dev_wer_beam": self.wer_beam,
        }
        return found | {name: value for name, value in measured.items() if value is not None}


def fit_language_model(store: Store, model_version: str, dataset_version: str, decoding: Decoding) -> Tuned:
    """Choose the decoder of a trained model and keep it in its checkpoint folder (`decoder.json`, `lm.arpa`).

    Where greedy is asked for, nothing is heard and nothing built. Repeats give the same bytes.

    Raises:
        ModelFileError: the checkpoint cannot be loaded.
    """
    folder = checkpoint_folder(store, model_version)
    if decoding.kind is DecoderKind.GREEDY:
        tuned = Tuned(Decoder(), None, "the profile asks for greedy decoding")
    else:
        tuned = _fit(store, folder, dataset_version, decoding)
    keep(folder, tuned)
    with store.database.write() as connection:
        where = models.c.model_version == model_version
        known = connection.execute(select(models.c.metrics).where(where)).scalar_one() or {}
        others = {name: value for name, value in known.items() if name not in FIGURES}
        connection.execute(update(models).where(where).values(metrics={**others, **tuned.figures()}))
    return tuned


def _fit(store: Store, folder: Path, dataset_version: str, decoding: Decoding) -> Tuned:
    from voice_pipeline.speech.recogniser import TorchRecogniser, load_checkpoint
    from voice_pipeline.training.data import open_utterances

    train, dev = (open_utterances(store, dataset_version, split) for split in (Split.TRAIN, Split.DEV))
    models = language_models(zip(train.speakers, train.texts, strict=True), decoding)
    recogniser = TorchRecogniser(*load_checkpoint(folder))  # not `load`: the decoder of an earlier fit is not asked
    chosen = dev.select(by_turns(dev.speakers, dev.clip_ids, MOST_UTTERANCES))
    heard = heard_texts(recogniser, chosen)
    return tune(heard, models, recogniser.tokenizer, decoding.beam_width)


def language_models(said: Iterable[tuple[str, str]], decoding: Decoding) -> list[NGram]:
    """What may be searched with: `candidates` of what enough speakers said, from (speaker, text) pairs."""
    pairs = list(said)
    texts = shared_words(pairs, decoding.min_speakers)
    by_speaker = zip((speaker for speaker, _ in pairs), texts, strict=True)
    shared = shared_ngrams(by_speaker, decoding.order, decoding.min_speakers)
    return candidates(texts, decoding.order, shared.__contains__)


def heard_texts(recogniser: TorchRecogniser | OnnxRecogniser, utterances: Iterable[Utterance]) -> list[HeardText]:
    """Each utterance at each of the TUNING_SPEEDS_PERCENT, with log-probabilities as `transcribe` computes them."""
    from voice_pipeline.speech.augmentation import change_speed
    from voice_pipeline.speech.recogniser import padded
    from voice_pipeline.training.batches import as_float

    return [
        HeardText(utterance.text, recogniser.log_probs(padded(change_speed(as_float(utterance), percent))))
        for utterance in utterances
        for percent in TUNING_SPEEDS_PERCENT
    ]


def shared_words(said: Iterable[tuple[str, str]], min_speakers: int) -> list[str]:
    """Texts of (speaker, text) pairs, words of fewer than `min_speakers` speakers as `<unk>`; order kept."""
    told = [(speaker, text.split()) for speaker, text in said]
    speakers: defaultdict[str, set[str]] = defaultdict(set)
    for speaker, words in told:
        for word in words:
            speakers[word].add(speaker)
    return [" ".join(word if len(speakers[word]) >= min_speakers else UNKNOWN for word in words) for _, words in told]


def shared_ngrams(said: Iterable[tuple[str, str]], order: int, min_speakers: int) -> set[Words]:
    """N-grams of 1 to `order` words in the texts of at least `min_speakers` speakers."""
    speakers: defaultdict[Words, set[str]] = defaultdict(set)
    for speaker, text in said:
        for gram in ngrams(text, order):
            speakers[gram].add(speaker)
    return {gram for gram, people in speakers.items() if len(people) >= min_speakers}


def candidates(texts: Sequence[str], order: int, told: Callable[[Words], bool] = lambda gram: True) -> list[NGram]:
    """Models of 2 to `order` words that hold only n-grams that may be `told`, shortest first; none where the texts hold
    no word that a model may know.
    """
    if not any(word != UNKNOWN for text in texts for word in text.split()):
        return []
    return [estimate(texts, length, told) for length in range(SHORTEST_ORDER, order + 1)]


def tune(heard: Sequence[HeardText], models: Sequence[NGram], tokenizer: CharTokenizer, beam_width: int) -> Tuned:
    """Choose between greedy decoding and a search with one of `models`, on dev clips that no model has seen.

    Deterministic: the same clips and models give the same decoder.
    """
    if not heard or not models:
        missing = "dev clips to tune on" if models else "words that enough train speakers said"
        return Tuned(Decoder(), None, f"there are no {missing}")
    greedily = count_errors(heard, lambda log_probs: greedy(log_probs, tokenizer, 1.0).text)
    found = [(*_best_settings(heard, Lexicon(model, tokenizer), beam_width), model) for model in models]
    errors, settings, model = min(found, key=itemgetter(0))
    words = sum(len(plain(clip.text).split()) for clip in heard) or 1
    perplexity = model.perplexity(clip.text for clip in heard)
    measured = (greedily.words / words, errors.words / words, perplexity)
    if errors.words >= greedily.words:
        return Tuned(Decoder(), None, "the search makes no fewer word errors on dev than greedy", *measured)
    return Tuned(Decoder.over(model, settings), model, "fewer word errors on dev than greedy", *measured)


def _best_settings(heard: Sequence[HeardText], lexicon: Lexicon, beam_width: int) -> tuple[Errors, BeamSettings]:
    def best(tried: Iterable[BeamSettings]) -> tuple[Errors, BeamSettings]:
        judged = ((count_errors(heard, BeamSearch(lexicon, settings).text), settings) for settings in tried)
        return min(judged, key=itemgetter(0))  # of equals the first

    first = (
        BeamSettings(lm_weight, word_bonus, UNKNOWN_PENALTIES[0], beam_width)
        for lm_weight, word_bonus in product(LM_WEIGHTS, WORD_BONUSES)
    )
    errors, chosen = best(first)
    others = (replace(chosen, unknown_penalty=penalty) for penalty in UNKNOWN_PENALTIES[1:])
    return min((errors, chosen), best(others), key=itemgetter(0))


def count_errors(heard: Iterable[HeardText], text_of: Callable[[LogProbs], str]) -> Errors:
    """Errors of one way to decode, by minimum edit distance, over all clips; words as `scoring` counts them."""
    from rapidfuzz.distance import Levenshtein

    words = characters = 0
    for clip in heard:
        text = text_of(clip.log_probs)
        words += Levenshtein.distance(plain(clip.text).split(), plain(text).split())
        characters += Levenshtein.distance(clip.text, text)
    return Errors(words, characters)


def keep(folder: Path, tuned: Tuned) -> None:
    """Write the decoder into a checkpoint folder. Killed between the two files, opening the folder refuses it."""
    if tuned.model is None:
        write_atomically(folder / DECODER, tuned.decoder.to_json().encode())
        (folder / ARPA).unlink(missing_ok=True)
        return
    write_atomically(folder / ARPA, tuned.model.to_arpa().encode())
    write_atomically(folder / DECODER, tuned.decoder.to_json().encode())
