"""A home of its own for the rollback benchmark: two published bundles, one live, the other as often a canary as wanted.

Bundles, signatures, update repository, ledger lines and policy are real; the networks are small and untrained, because
the devices of the benchmark share the cores of one host (what a switch of a trained model costs a device is
`update_seconds`). Gates and promotion tests are not what is measured: the verdicts are made up, and the releases are
written into this home's ledger by the release machine itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from voice_pipeline.release.policy import release_policy
from voice_pipeline.schema.bundle import BundleFile, BundleManifest
from voice_pipeline.schema.canonical import canonical_json, sha256_bytes
from voice_pipeline.schema.ids import release_id
from voice_pipeline.schema.release import Outcome, Verdict
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.settings import Settings
from voice_pipeline.store.releases import ReleaseView, find_release, releases_at_head
from voice_pipeline.store.store import Store

if TYPE_CHECKING:
    from voice_pipeline.speech.shape import EncoderConfig

LIVE, CANARY = "m-20260101-00000001", "m-20260101-00000002"
CHANNELS = 16
ACTOR = "rollback-bench"
TO_LIVE = (S.CANDIDATE, S.AWAITING_SIGN_OFF, S.PRODUCTION)
TO_CANARY = (S.CANDIDATE, S.GATED, S.SHADOW, S.CANARY_5, S.CANARY_25, S.CANARY_50)


def found_home(root: Path, policy_dir: Path) -> Store:
    """A store under `root` with both bundles on offer and LIVE live, under the policies of `policy_dir`.

    Everything is embedded in `root`, whatever the environment says, and nobody is alerted.
    """
    settings = Settings(
        home=root,
        policy_dir=policy_dir,
        database_url="",
        vault_url="",
        blob_url="",
        mlflow_url="",
        device_lab_url="",
        alert_urls=(),
        offline_keys=None,
    )
    store = Store.open(settings)
    for seed, model_version in enumerate((LIVE, CANARY)):
        _publish(store, _signed_bundle(settings, model_version, seed))
    _release(store, LIVE, TO_LIVE)
    _pass_gates(store)
    return store


def start_canary(store: Store) -> ReleaseView:
    """CANARY as a new release, answering on half of the devices from now on."""
    return _release(store, CANARY, TO_CANARY)


def _release(store: Store, model_version: str, states: Sequence[S]) -> ReleaseView:
    """A new release of the model, brought to the last of `states`; what follows the sign-off is written by itself, the
    rest in one transaction, so that no tick of a sensor sees it on the way.
    """
    from voice_pipeline.release.gates.evidence import published_bundle
    from voice_pipeline.release.machine import Step, write_steps

    _, views = releases_at_head(store)
    name = release_id(model_version, 1 + sum(view.model_version == model_version for view in views))
    digest = published_bundle(store, model_version).bundle_digest
    steps = [
        Step(name, model_version, digest, before, state, "benchmark of the rollback")
        for before, state in zip((None, *states), states, strict=False)
    ]
    signed_off = [step for step in steps if step.from_state is S.AWAITING_SIGN_OFF]
    for batch in (steps[: len(steps) - len(signed_off)], signed_off):
        head, views = releases_at_head(store)
        if batch:
            write_steps(store, head, views, batch, release_policy(store).digest, ACTOR)
    view = find_release(store, name)
    assert view is not None
    return view


def _pass_gates(store: Store) -> None:
    """Verdicts with which CANARY may stay where it is: the sensor would ask for missing ones to be judged."""
    from voice_pipeline.release.gates.evidence import GATES, published_bundle, store_verdicts, verdict_uri
    from voice_pipeline.schema.evaluation_policy import load_evaluation_policy

    champion, canary = (published_bundle(store, model).bundle_digest for model in (LIVE, CANARY))
    suite = published_bundle(store, CANARY).manifest.suite_digest
    evidence = verdict_uri(suite, champion, load_evaluation_policy(store.settings.policy_dir).digest)
    verdict = Verdict(
        gate="",
        bundle_digest=canary,
        policy_digest=release_policy(store).digest,
        metric="none",
        value=None,
        threshold=None,
        outcome=Outcome.PASS,
        detail="not judged: a benchmark of the rollback",
        evidence=evidence,
        at=store.now(),
    )
    store_verdicts(store, CANARY, [verdict.model_copy(update={"gate": gate}) for gate in GATES])


def _publish(store: Store, manifest: BundleManifest) -> None:
    from sqlalchemy import insert

    from voice_pipeline.packaging.publication import record_publication
    from voice_pipeline.packaging.repository import UpdateRepository
    from voice_pipeline.store.tables import bundles

    folder = store.settings.bundles / manifest.model_version
    row = insert(bundles).values(
        bundle_digest=manifest.digest,
        model_version=manifest.model_version,
        uri=str(folder),
        manifest=manifest.model_dump(mode="json"),
        size=(folder / "model.onnx").stat().st_size,
        created_at=store.now().isoformat(),
    )
    with store.database.write() as connection:
        connection.execute(row)
    offered = UpdateRepository(store.settings, store.now()).publish(folder, manifest)
    record_publication(store, manifest.model_version, manifest.digest, offered.archive_sha256, offered.archive_bytes)


def _signed_bundle(settings: Settings, model_version: str, seed: int) -> BundleManifest:
    """A signed folder under `settings.bundles`. Its format 1 needs no figures, and an untrained network has none."""
    from voice_pipeline.packaging.export import OPSET
    from voice_pipeline.packaging.golden import golden_vectors
    from voice_pipeline.packaging.signing import sign_folder
    from voice_pipeline.speech.shape import EncoderConfig

    folder = settings.bundles / model_version
    folder.mkdir(parents=True)
    shape = EncoderConfig(channels=CHANNELS, kernels=(5, 7), stride=4)
    _write_network(folder, shape, seed)
    golden = golden_vectors(folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    nothing = sha256_bytes(b"")
    manifest = BundleManifest(
        format_version=1,
        model_version=model_version,
        dataset_version="ds-000000000000",
        feature_schema_version="clip_features_v1",
        code_commit="",
        lock_digest=nothing,
        spec_digest=nothing,
        parent_model_version=None,
        suite_digest=nothing,
        wer_int8=1.0,
        wer_float=1.0,
        owner=settings.owner,
        created_at="2026-01-01T00:00:00Z",  # type: ignore[arg-type]
        quantisation="float",
        opset=OPSET,
        frame_shift_s=shape.frame_shift_s,
        files=tuple(_file(folder, path) for path in paths),
        golden=golden,
    )
    (folder / "manifest.json").write_bytes(canonical_json(manifest))
    sign_folder(folder, settings.keys)
    return manifest


def _write_network(folder: Path, shape: EncoderConfig, seed: int) -> None:
    import torch

    from voice_pipeline.packaging.export import onnx_bytes
    from voice_pipeline.packaging.graph import ort_bytes
    from voice_pipeline.speech.confidence import INPUT_NAMES, ConfidenceModel
    from voice_pipeline.speech.encoder import AcousticModel
    from voice_pipeline.speech.tokenizer import CharTokenizer

    torch.manual_seed(seed)
    (folder / "model.onnx").write_bytes(onnx_bytes(AcousticModel(shape).eval()))
    (folder / "model.ort").write_bytes(ort_bytes(folder / "model.onnx"))
    (folder / "tokenizer.json").write_text(CharTokenizer().to_json())
    means, scales, weights = (tuple([value] * len(INPUT_NAMES)) for value in (0.0, 1.0, 0.1))
    (folder / "confidence.json").write_text(ConfidenceModel(INPUT_NAMES, means, scales, weights, bias=0.0).to_json())


def _file(folder: Path, path: Path) -> BundleFile:
    data = path.read_bytes()
    return BundleFile(path=path.relative_to(folder).as_posix(), sha256=sha256_bytes(data), length=len(data))
