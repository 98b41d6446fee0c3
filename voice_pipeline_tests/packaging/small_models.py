"""Small untrained models, as training would leave them, and bundles of them, as packaging would sign them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from voice_pipeline.packaging.app_versions import first_app
from voice_pipeline.packaging.export import OPSET, onnx_bytes
from voice_pipeline.packaging.golden import golden_vectors
from voice_pipeline.packaging.graph import ort_bytes
from voice_pipeline.packaging.signing import sign_folder
from voice_pipeline.schema.bundle import BundleFile, BundleManifest, SliceFigures, SuiteFigures
from voice_pipeline.schema.canonical import canonical_json, sha256_bytes
from voice_pipeline.schema.dataset import EvalSuite, ManifestRow, Split
from voice_pipeline.schema.decoding import DecoderKind, Decoding
from voice_pipeline.schema.training import Hyperparameters, Interval, TrainingSpec
from voice_pipeline.settings import Settings
from voice_pipeline.speech.audio import encode_flac
from voice_pipeline.speech.beam import BeamSettings
from voice_pipeline.speech.confidence import INPUT_NAMES, ConfidenceModel
from voice_pipeline.speech.decoder import ARPA, DECODER, Decoder, read_decoder
from voice_pipeline.speech.encoder import AcousticModel
from voice_pipeline.speech.kneser_ney import estimate
from voice_pipeline.speech.shape import EncoderConfig
from voice_pipeline.speech.tokenizer import CharTokenizer
from voice_pipeline.store.manifest import manifest_bytes, shard_name
from voice_pipeline.store.shards import ShardMember, write_shard
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import dataset_versions, eval_suites, models

BATCH = "batch-20261102-001"
GREEDY = Decoding()
SHAPE = EncoderConfig(channels=16, kernels=(5, 7), stride=4)
CONFIDENCE = ConfidenceModel(INPUT_NAMES, *[tuple([value] * len(INPUT_NAMES)) for value in (0.0, 1.0, 0.1)], bias=0.0)


def network(seed: int, shape: EncoderConfig = SHAPE) -> AcousticModel:
    """An untrained network that mumbles instead of saying blank, and whose normalisation has seen something, so that
    its answers are not all alike.
    """
    import torch

    torch.manual_seed(seed)
    model = AcousticModel(shape)
    model.train()
    with torch.no_grad():
        model.encoder.head.bias.zero_()  # type: ignore[union-attr]
        for _ in range(3):
            model(torch.randn(2, 16_000) * 0.1)
    return model.eval()


def write_checkpoint(folder: Path, seed: int) -> None:
    """What training leaves: weights, shape, tokenizer, and the fitted confidence model."""
    import torch

    folder.mkdir(parents=True)
    torch.save(network(seed).state_dict(), folder / "model.pt")
    (folder / "config.json").write_text(json.dumps({"encoder": SHAPE.to_dict()}))
    (folder / "tokenizer.json").write_text(CharTokenizer().to_json())
    (folder / "confidence.json").write_text(CONFIDENCE.to_json())


def write_dataset(store: Store, dataset_version: str) -> None:
    """A dataset version in the working folder, of speakers who make noise, with a suite of its test clips."""
    random = np.random.default_rng(0)
    rows, members = [], []
    for number, split in enumerate([Split.TRAIN] * 12 + [Split.DEV] * 4 + [Split.TEST] * 6):
        flac = encode_flac(random.normal(0, 0.05, 9_600 + 400 * number).astype(np.float32))
        speaker, clip_id = f"speaker-{split}-{number % 3}", f"clip-{number:02}"
        rows.append(_row(clip_id, speaker, split, flac))
        members.append(ShardMember(clip_id, store.vault.encrypt(speaker, flac, clip_id)))
    folder = store.settings.dataset_repo / "data"
    write_shard(folder / shard_name(BATCH), members)
    manifest = manifest_bytes(store, rows)
    (folder / "manifest.parquet").write_bytes(manifest)
    test_ids = tuple(row.clip_id for row in rows if row.split is Split.TEST)
    suite = EvalSuite(
        suite_id="core-v1", name="core-v1", dataset_version=dataset_version, clip_ids=test_ids, digest="4" * 64
    )
    now = store.now().isoformat()
    version = {"dataset_version": dataset_version, "dvc_md5": dataset_version, "batches": [BATCH], "clips": len(rows)}
    version |= {"manifest_sha256": sha256_bytes(manifest), "validation": {}, "created_at": now, "sequence": 1}
    frozen = {"suite_id": suite.suite_id, "name": suite.name, "dataset_version": dataset_version}
    frozen |= {"digest": suite.digest, "suite": suite.model_dump(mode="json"), "created_at": now}
    with store.database.write() as connection:
        connection.execute(dataset_versions.insert(), version)
        connection.execute(eval_suites.insert(), frozen)


def _row(clip_id: str, speaker: str, split: Split, flac: bytes) -> ManifestRow:
    return ManifestRow(
        clip_id=clip_id,
        content_sha256=sha256_bytes(flac),
        speaker=speaker,
        consent_id=f"consent-{speaker}",
        split=split,
        text="call mary now",
        batch_id=BATCH,
        shard=shard_name(BATCH),
        duration_s=1.0,
        device_class="phone_low",
        microphone="built_in",
        locale="en-US",
        captured_at="2026-11-01",
    )


def add_trained_model(
    store: Store, model_version: str, dataset_version: str, seed: int = 0, decoding: Decoding = GREEDY
) -> TrainingSpec:
    """A catalogued model with its checkpoint and model card."""
    spec = TrainingSpec(
        dataset_version=dataset_version,
        feature_schema_version="clip_features_v1",
        code_commit="0" * 40,
        lock_digest="1" * 64,
        hyperparameters=Hyperparameters(),
        seed=seed,
        decoding=decoding,
    )
    home = store.settings.models / model_version
    write_checkpoint(home / "checkpoint", seed)
    (home / "model_card.md").write_text(f"# {model_version}")
    (home / "model_card.json").write_text("{}")
    row = {"model_version": model_version, "spec_digest": spec.digest, "spec": spec.model_dump(mode="json")}
    row |= {"dataset_version": dataset_version, "state": "trained", "cause": {}, "planned_at": store.now().isoformat()}
    with store.database.write() as connection:
        connection.execute(models.insert(), row)
    return spec


def searching_decoder(lm_weight: float = 1.0, unknown_penalty: float = 1.0) -> dict[str, bytes]:
    """Files of a beam search over a few short words, cheap enough to show in what an untrained network mumbles."""
    model = estimate(["a b c", "b c d", "e f", "g h i j k", "m n o p", "q r s t", "u v w x y z"], 2)
    decoder = Decoder.over(model, BeamSettings(lm_weight, 2.0, unknown_penalty, 8))
    return {ARPA: model.to_arpa().encode(), DECODER: decoder.to_json().encode()}


def suite_figures(suite_digest: str, wer_float: float, wer_int8: float) -> tuple[SuiteFigures, SuiteFigures]:
    """What a manifest tells of a suite on which the networks have these word error rates."""

    def told(variant: str, wer: float) -> SuiteFigures:
        rate = Interval(value=wer, low=wer, high=wer)
        overall = SliceFigures(slice="all", clips=4, speakers=2, words=20, wer=rate, cer=rate)
        return SuiteFigures(suite_id="suite-1", suite_digest=suite_digest, variant=variant, figures=(overall,))

    return told("float", wer_float), told("int8", wer_int8)


def sign_small_bundle(
    settings: Settings,
    model_version: str,
    seed: int,
    min_app: str | None = None,
    decoder: Mapping[str, bytes] = MappingProxyType({}),
) -> BundleManifest:
    """A signed bundle folder under `settings.bundles` whose network is a small float one; greedy without `decoder`.

    It demands the app that its files do, or `min_app`.
    """
    folder = settings.bundles / model_version
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(onnx_bytes(network(seed)))
    (folder / "model.ort").write_bytes(ort_bytes(folder / "model.onnx"))
    (folder / "tokenizer.json").write_text(CharTokenizer().to_json())
    (folder / "confidence.json").write_text(CONFIDENCE.to_json())
    for name, data in decoder.items():
        (folder / name).write_bytes(data)
    golden = golden_vectors(folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = BundleManifest(
        model_version=model_version,
        dataset_version="ds-000000000000",
        feature_schema_version="clip_features_v1",
        code_commit="0" * 40,
        lock_digest="1" * 64,
        spec_digest="2" * 64,
        parent_model_version=None,
        suite_digest="3" * 64,
        wer_int8=1.0,
        wer_float=1.0,
        owner="team:speech",
        created_at="2026-11-02T09:00:00Z",  # type: ignore[arg-type]
        quantisation="float",
        opset=OPSET,
        min_app_version=min_app or first_app(folder),
        frame_shift_s=SHAPE.frame_shift_s,
        files=tuple(
            BundleFile(
                path=path.relative_to(folder).as_posix(),
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                length=path.stat().st_size,
            )
            for path in paths
        ),
        golden=golden,
        evaluations=suite_figures("3" * 64, 1.0, 1.0),
        decoder=DecoderKind(read_decoder(folder).kind),
    )
    (folder / "manifest.json").write_bytes(canonical_json(manifest))
    sign_folder(folder, settings.keys)
    return manifest
