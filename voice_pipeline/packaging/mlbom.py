"""A bundle's manifest as a machine-learning bill of materials, CycloneDX 1.6 (https://cyclonedx.org/docs/1.6/json/).

```
metadata.component   the model: owner as supplier, pedigree (commit, parent model), plain facts as properties
      .components    its files with sha256; golden vectors as properties of their sounds
      .modelCard     task, input, output, hyperparameters, WER and CER with 95 % intervals by slice, parity, footprint
components           the dataset version, the evaluation suites, the runtimes: what the model depends on
```
Promises: every fact of the manifest is in it; equal manifests give equal bytes (the serial number follows from
`bundle_digest`, the timestamp is `created_at`); nothing is returned that the published JSON schema refuses.

CycloneDX's own library builds, writes and validates the document. What it has no classes for (11.12, 2026-11), the
objects `modelCard` and `data` of the specification, is added to what the library wrote before the library validates.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from voice_pipeline.packaging.errors import BillOfMaterialsError, MissingInputError
from voice_pipeline.schema.bundle import BundleManifest, SuiteFigures
from voice_pipeline.store.store import Store
from voice_pipeline.trust import MANIFEST

if TYPE_CHECKING:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component

NAME = "dictation"
"""Of the model component; its version is the model version."""
PREFIX = "voice_pipeline:"
"""Of every property name."""
CARD = "model_card.json"
TOLD_ELSEWHERE = ("files", "golden", "evaluations", "hyperparameters")
"""Fields of the manifest that are not among the model's properties."""


def bill_of_materials(store: Store, model_version: str) -> bytes:
    """The bill of materials of a catalogued bundle.

    Raises:
        MissingInputError: no bundle of that model is catalogued.
        BillOfMaterialsError: its manifest holds what CycloneDX cannot say.
    """
    from voice_pipeline.packaging.bundle import catalogued

    manifest = catalogued(store, model_version)
    if manifest is None:
        raise MissingInputError(f"model {model_version} has no bundle; `voice-pipeline training list` shows all models")
    return ml_bom(manifest)


def ml_bom_name(model_version: str) -> str:
    """The file name of a model's bill of materials."""
    return f"{model_version}.cdx.json"


def ml_bom(manifest: BundleManifest) -> bytes:
    """The bill of materials of a bundle: UTF-8 JSON.

    Raises:
        BillOfMaterialsError: the manifest holds what CycloneDX cannot say.
    """
    from cyclonedx.model.bom import Bom
    from cyclonedx.output.json import JsonV1Dot6

    model, needed = _model(manifest), [*_datasets(manifest), *_runtimes(manifest)]
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_OID, manifest.digest), components=needed)
    bom.metadata.timestamp = manifest.created_at
    bom.metadata.component = model
    bom.register_dependency(model, needed)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    document["metadata"]["component"]["modelCard"] = _model_card(manifest)
    for component in document["components"]:
        if component["type"] == "data":
            component["data"] = [{"type": "dataset", "name": component["name"]}]
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    _validate(text, manifest.model_version)
    return text.encode()


def _validate(text: str, model_version: str) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error is not None:
        why = str(error).splitlines()[0]
        raise BillOfMaterialsError(f"bill of materials of {model_version} is not valid CycloneDX 1.6: {why}")


def _model(manifest: BundleManifest) -> Component:
    """The model with its parts and where it came from."""
    from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri
    from cyclonedx.model.component import Commit, Component, ComponentType, Pedigree
    from cyclonedx.model.contact import OrganizationalEntity

    name, parent = manifest.model_version, manifest.parent_model_version
    references = [ExternalReference(type=ExternalReferenceType.DIGITAL_SIGNATURE, url=XsUri(f"{name}.sig"))]
    if CARD in {file.path for file in manifest.files}:
        references.append(ExternalReference(type=ExternalReferenceType.MODEL_CARD, url=XsUri(f"{name}/{CARD}")))
    content = manifest.model_dump(mode="json")
    plain = {name: value for name, value in content.items() if name not in TOLD_ELSEWHERE}
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=NAME,
        version=name,
        bom_ref=f"model:{name}",
        supplier=OrganizationalEntity(name=manifest.owner),
        components=_parts(manifest),
        pedigree=Pedigree(
            ancestors=[_parent(parent)] if parent else [],
            commits=[Commit(uid=manifest.code_commit)],
        ),
        external_references=references,
        properties=_properties({"bundle_digest": manifest.digest, **plain}),
    )


def _parent(model_version: str) -> Component:
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=NAME,
        version=model_version,
        bom_ref=f"parent:{model_version}",
    )


