"""Every fact of a manifest is in its bill of materials, which is valid CycloneDX 1.6 and the same every time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.packaging.errors import BillOfMaterialsError
from voice_pipeline.packaging.mlbom import ml_bom
from voice_pipeline.schema.bundle import (
    BundleFile,
    BundleManifest,
    Footprint,
    GoldenVector,
    Parity,
    SliceFigures,
    SuiteFigures,
)
from voice_pipeline.schema.training import Interval

COUNTER = iter(range(10**6))


def some_digest() -> str:
    return f"{next(COUNTER):064x}"


def some_share() -> float:
    return next(COUNTER) / 10**6


def interval() -> Interval:
    low, value, high = sorted(some_share() for _ in range(3))
    return Interval(value=value, low=low, high=high)


def part(name: str) -> SliceFigures:
    counts = {key: 1000 + next(COUNTER) for key in ("clips", "speakers", "words")}
    return SliceFigures(slice=name, wer=interval(), cer=interval(), **counts)


def suite(suite_id: str, suite_digest: str, variant: str) -> SuiteFigures:
    return SuiteFigures(
        suite_id=suite_id, suite_digest=suite_digest, variant=variant, figures=(part("all"), part("condition:noise"))
    )


def manifest(**changes: Any) -> BundleManifest:
    """A manifest in which no two facts are alike."""
    core, other = some_digest(), some_digest()
    evaluations = (suite("core-v7", core, "float"), suite("core-v7", core, "int8"), suite("far-v2", other, "int8"))
    facts: dict[str, Any] = {
        "model_version": "m-20261102-00000001",
        "dataset_version": "ds-0123456789ab",
        "feature_schema_version": "clip_features_v1",
        "code_commit": f"{next(COUNTER):040x}",
        "lock_digest": some_digest(),
        "spec_digest": some_digest(),
        "parent_model_version": "m-20261001-0000000f",
        "suite_digest": core,
        "wer_float": evaluations[0].figures[0].wer.value,
        "wer_int8": evaluations[1].figures[0].wer.value,
        "owner": "team:speech",
        "created_at": datetime(2026, 11, 2, 9, 30, 15, tzinfo=UTC),
        "compression": "int8",
        "quantisation": "static-qdq",
        "opset": 18,
        "runtimes": ("onnxruntime>=1.17", "somert==3"),
        "min_app_version": "1.5.0",
        "frame_shift_s": 0.04125,
        "files": (
            BundleFile(path="golden/a.wav", sha256=some_digest(), length=4321),
            BundleFile(path="model.onnx", sha256=some_digest(), length=123456),
            BundleFile(path="model_card.json", sha256=some_digest(), length=99),
        ),
        "golden": (GoldenVector(path="golden/a.wav", text="call mary", log_probs_mean=-7.25, tolerance=0.0625),),
        "environment": {"python": "3.11.9", "onnxruntime": "1.31.1"},
        "hyperparameters": {"learning_rate": 0.00217, "epochs": 83, "ema": True, "preset": "tiny"},
        "evaluations": evaluations,
        "parity": Parity(clips=417, frames_alike=0.987, log_probs_mean_difference=0.0123, texts_alike=0.961),
        "footprint": Footprint(
            load_ms=38.5, clip_3s_p95_ms=11.75, peak_memory_mb=93.5, base_memory_mb=61.25, measured_on="x86_64, 2 cores"
        ),
    }
    return BundleManifest(**facts | changes)


def leaves(content: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value of a JSON document with the path to it."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from leaves(value, f"{path}.{name}")
    elif isinstance(content, list):
        for value in content:
            yield from leaves(value, f"{path}[]")
    else:
        yield path, content


def words_of(bill: bytes) -> set[str]:
    """Every name and value of a bill; numbers are texts in CycloneDX."""
    return {str(value) for _, value in leaves(json.loads(bill))}


def said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def model_of(bill: bytes) -> dict[str, Any]:
    model: dict[str, Any] = json.loads(bill)["metadata"]["component"]
    return model


def test_every_fact_of_a_manifest_is_in_its_bill_of_materials() -> None:
    whole = manifest()
    found = words_of(ml_bom(whole))
    slices = {f"{one.suite_id} {one.variant} {part.slice}" for one in whole.evaluations for part in one.figures}
    joined = (".evaluations[].variant", ".evaluations[].suite_id", ".evaluations[].figures[].slice")
    for path, value in leaves(whole.model_dump(mode="json")):
        if path not in joined:
            assert said(value) in found, f"{path} = {value!r} is not told"
    assert slices <= found
    assert whole.digest in found


def test_every_name_of_a_setting_is_told_beside_its_value() -> None:
    whole = manifest()
    model = model_of(ml_bom(whole))
    told = {each["name"]: each["value"] for each in model["properties"] + model["modelCard"]["properties"]}
    for name, value in whole.hyperparameters.items():
        assert told[f"voice_pipeline:hyperparameters.{name}"] == said(value)
    for name, value in whole.environment.items():
        assert told[f"voice_pipeline:environment.{name}"] == value


def test_a_metric_stands_with_its_own_slice_and_interval() -> None:
    whole = manifest()
    metrics = model_of(ml_bom(whole))["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    for one in whole.evaluations:
        for figures in one.figures:
            for kind, rate in (("wer", figures.wer), ("cer", figures.cer)):
                bounds = {"lowerBound": said(rate.low), "upperBound": said(rate.high)}
                where = f"{one.suite_id} {one.variant} {figures.slice}"
                told = {"type": kind, "value": said(rate.value), "slice": where, "confidenceInterval": bounds}
                assert told in metrics


def test_every_file_is_a_part_with_its_digest_and_the_manifest_has_the_digest_of_the_bundle() -> None:
    whole = manifest()
    parts = {part["name"]: part["hashes"] for part in model_of(ml_bom(whole))["components"]}
    expected = {file.path: file.sha256 for file in whole.files} | {"manifest.json": whole.digest}
    assert parts == {path: [{"alg": "SHA-256", "content": sha256}] for path, sha256 in expected.items()}


def test_the_parent_is_an_ancestor_and_data_and_runtimes_are_what_the_model_depends_on() -> None:
    bill = ml_bom(manifest())
    model, document = model_of(bill), json.loads(bill)
    assert [one["version"] for one in model["pedigree"]["ancestors"]] == ["m-20261001-0000000f"]
    needed = {one["bom-ref"]: one for one in document["components"]}
    names = {(one["type"], one["name"]) for one in needed.values()}
    assert names == {
        ("data", "training data"), ("data", "core-v7"), ("data", "far-v2"),
        ("framework", "onnxruntime"), ("framework", "somert"),
    }  # fmt: skip
    edges = {edge["ref"]: set(edge.get("dependsOn", ())) for edge in document["dependencies"]}
    assert edges[model["bom-ref"]] == set(needed)
    heard = {dataset["ref"] for dataset in model["modelCard"]["modelParameters"]["datasets"]}
    assert heard == {ref for ref, one in needed.items() if one["type"] == "data"}


def test_the_first_manifest_format_and_a_model_without_a_parent_have_a_bill_too() -> None:
    old = manifest(format_version=1, parent_model_version=None, evaluations=(), parity=None, footprint=None, golden=())
    bill = ml_bom(old)
    assert "ancestors" not in model_of(bill)["pedigree"]
    assert old.suite_digest in words_of(bill)
    assert said(old.wer_int8) in words_of(bill)


def test_the_bill_is_valid_by_the_published_schema_and_the_library_reads_it_back() -> None:
    bill = ml_bom(manifest())
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill.decode()) is None
    document = json.loads(bill)
    del document["metadata"]["component"]["modelCard"]  # which it cannot read (11.12)
    for component in document["components"]:
        component.pop("data", None)
    read = Bom.from_json(document)  # type: ignore[attr-defined]
    assert read.metadata.component.version == "m-20261102-00000001"
    assert len(read.metadata.component.components) == 4


def test_what_the_schema_refuses_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    from voice_pipeline.packaging import mlbom

    monkeypatch.setattr(mlbom, "_model_card", lambda manifest: {"invented": 1})
    with pytest.raises(BillOfMaterialsError, match="m-20261102-00000001"):
        ml_bom(manifest())


def test_another_manifest_has_another_serial_number() -> None:
    serials = {json.loads(ml_bom(manifest(owner=owner)))["serialNumber"] for owner in ("team:a", "team:b")}
    assert len(serials) == 2


@settings(max_examples=40, deadline=None)
@given(
    owner=st.text(min_size=1, max_size=30),
    hyperparameters=st.dictionaries(
        st.text(min_size=1, max_size=20),
        st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=20)),
        max_size=4,
    ),
    text=st.text(max_size=30),
)
def test_any_names_and_texts_give_a_valid_bill_that_is_the_same_every_time(
    owner: str, hyperparameters: dict[str, Any], text: str
) -> None:
    golden = (GoldenVector(path="golden/a.wav", text=text, log_probs_mean=-1.5),)
    odd = manifest(owner=owner, hyperparameters=hyperparameters, golden=golden)
    bill = ml_bom(odd)
    again = ml_bom(BundleManifest.model_validate_json(odd.model_dump_json()))
    assert bill == again
    told = words_of(bill)
    assert owner in told
    assert text in told
    assert {said(value) for value in hyperparameters.values()} <= told
