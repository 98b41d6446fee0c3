"""The bundle: one folder with everything a device needs, and everything a person must know about it.

```
<model_version>/manifest.json      files with digests, provenance, golden vectors; its digest is `bundle_digest`
                model.onnx         int8, waveform in → log-probabilities out
                model.ort          the same for minimal builds of ONNX Runtime
                tokenizer.json  confidence.json  model_card.md  model_card.json
                decoder.json  lm.arpa    how posteriors become text; the language model of a beam search only
                golden/*.wav       synthetic speech with the text this model makes of it
<model_version>.sig                signature over the whole folder
```
Promise: a bundle is in the catalogue only after it was signed and verified on disk; a build killed half-way is done
again, a bundle once catalogued is never rebuilt: its digest is what gates and releases refer to. Golden sounds were
spoken by a synthesiser (eSpeak NG), so no person's voice travels to devices. A bundle demands the first app whose
client reads all of it (`packaging.app_versions`): an older one is not offered it, and refuses it if it is.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
from importlib import metadata
from pathlib import Path

from sqlalchemy import insert, select

from voice_pipeline.packaging.app_versions import first_app
from voice_pipeline.packaging.errors import BundleConflictError, MissingInputError
from voice_pipeline.packaging.export import OPSET, checkpoint_folder, exported
from voice_pipeline.packaging.footprint import footprint
from voice_pipeline.packaging.golden import golden_vectors
from voice_pipeline.packaging.graph import ort_bytes
from voice_pipeline.packaging.provenance import training_spec
from voice_pipeline.packaging.publication import record_publication
from voice_pipeline.packaging.quantise import QuantisedModel, int8_model_path, quantised
from voice_pipeline.packaging.repository import Publication, UpdateRepository
from voice_pipeline.packaging.signing import sign_folder, signing_public_key
from voice_pipeline.schema.bundle import BundleFile, BundleManifest, Footprint, GoldenVector, SliceFigures, SuiteFigures
from voice_pipeline.schema.canonical import canonical_json
from voice_pipeline.schema.dataset import EvalSuite
from voice_pipeline.schema.decoding import DecoderKind
from voice_pipeline.schema.training import EvaluationReport
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import bundles
from voice_pipeline.trust import MANIFEST, TrustError, verify_bundle

RUNTIMES = ("python", "torch", "onnx", "onnxruntime", "numpy")


def build_bundle(store: Store, model_version: str) -> BundleManifest:
    """Assemble, sign, verify and catalogue the bundle of `model_version`; one that is catalogued is verified again.

    Raises:
        MissingInputError: the model was not quantised, calibrated, described or evaluated.
        BundleConflictError: the catalogued bundle was changed on disk, or holds another network.
    """
    quantisation = quantised(store, model_version)
    if quantisation is None:
        raise MissingInputError(f"model {model_version} has no intact int8 graph; materialise quantized_model first")
    folder = store.settings.bundles / model_version
    known = catalogued(store, model_version)
    if known is not None:
        return _verified_again(store, folder, known, quantisation)
    building = folder.with_name(f".{model_version}.building")
    shutil.rmtree(building, ignore_errors=True)
    golden = _write_files(store, model_version, building)
    suite, reports = _measured(store, model_version, building)
    manifest = _manifest(store, model_version, building, golden, quantisation, suite, reports)
    write_atomically(building / MANIFEST, canonical_json(manifest))
    shutil.rmtree(folder, ignore_errors=True)  # left by a build that was killed before it was catalogued
    building.rename(folder)
    sign_folder(folder, store.settings.keys)
    verify_bundle(folder, signing_public_key(store.settings.keys), manifest.digest)
    with store.database.write() as connection:
        connection.execute(
            insert(bundles).values(
                bundle_digest=manifest.digest,
                model_version=model_version,
                uri=str(folder),
                manifest=manifest.model_dump(mode="json"),
                size=sum(file.length for file in manifest.files),
                created_at=store.now().isoformat(),
            )
        )
    return manifest


def publish(store: Store, model_version: str) -> Publication:
    """Offer the catalogued bundle in the update repository; the first time a ledger line says so, repeats do nothing.
    Where the offline keys are elsewhere it waits for them, unpublished: `packaging.publication` records it later.

    Raises:
        MissingInputError: no bundle of that model is catalogued.
        BundleConflictError: it was changed on disk since.
    """
    manifest, folder = catalogued(store, model_version), store.settings.bundles / model_version
    if manifest is None:
        raise MissingInputError(f"model {model_version} has no bundle; materialise signed_bundle first")
    _verify(store, folder, manifest)
    publication = UpdateRepository(store.settings, store.now()).publish(folder, manifest)
    if publication.in_force:
        archive = (publication.archive_sha256, publication.archive_bytes)
        record_publication(store, model_version, manifest.digest, *archive)
    return publication


def catalogued(store: Store, model_version: str) -> BundleManifest | None:
    """The manifest of the catalogued bundle of a model, or None."""
    row = store.database.scalar(select(bundles.c.manifest).where(bundles.c.model_version == model_version))
    return BundleManifest.model_validate(row) if row else None


def _verify(store: Store, folder: Path, manifest: BundleManifest) -> None:
    try:
        verify_bundle(folder, signing_public_key(store.settings.keys), manifest.digest)
    except TrustError as error:
        raise BundleConflictError(f"catalogued bundle no longer verifies: {error}; restore {folder}") from error


def _verified_again(store: Store, folder: Path, known: BundleManifest, quantisation: QuantisedModel) -> BundleManifest:
    network = next(file.sha256 for file in known.files if file.path == "model.onnx")
    if network != quantisation.sha256:
        raise BundleConflictError(
            f"model {known.model_version} was bundled with network {network[:12]}, now there is "
            f"{quantisation.sha256[:12]}; restore the former or plan a model with another seed"
        )
    _verify(store, folder, known)
    return known


def _write_files(store: Store, model_version: str, folder: Path) -> tuple[GoldenVector, ...]:
    """Everything but the manifest; returns the golden vectors."""
    home, checkpoint = store.settings.models / model_version, checkpoint_folder(store, model_version)
    network = int8_model_path(store, model_version)
    sources = {
        "model.onnx": network,
        "tokenizer.json": checkpoint / "tokenizer.json",
        "confidence.json": checkpoint / "confidence.json",
        "model_card.md": home / "model_card.md",
        "model_card.json": home / "model_card.json",
    }
    makers = {"confidence.json": "confidence_model", "model_card.md": "model_card", "model_card.json": "model_card"}
    for name, source in sources.items():
        if not source.is_file():
            raise MissingInputError(
                f"model {model_version} has no {name}; materialise {makers.get(name, 'acoustic_model')} first"
            )
        write_atomically(folder / name, source.read_bytes())
    for name, data in decoder_files(store, model_version).items():
        write_atomically(folder / name, data)
    write_atomically(folder / "model.ort", _flat_form(network))
    return golden_vectors(folder)


def decoder_files(store: Store, model_version: str) -> dict[str, bytes]:
    """Names and contents of what the model decodes with; nothing for a greedy model from before there was a choice.

    Raises:
        MissingInputError: the spec asks for a search and the decoder was not chosen, or its files are damaged.
    """
    from voice_pipeline.speech.decoder import ARPA, DECODER, open_decoder, read_decoder
    from voice_pipeline.speech.errors import SpeechError
    from voice_pipeline.speech.tokenizer import CharTokenizer

    checkpoint = checkpoint_folder(store, model_version)
    if not (checkpoint / DECODER).is_file():
        if training_spec(store, model_version).decoding.kind is DecoderKind.BEAM:
            raise MissingInputError(f"model {model_version} has no {DECODER}; materialise language_model first")
        return {}
    try:
        open_decoder(checkpoint, CharTokenizer.from_json((checkpoint / "tokenizer.json").read_text()))
        names = [DECODER, ARPA] if read_decoder(checkpoint).beam else [DECODER]
        return {name: (checkpoint / name).read_bytes() for name in names}
    except (SpeechError, OSError) as error:
        raise MissingInputError(f"model {model_version} has no sound decoder: {error}") from error


def _flat_form(network: Path) -> bytes:
    """The `.ort` form, made once for each network: ONNX Runtime 1.31 writes its tables in another order every time."""
    kept = network.with_name(f"{hashlib.sha256(network.read_bytes()).hexdigest()[:16]}.ort")
    if not kept.exists():
        write_atomically(kept, ort_bytes(network))
    return kept.read_bytes()


def _footprint(store: Store, model_version: str, folder: Path) -> Footprint:
    """What the files in `folder` cost, measured once for each network and decoder: a build that is done again gives the
    same manifest.
    """
    from voice_pipeline.evaluation.artifacts import INT8, NETWORK, heard_sha256

    heard = heard_sha256(folder / NETWORK[INT8], folder)
    kept = int8_model_path(store, model_version).with_name(f"{heard[:16]}.footprint.json")
    if not kept.exists():
        write_atomically(kept, footprint(folder).model_dump_json().encode())
    return Footprint.model_validate_json(kept.read_bytes())


def _measured(
    store: Store, model_version: str, folder: Path
) -> tuple[EvalSuite, tuple[EvaluationReport, EvaluationReport]]:
    """The current suite, and what the float network and the int8 one in `folder` make of it; both reports are stored.

    The int8 network is heard with the files that a device gets, one thread.
    """
    from voice_pipeline.evaluation.artifacts import FLOAT, INT8, NETWORK, Artifact, heard_sha256, report_for, report_on
    from voice_pipeline.evaluation.suites import current_suite

    suite = current_suite(store)
    packed = Artifact(model_version, INT8, folder, heard_sha256(folder / NETWORK[INT8], folder))
    return suite, (report_for(store, model_version, FLOAT, suite), report_on(store, packed, suite))


def _figures(report: EvaluationReport) -> SuiteFigures:
    """A report's figures over the whole suite and under each of its conditions."""
    told = [part for part in report.parts if part is report.overall or part.slice.startswith("condition:")]
    return SuiteFigures(
        suite_id=report.suite_id,
        suite_digest=report.suite_digest,
        variant=report.variant,
        figures=tuple(
            SliceFigures(
                slice=part.slice,
                clips=part.clips,
                speakers=part.speakers,
                words=part.words,
                wer=part.wer,
                cer=part.cer,
            )
            for part in told
        ),
    )


