"""The confidence of a hypothesis, computed where it is acted on: a device's claim is recorded, never trusted.

From what the device told of its posteriors, the acoustic features that the feature store serves online, and the
confidence model of the bundle that the device ran, by the function that the device itself uses (`speech.confidence`).
Device and triage therefore come to the same number; where they do not, somebody told something else than they computed.
Without posteriors (older apps), without features, or without that bundle in this home, the claim has to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from voice_pipeline.speech.confidence import ConfidenceModel
from voice_pipeline.speech.errors import ModelFileError
from voice_pipeline.store.feast_repo import FEATURE_SERVICE, Features
from voice_pipeline.store.store import Store

DOCUMENT = "confidence.json"
SAME = 1e-6
"""Claims this close to the computed value are the same: text and floats travel exactly, runtimes round differently."""


def bundled_model(store: Store, model_version: str | None) -> ConfidenceModel | None:
    """The confidence model in the bundle of `model_version`; None where it is not here, damaged, or over features of
    another service.
    """
    path = store.settings.bundles / str(model_version) / DOCUMENT
    if not model_version or not path.is_file():
        return None
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=32)
def _read(path: Path, _changed: int) -> ConfidenceModel | None:
    try:
        model = ConfidenceModel.from_json(path.read_text())
    except (ModelFileError, OSError, UnicodeDecodeError):
        return None
    return model if model.feature_service in ("", FEATURE_SERVICE) else None


def computed_confidence(
    model: ConfidenceModel | None, hypothesis: str | None, posteriors: Mapping[str, float] | None, features: Features
) -> float | None:
    """Probability in (0, 1) that `hypothesis` is entirely right; None where something that it needs is not known."""
    if model is None or hypothesis is None or not posteriors:
        return None
    return model.confidence(hypothesis, posteriors, features)


def disagrees(claimed: float | None, computed: float | None) -> bool:
    """Whether a device claims another confidence than its own statistics give."""
    return claimed is not None and computed is not None and abs(claimed - computed) > SAME
