"""Calibrated confidence: the probability that a dictation needs no correction.

A logistic regression whose main input is the recogniser's own answer to that question: CTC gives the text it heard a
probability, a beam search gives its text a share among those that it was left with (the posterior over an n-best list:
Wessel et al., 2001). The log-odds of either (`PosteriorStats.log_posterior`), scaled and shifted, are Platt scaling of
it (Platt, 1999; Guo et al., 2017, on why the raw value of a network is over-confident). A normal prior is centred on
taking that probability at its word; how far the fit may depart from it (scale, shift, other posterior statistics, and
the clip's acoustic features of the feature service `clip_features_v1`, by name) is chosen on held-out speakers
(`training.confidence_fit`). Words that nobody said in training count freely.

The same numbers come out wherever they are computed: in the fit (features from the point-in-time training frame), on
the device (from `speech.measures.measure`, the function that fills the feature view) and in triage (features read
online). Hence only features of the clip itself. The rolling statistics of a device profile are no input: a device
knows them only as of its last contact, so device and server would disagree about the same clip; the profile of an
imported corpus has none, so a fit could not weigh them; and a confidence that differs by the day is no property of the
clip. Triage uses them beside the confidence (`labeling.routing`). Only numpy: it runs on the device.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from voice_pipeline.speech.decoding import PosteriorStats
from voice_pipeline.speech.errors import ModelFileError
from voice_pipeline.speech.measures import AcousticMeasures
from voice_pipeline.speech.normalise import plain

LOG_ODDS, UNKNOWN_WORDS = "decoder_log_odds", "unknown_words"
NETWORK_LOG_ODDS = "log_odds"
"""Of the network alone, whatever it was decoded with: what models of older bundles start from."""
POSTERIOR_INPUTS: tuple[str, ...] = (
    *("mean_best", "min_best", "mean_word", "min_word", "mean_margin", "mean_entropy", "character_entropy"),
    *("blank_share", "log_words", "characters_per_s"),
)
FEATURE_INPUTS: tuple[str, ...] = ("snr_db", "loudness_dbfs", "clipping", "spectral_tilt", "band_low", "band_high")
"""Names of the feature service."""
INPUT_NAMES: tuple[str, ...] = (LOG_ODDS, UNKNOWN_WORDS, *POSTERIOR_INPUTS, *FEATURE_INPUTS)
"""All inputs, in the order in which models are fitted; a model of an older bundle may have fewer or another order."""
FEATURES: tuple[str, ...] = tuple(field.name for field in fields(AcousticMeasures))
"""Features of the service that inputs are made from."""

FREE_PENALTY = 0.1
NEWTON_STEPS = 100
LONGEST_STEP = 3.0
LOGIT_LIMIT = 30.0
LIKELIEST = 1e-4
"""Texts less unlikely than this (nats) count as this unlikely: float32 posteriors know no better."""


def scalars(posteriors: PosteriorStats) -> dict[str, float]:
    """The posterior statistics by name: what a device tells beside its confidence, so that it can be computed again."""
    return {name: float(value) for name, value in asdict(posteriors).items()}


def inputs(
    text: str, posteriors: Mapping[str, float], features: Mapping[str, float | None], vocabulary: Collection[str]
) -> dict[str, float]:
    """The inputs of one clip by name, those of `INPUT_NAMES` that can be computed.

    Args:
        text: what was heard.
        posteriors: `scalars` of its `PosteriorStats`.
        features: of the feature service (`FEATURES`); what is None or missing makes no input.
        vocabulary: known words; empty where none are told, then no word counts as unknown.
    """
    known = {name: float(value) for name, value in features.items() if value is not None}
    found = {name: posteriors[name] for name in POSTERIOR_INPUTS if name in posteriors}
    found |= {name: known[name] for name in FEATURE_INPUTS if name in known}
    strange = [word for word in plain(text).split() if vocabulary and word not in vocabulary]
    found[UNKNOWN_WORDS] = float(np.log1p(len(strange)))
    if "log_likelihood" in posteriors:
        found[NETWORK_LOG_ODDS] = _log_odds(posteriors["log_likelihood"])
    if "log_posterior" in posteriors:
        found[LOG_ODDS] = _log_odds(posteriors["log_posterior"])
    if "words" in posteriors:
        found["log_words"] = float(np.log1p(max(0.0, posteriors["words"])))  # a device may tell anything
    if "characters" in posteriors and "duration_s" in known:
        found["characters_per_s"] = posteriors["characters"] / max(known["duration_s"], 1e-3)
    return found


def _log_odds(log_probability: float) -> float:
    """log(P / (1 - P)) for P = exp(log_probability), between -LOGIT_LIMIT and 9.2."""
    unlikely = min(max(-log_probability, LIKELIEST), LOGIT_LIMIT)
    return float(-np.log(np.expm1(unlikely)))


@dataclass(frozen=True)
class ConfidenceModel:
    """`sigmoid(bias + weights · (x - mean) / scale)`; all tuples have one value per name in `names`.

    Attributes:
        vocabulary: words that training speakers said, sorted; empty where the model does not look at words.
        feature_service: where its features come from; empty in models from before it was kept.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    vocabulary: tuple[str, ...] = ()
    feature_service: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_known", frozenset(self.vocabulary))

    def confidence(
        self, text: str, posteriors: Mapping[str, float], features: Mapping[str, float | None]
    ) -> float | None:
        """Probability in (0, 1) that `text` is entirely right; None where an input of the model is not known.

        Args: as `inputs`.
        """
        found = inputs(text, posteriors, features, self._known)  # type: ignore[attr-defined]
        if not all(name in found for name in self.names):
            return None
        return float(self.probabilities(np.array([[found[name] for name in self.names]]))[0])

    def probabilities(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities (n,) of input vectors (n, len(names))."""
        standard = (x - np.array(self.mean)) / np.array(self.scale)
        return _sigmoid((standard * np.array(self.weights)).sum(axis=1) + self.bias)

    @classmethod
    def fit(
        cls,
        x: NDArray[np.float64],
        right: NDArray[np.bool_],
        penalty: float = 100.0,
        importance: NDArray[np.float64] | None = None,
        vocabulary: Collection[str] = (),
        feature_service: str = "",
    ) -> ConfidenceModel:
        """Fit to n clips by damped Newton steps.

        Args:
            x: inputs, shape (n, len(INPUT_NAMES)).
            right: (n,), whether each text was entirely right.
            penalty: of the squared departures from the network's own probability: of the scale and shift of its
                log-odds and of the standardised weights, except that of unknown words (`FREE_PENALTY`).
            importance: (n,), how much each clip counts, > 0; all count 1 where None.
            vocabulary, feature_service: kept in the model.

        The targets are smoothed as in Platt (1999), so that one class alone still gives a finite model.

        Raises:
            ValueError: no clips, or inputs of another width.
        """
        if x.ndim != 2 or x.shape[0] == 0 or x.shape[1] != len(INPUT_NAMES):
            raise ValueError(f"confidence inputs have shape {x.shape}; (n ≥ 1, {len(INPUT_NAMES)}) is needed")
        counts = np.ones(len(x)) if importance is None else importance
        mean = np.average(x, axis=0, weights=counts)
        scale = np.maximum(np.sqrt(np.average((x - mean) ** 2, axis=0, weights=counts)), 1e-6)
        hits, misses = float(counts[right].sum()), float(counts[~right].sum())
        targets = np.where(right, (hits + 1) / (hits + 2), 1 / (misses + 2))
        own = INPUT_NAMES.index(LOG_ODDS)
        centre, ridge = np.zeros(len(INPUT_NAMES) + 1), np.full(len(INPUT_NAMES) + 1, penalty)
        centre[own], centre[-1] = scale[own], mean[own]
        ridge[INPUT_NAMES.index(UNKNOWN_WORDS)] = FREE_PENALTY
        *weights, bias = _newton((x - mean) / scale, targets, counts, centre, ridge).tolist()
        return cls(
            names=INPUT_NAMES,
            mean=tuple(mean.tolist()),
            scale=tuple(scale.tolist()),
            weights=tuple(weights),
            bias=bias,
            vocabulary=tuple(sorted(vocabulary)),
            feature_service=feature_service,
        )

    def to_json(self) -> str:
        """A JSON document that `from_json` reads back exactly."""
        return json.dumps({"type": "logistic", **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, document: str) -> ConfidenceModel:
        """Raises:
        ModelFileError: the document is no confidence model, or one over inputs that this program does not know.
        """
        try:
            content = json.loads(document)
            vectors = {k: tuple(float(v) for v in content[k]) for k in ("mean", "scale", "weights")}
            model = cls(
                names=tuple(content["names"]),
                bias=float(content["bias"]),
                vocabulary=tuple(str(word) for word in content.get("vocabulary", ())),
                feature_service=str(content.get("feature_service", "")),
                **vectors,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelFileError(f"document is no confidence model: {error!r}; fit it again") from error
        unknown = set(model.names) - {*INPUT_NAMES, NETWORK_LOG_ODDS}
        if unknown or not model.names or any(len(vector) != len(model.names) for vector in vectors.values()):
            raise ModelFileError(f"confidence model has inputs {model.names}, known are {INPUT_NAMES}; fit it again")
        if not np.isfinite([*model.mean, *model.scale, *model.weights, model.bias]).all() or 0.0 in model.scale:
            raise ModelFileError("confidence model has numbers that are not finite, or a scale of 0; fit it again")
        return model


def _newton(
    standard: NDArray[np.float64],
    targets: NDArray[np.float64],
    counts: NDArray[np.float64],
    centre: NDArray[np.float64],
    ridge: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Weights and bias (last) of the logistic regression whose squared distance from `centre` costs `ridge`."""
    design = np.column_stack([standard, np.ones(len(standard))])
    solution = centre.copy()
    for _ in range(NEWTON_STEPS):
        probability = _sigmoid(design @ solution)
        gradient = design.T @ (counts * (probability - targets)) + ridge * (solution - centre)
        hessian = (design.T * (counts * probability * (1 - probability))) @ design + np.diag(ridge)
        step = np.linalg.solve(hessian, gradient)
        longest = float(np.abs(step).max())
        solution -= step * min(1.0, LONGEST_STEP / max(longest, 1e-12))
        if longest < 1e-9:
            break
    return solution


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -LOGIT_LIMIT, LOGIT_LIMIT))))
