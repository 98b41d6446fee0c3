"""A manifest's digest names it for good: in gates, in the ledger, on devices."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from voice_pipeline.schema.bundle import GOLDEN_SINCE_2, SINCE_2, BundleManifest
from voice_pipeline.schema.canonical import canonical_json, digest
from voice_pipeline_tests.packaging.small_models import suite_figures

OF_FORMAT_1: dict[str, Any] = {
    "format_version": 1,
    "model_version": "m-20261102-00000001",
    "dataset_version": "ds-000000000000",
    "feature_schema_version": "clip_features_v1",
    "code_commit": "0" * 40,
    "lock_digest": "1" * 64,
    "spec_digest": "2" * 64,
    "parent_model_version": None,
    "suite_digest": "3" * 64,
    "wer_int8": 0.25,
    "wer_float": 0.2,
    "owner": "team:speech",
    "created_at": "2026-11-02T09:00:00Z",
    "packaging_format": "onnx",
    "compression": "int8",
    "quantisation": "static-qdq",
    "opset": 18,
    "runtimes": ["onnxruntime>=1.17"],
    "min_app_version": "1.0.0",
    "sample_rate": 16000,
    "input_name": "waveform",
    "output_name": "log_probs",
    "frame_shift_s": 0.02,
    "files": [{"path": "model.onnx", "sha256": "4" * 64, "length": 7}],
    "golden": [{"path": "golden/a.wav", "text": "a", "log_probs_mean": -0.1, "tolerance": 0.05}],
    "environment": {"numpy": "2.4.6"},
}


def _of_format_2(**changes: Any) -> dict[str, Any]:
    figures = [suite.model_dump(mode="json") for suite in suite_figures("3" * 64, 0.2, 0.25)]
    return {**OF_FORMAT_1, "format_version": 2, "evaluations": figures, **changes}


def test_a_manifest_of_format_1_keeps_the_digest_that_it_was_released_with() -> None:
    read = BundleManifest.model_validate(OF_FORMAT_1)
    assert canonical_json(read) == canonical_json(OF_FORMAT_1)
    assert read.digest == digest(OF_FORMAT_1)


def test_a_manifest_of_format_2_comes_back_as_it_was_written() -> None:
    golden = [{**OF_FORMAT_1["golden"][0], "best_classes": [0, 3, 3, 0], "frames_alike": 0.9}]
    changes = {"hyperparameters": {"batch_size": 16, "seed": 1}, "golden": golden}
    written = BundleManifest.model_validate(_of_format_2(**changes))
    assert set(GOLDEN_SINCE_2) <= set(written.model_dump()["golden"][0])
    assert set(SINCE_2) <= set(written.model_dump())
    assert BundleManifest.model_validate_json(canonical_json(written)) == written


@pytest.mark.parametrize("changes", [{"evaluations": []}, {"wer_int8": 0.26}, {"suite_digest": "5" * 64}])
def test_headline_figures_that_no_evaluation_has_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="not those of evaluations"):
        BundleManifest.model_validate(_of_format_2(**changes))


def test_a_format_of_the_future_is_refused() -> None:
    with pytest.raises(ValidationError, match="format_version"):
        BundleManifest.model_validate(_of_format_2(format_version=3))