def _manifest(
    store: Store,
    model_version: str,
    folder: Path,
    golden: tuple[GoldenVector, ...],
    quantisation: QuantisedModel,
    suite: EvalSuite,
    reports: tuple[EvaluationReport, EvaluationReport],
) -> BundleManifest:
    from voice_pipeline.speech.decoder import read_decoder
    from voice_pipeline.speech.recogniser import SHORTEST_INPUT

    spec, export = training_spec(store, model_version), exported(store, model_version)
    if export is None:
        raise MissingInputError(f"model {model_version} has no intact ONNX graph; materialise onnx_model first")
    return BundleManifest(
        model_version=model_version,
        dataset_version=spec.dataset_version,
        feature_schema_version=spec.feature_schema_version,
        code_commit=spec.code_commit,
        lock_digest=spec.lock_digest,
        spec_digest=spec.digest,
        parent_model_version=spec.parent_model_version,
        suite_digest=suite.digest,
        wer_float=reports[0].overall.wer.value,
        wer_int8=reports[1].overall.wer.value,
        owner=store.settings.owner,
        created_at=store.now(),
        compression="int8",
        quantisation=quantisation.method,
        opset=OPSET,
        min_app_version=first_app(folder),
        frame_shift_s=export.frame_shift_s,
        files=tuple(_file(folder, path) for path in sorted(folder.rglob("*")) if path.is_file()),
        golden=golden,
        environment={name: _version(name) for name in RUNTIMES},
        hyperparameters={**spec.hyperparameters.model_dump(mode="json"), "seed": spec.seed},
        evaluations=tuple(_figures(report) for report in reports),
        parity=quantisation.parity,
        footprint=_footprint(store, model_version, folder),
        decoder=DecoderKind(read_decoder(folder).kind),
        shortest_input=SHORTEST_INPUT,
    )


def _file(folder: Path, path: Path) -> BundleFile:
    data = path.read_bytes()
    return BundleFile(
        path=path.relative_to(folder).as_posix(), sha256=hashlib.sha256(data).hexdigest(), length=len(data)
    )


def _version(name: str) -> str:
    return platform.python_version() if name == "python" else metadata.version(name)
