"""What checks look at: graphs and bundles as they lie on disk now, not as they were when made."""

from __future__ import annotations

from dataclasses import dataclass

from voice_pipeline.packaging.bundle import catalogued
from voice_pipeline.packaging.export import TOLERANCE, exported
from voice_pipeline.packaging.quantise import quantised
from voice_pipeline.packaging.signing import signing_public_key
from voice_pipeline.store.store import Store
from voice_pipeline.trust import TrustError, verify_bundle

ACCEPTED_LOSS = 0.01
"""Development WER (a fraction) that int8 may cost before people are told; the release gate decides on the suite."""


@dataclass(frozen=True)
class Finding:
    """Whether a promise holds, with the figures that say so."""

    holds: bool
    figures: dict[str, str | float]


def graph_is_faithful(store: Store, model_version: str) -> Finding:
    """The float graph on disk is the one that was compared with the checkpoint, and was close enough."""
    record = exported(store, model_version)
    if record is None:
        return Finding(False, {"problem": "the graph is missing or was changed; materialise onnx_model again"})
    return Finding(record.largest_error <= TOLERANCE, {"largest_error": record.largest_error, "sha256": record.sha256})


def int8_costs_little(store: Store, model_version: str) -> Finding:
    """The chosen int8 graph loses at most `ACCEPTED_LOSS` WER on development clips against the float graph."""
    record = quantised(store, model_version)
    if record is None:
        return Finding(
            False, {"problem": "the int8 graph is missing or was changed; materialise quantized_model again"}
        )
    loss = record.wer_of(record.method) - record.wer_of("float")
    return Finding(loss <= ACCEPTED_LOSS, {"loss": loss, "method": record.method, "words": record.development_words})


def bundle_is_sound(store: Store, model_version: str) -> Finding:
    """The catalogued bundle verifies: signature, every file, digest."""
    manifest = catalogued(store, model_version)
    if manifest is None:
        return Finding(False, {"problem": "no bundle is catalogued; materialise signed_bundle again"})
    try:
        folder = store.settings.bundles / model_version
        verify_bundle(folder, signing_public_key(store.settings.keys), manifest.digest)
    except TrustError as error:
        return Finding(False, {"problem": str(error)})
    return Finding(True, {"bundle_digest": manifest.digest})
