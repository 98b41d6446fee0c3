"""Calibrated confidence: the probability that a dictation needs no correction.

A logistic regression over posterior statistics and acoustic measures, fitted by Newton's method with an L2 prior
(Platt, 1999; Guo et al., 2017 on why raw posteriors of a network are over-confident). Only numpy: it runs on the
device.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from voice_pipeline.speech.decoding import PosteriorStats
from voice_pipeline.speech.errors import ModelFileError
from voice_pipeline.speech.measures import AcousticMeasures

INPUT_NAMES: tuple[str, ...] = (
    "mean_best",
    "min_best",
    "mean_word",
    "min_word",
    "mean_margin",
    "mean_entropy",
    "blank_share",
    "log_words",
    "characters_per_s",
    "snr_db",
    "loudness_dbfs",
)
"""The inputs of the model, in order."""

NEWTON_STEPS = 50
LOGIT_LIMIT = 30.0


def inputs(posteriors: PosteriorStats, measures: AcousticMeasures) -> NDArray[np.float64]:
    """The input vector of one clip, shape (len(INPUT_NAMES),)."""
    return np.array(
        [
            posteriors.mean_best,
            posteriors.min_best,
            posteriors.mean_word,
            posteriors.min_word,
            posteriors.mean_margin,
            posteriors.mean_entropy,
            posteriors.blank_share,
            np.log1p(posteriors.words),
            posteriors.characters / max(measures.duration_s, 1e-3),
            measures.snr_db,
            measures.loudness_dbfs,
        ]
    )


@dataclass(frozen=True)
class ConfidenceModel:
    """`sigmoid(bias + weights · (x - mean) / scale)`; all tuples have one value per name in `names`."""

    names: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float

    def probability(self, x: NDArray[np.float64]) -> float:
        """Probability in (0, 1) that the clip's text is entirely right, for one input vector."""
        standard = (x - np.array(self.mean)) / np.array(self.scale)
        logit = float(np.clip(self.bias + standard @ np.array(self.weights), -LOGIT_LIMIT, LOGIT_LIMIT))
        return float(1 / (1 + np.exp(-logit)))

    @classmethod
    def fit(cls, x: NDArray[np.float64], right: NDArray[np.bool_], penalty: float = 1.0) -> ConfidenceModel:
        """Fit to n clips: inputs (n, len(INPUT_NAMES)), and whether each text was entirely right.

        The targets are smoothed as in Platt (1999), so that one class alone still gives a finite model.

        Raises:
            ValueError: no clips, or inputs of another width.
        """
        if x.ndim != 2 or x.shape[0] == 0 or x.shape[1] != len(INPUT_NAMES):
            raise ValueError(f"confidence inputs have shape {x.shape}; (n ≥ 1, {len(INPUT_NAMES)}) is needed")
        mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
        design = np.column_stack([(x - mean) / scale, np.ones(len(x))])
        hits = int(right.sum())
        targets = np.where(right, (hits + 1) / (hits + 2), 1 / (len(x) - hits + 2))
        prior = np.diag([penalty] * x.shape[1] + [1e-6])
        solution = np.zeros(design.shape[1])
        for _ in range(NEWTON_STEPS):
            probability = 1 / (1 + np.exp(-np.clip(design @ solution, -LOGIT_LIMIT, LOGIT_LIMIT)))
            gradient = design.T @ (probability - targets) + prior @ solution
            hessian = (design.T * (probability * (1 - probability))) @ design + prior
            step = np.linalg.solve(hessian, gradient)
            solution -= step
            if float(np.abs(step).max()) < 1e-9:
                break
        *weights, bias = solution.tolist()
        return cls(INPUT_NAMES, tuple(mean.tolist()), tuple(scale.tolist()), tuple(weights), bias)

    def to_json(self) -> str:
        """A JSON document that `from_json` reads back exactly."""
        return json.dumps({"type": "logistic", **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, document: str) -> ConfidenceModel:
        """Raises:
        ModelFileError: the document is no confidence model, or one over other inputs.
        """
        try:
            content = json.loads(document)
            vectors = {k: tuple(float(v) for v in content[k]) for k in ("mean", "scale", "weights")}
            model = cls(names=tuple(content["names"]), bias=float(content["bias"]), **vectors)
        except (ValueError, KeyError, TypeError) as error:
            raise ModelFileError(f"document is no confidence model: {error!r}; fit it again") from error
        if model.names != INPUT_NAMES or any(len(v) != len(INPUT_NAMES) for v in vectors.values()):
            raise ModelFileError(f"confidence model has inputs {model.names}, not {INPUT_NAMES}; fit it again")
        return model
