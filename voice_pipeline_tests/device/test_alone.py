"""`voice_pipeline.device` lives a whole life with onnxruntime, tuf, httpx, numpy, pydantic and what these require."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from voice_pipeline.edge.server import EdgeServer
from voice_pipeline.packaging.repository import UpdateRepository
from voice_pipeline.schema.clip import CaptureEvent, DeviceContext, FailureMode
from voice_pipeline.schema.consent import ConsentReceipt, Scope
from voice_pipeline.schema.ids import uuid7
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.settings import PROJECT_ROOT, load_settings
from voice_pipeline.speech.audio import encode_wav
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline_tests.capture.clips import CONTEXT
from voice_pipeline_tests.device import alone
from voice_pipeline_tests.fleet.field import V1, move, publish
from voice_pipeline_tests.packaging.small_models import searching_decoder, sign_small_bundle

BEFORE = "m-20261101-00000009"
SOUND = np.random.default_rng(3).normal(0, 0.1, 24_000).astype(np.float32)
FOREIGN = (
    "soundfile",
    "scipy",
    "torch",
    "pandas",
    "sqlalchemy",
    "model_signing",
    "sigstore",
    "yaml",
    "fastapi",
    "onnx",
)
OWN = (
    "voice_pipeline.store.store",
    "voice_pipeline.settings",
    "voice_pipeline.edge.app",
    "voice_pipeline.packaging.export",
)


def life(store: Store, folder: Path) -> Path:
    """What the device is told of its world."""
    consent = ConsentReceipt(
        consent_id="consent-0001",
        subject_token="a" * 32,
        scopes=frozenset({Scope.TRANSCRIBE_REVIEW}),
        granted_at=store.now(),
        notice_version="1",
    )
    context: DeviceContext = CONTEXT.model_copy(update={"app_version": "99.0.0"})
    clip = CaptureEvent(
        event_id="capture-0001",
        clip_id=uuid7(store.now()),
        consent=consent,
        captured_at=store.now(),
        context=context,
        failure_mode=FailureMode.LOW_CONFIDENCE,
    )
    (folder / "sound.wav").write_bytes(encode_wav(SOUND))
    told = {
        "now": store.now().isoformat(),
        "sound": str(folder / "sound.wav"),
        "context": context.model_dump(mode="json"),
        "clip": clip.model_dump(mode="json"),
        "try": [*FOREIGN, *OWN],
    }
    path = folder / "life.json"
    path.write_text(json.dumps(told))
    return path


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Store:
    """V1 live and on offer, from an edge that wants dictations to be remote."""
    policy = tmp_path / "policy"
    shutil.copytree(PROJECT_ROOT / "policy", policy)
    (policy / "inference.yaml").write_text(
        "{version: 1, remote_allowed: true, notice_versions: [remote-1], default: remote}"
    )
    monkeypatch.setenv("VOICE_PIPELINE_POLICY_DIR", str(policy))
    store = Store.open(load_settings(tmp_path / "home"), clock)
    move(store, V1, publish(store, V1, 0), ReleaseState.CANDIDATE, ReleaseState.PRODUCTION)
    return store


@pytest.fixture
def app(store: Store, tmp_path: Path) -> Path:
    """What the app brings along: an older model, one that searches, and the root."""
    folder = tmp_path / "app"
    sign_small_bundle(store.settings, BEFORE, 4, min_app="1.0.0", decoder=searching_decoder())
    shutil.copytree(store.settings.bundles / BEFORE, folder / BEFORE)
    shutil.copy(store.settings.bundles / f"{BEFORE}.sig", folder)
    (folder / "root.json").write_bytes(UpdateRepository(store.settings, store.now()).trusted_root())
    return folder


def test_a_whole_life_with_nothing_but_what_a_device_needs(store: Store, app: Path, tmp_path: Path) -> None:
    told = life(store, tmp_path)
    with EdgeServer(store) as edge:
        command = [sys.executable, alone.__file__, str(tmp_path / "device"), edge.url, str(app), str(told)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=PROJECT_ROOT, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert report["answers"] == [[BEFORE, "local", False], [V1, "remote", False], [V1, "local", False]]
    assert report["downloaded"] == [V1]
    assert (report["kept"], report["sent"]) == ([True, True], 2)
    assert report["strangers"] == []
    assert {"onnxruntime", "tuf", "securesystemslib", "cryptography", "httpx", "numpy", "pydantic"} <= set(
        report["imported"]
    )
    assert set(report["not_importable"]) == {*FOREIGN, *OWN}, "the refusal let something through"


def test_the_refusal_covers_what_is_installed_here_and_would_otherwise_be_found() -> None:
    allowed = alone.closure(alone.NEEDED)
    assert {"anyio", "certifi", "cffi", "protobuf", "pydantic-core", "urllib3"} <= allowed
    assert not allowed & {"soundfile", "scipy", "torch", "pandas", "sqlalchemy", "model-signing", "fastapi", "dagster"}
    for name in FOREIGN:
        pytest.importorskip(name)


def test_the_readme_names_exactly_what_the_device_needs() -> None:
    readme = (PROJECT_ROOT / "README.md").read_text()
    assert "`" + "`, `".join(alone.NEEDED) + "`" in readme