def _parts(manifest: BundleManifest) -> list[Component]:
    """Every file of the bundle, the manifest itself included: its sha256 is the bundle digest."""
    golden = {vector.path: vector.model_dump(mode="json", exclude={"path"}) for vector in manifest.golden}
    named = [
        _hashed("file", file.path, file.sha256, {"length": file.length, "golden": golden.get(file.path, {})})
        for file in manifest.files
    ]
    return [_hashed("file", MANIFEST, manifest.digest, {}), *named]


def _datasets(manifest: BundleManifest) -> list[Component]:
    """The dataset version that was learnt from, and the suites that were heard."""
    from cyclonedx.model.component import Component, ComponentType

    learnt = Component(
        type=ComponentType.DATA,
        name="training data",
        version=manifest.dataset_version,
        bom_ref=f"data:{manifest.dataset_version}",
        properties=_properties({"feature_schema_version": manifest.feature_schema_version}),
    )
    suites = {manifest.suite_digest: "evaluation suite"}
    suites |= {suite.suite_digest: suite.suite_id for suite in manifest.evaluations}
    return [learnt, *(_hashed("data", name, sha256, {}) for sha256, name in suites.items())]


def _hashed(kind: str, name: str, sha256: str, facts: dict[str, Any]) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        type=ComponentType(kind),
        name=name,
        bom_ref=f"{kind}:{name}:{sha256}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
        properties=_properties(facts),
    )


def _runtimes(manifest: BundleManifest) -> list[Component]:
    """What runs the model, as requirements; one of them is enough."""
    from cyclonedx.model.component import Component, ComponentType

    return [
        Component(
            type=ComponentType.FRAMEWORK,
            name=re.split(r"[<>=!~;\[ ]", runtime)[0] or runtime,
            bom_ref=f"runtime:{runtime}",
            properties=_properties({"requirement": runtime, "opset": manifest.opset}),
        )
        for runtime in dict.fromkeys(manifest.runtimes)
    ]


def _model_card(manifest: BundleManifest) -> dict[str, Any]:
    """`modelCard` of the specification."""
    hertz, shift = manifest.sample_rate, manifest.frame_shift_s
    heard = f"{manifest.input_name}: float32 (1, samples), mono, {hertz} Hz, in [-1, 1]"
    told = f"{manifest.output_name}: float32 (1, frames, classes), log-probabilities, a frame every {shift} s"
    card: dict[str, Any] = {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "automatic speech recognition",
            "architectureFamily": "convolutional network, connectionist temporal classification",
            "datasets": [{"ref": dataset.bom_ref.value} for dataset in _datasets(manifest)],
            "inputs": [{"format": heard}],
            "outputs": [{"format": told}],
        },
        "quantitativeAnalysis": {"performanceMetrics": [*_rates(manifest.evaluations), *_measured(manifest)]},
    }
    facts: dict[str, Any] = {"hyperparameters": manifest.hyperparameters}
    for suite in manifest.evaluations:
        for part in suite.figures:
            counts = {"clips": part.clips, "speakers": part.speakers, "words": part.words}
            facts[f"evaluations.{_slice(suite, part.slice)}"] = counts
    card["properties"] = [{"name": each.name, "value": each.value} for each in _properties(facts)]
    return card


def _rates(evaluations: Iterable[SuiteFigures]) -> Iterator[dict[str, Any]]:
    """WER and CER (fractions) of every slice with their 95 % intervals."""
    for suite in evaluations:
        for part in suite.figures:
            for kind, rate in (("wer", part.wer), ("cer", part.cer)):
                yield {
                    "type": kind,
                    "value": _text(rate.value),
                    "slice": _slice(suite, part.slice),
                    "confidenceInterval": {"lowerBound": _text(rate.low), "upperBound": _text(rate.high)},
                }


def _slice(suite: SuiteFigures, part: str) -> str:
    return f"{suite.suite_id} {suite.variant} {part}"


def _measured(manifest: BundleManifest) -> Iterator[dict[str, Any]]:
    """The numbers of `parity` and `footprint`."""
    for name, record in (("parity", manifest.parity), ("footprint", manifest.footprint)):
        for field, value in record or ():
            if isinstance(value, int | float):
                yield {"type": f"{name}.{field}", "value": _text(value)}


def _properties(facts: dict[str, Any]) -> list[Property]:
    """`facts`, nested ones by dotted names, sorted; what is None is left out."""
    from cyclonedx.model import Property

    return [Property(name=PREFIX + name, value=value) for name, value in sorted(_flat(facts))]


def _flat(facts: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield from ((prefix + name, _text(item)) for item in value)
        elif value is not None:
            yield prefix + name, _text(value)


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else json.dumps(value)
