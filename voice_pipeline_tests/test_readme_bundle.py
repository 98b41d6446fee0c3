"""The commands and programs of README's section on bundles run as they stand there: export, verify, dictate."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from voice_pipeline.packaging.repository import UpdateRepository
from voice_pipeline.schema.bundle import BundleManifest
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.settings import PROJECT_ROOT, load_settings
from voice_pipeline.speech.decoder import open_decoder
from voice_pipeline.speech.recogniser import OnnxRecogniser
from voice_pipeline.speech.tokenizer import CharTokenizer
from voice_pipeline.speech.wav import read_wav
from voice_pipeline.store.store import Store
from voice_pipeline_tests.packaging.small_models import searching_decoder, sign_small_bundle
from voice_pipeline_tests.packaging.small_releases import TO_PRODUCTION, catalogue, release

GREEDY, SEARCHING = "m-20261102-00000001", "m-20261102-00000002"
MOST_LINES = 30
LIBRARIES = {"numpy", "onnxruntime"}


def section() -> str:
    """README's section on bundles."""
    parts = re.split(r"^(?=## )", (PROJECT_ROOT / "README.md").read_text(), flags=re.MULTILINE)
    return next(part for part in parts if part.startswith("## Run the bundle in your app\n"))


def programs(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", section(), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A home, on today's clock, in which a greedy model was live and a searching one is; both are on offer."""
    store = Store.open(load_settings(tmp_path_factory.mktemp("publisher")))
    manifests = [
        sign_small_bundle(store.settings, GREEDY, 0),
        sign_small_bundle(store.settings, SEARCHING, 1, decoder=searching_decoder()),
    ]
    for manifest in manifests:
        catalogue(store, manifest)
        UpdateRepository(store.settings, store.now()).publish(store.settings.bundles / manifest.model_version, manifest)
    release(store, manifests[0], *TO_PRODUCTION, ReleaseState.SUPERSEDED)
    release(store, manifests[1], *TO_PRODUCTION)
    return store


@pytest.fixture(scope="module")
def shipped(publisher: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exports of both models, made and verified by the commands in README, with nothing but their words replaced."""
    folder = tmp_path_factory.mktemp("app")
    checkout = folder / "checkout"
    checkout.mkdir()
    for version in (GREEDY, SEARCHING):
        for line in programs("sh")[0].strip().splitlines():
            words = (
                line.split("#")[0].replace("MODEL_VERSION", version).replace("shipped", f"shipped-{version}").split()
            )
            assert words[0] == "voice-pipeline"
            command = [sys.executable, "-m", "voice_pipeline.cli", *words[1:], "--home", str(publisher.settings.root)]
            subprocess.run(command, cwd=checkout, check=True, capture_output=True)
    return {version: folder / f"shipped-{version}" for version in (GREEDY, SEARCHING)}


@pytest.fixture(scope="module")
def edge(publisher: Store) -> Iterator[str]:
    """The real edge on a port of its own; its URL."""
    import uvicorn

    from voice_pipeline.edge.app import create_app

    server = uvicorn.Server(uvicorn.Config(create_app(publisher), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def run(folder: Path, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own: an empty folder, hardly an environment, no user site."""
    script = folder / "program.py"
    script.write_text(program)
    environment = {"PATH": os.defpath, "HOME": str(folder), "PYTHONNOUSERSITE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error::SyntaxWarning", str(script), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def recording(bundle: Path) -> Path:
    return min((bundle / "golden").glob("*.wav"))


def manifest_of(bundle: Path) -> BundleManifest:
    return BundleManifest.model_validate_json((bundle / "manifest.json").read_bytes())


def heard_by_the_project(bundle: Path, greedily: bool) -> str:
    """What the project's own recogniser makes of `recording(bundle)`."""
    tokenizer = CharTokenizer.from_json((bundle / "tokenizer.json").read_text())
    decode = None if greedily else open_decoder(bundle, tokenizer)
    engine = OnnxRecogniser(bundle / "model.onnx", tokenizer, decode=decode)
    return engine.transcribe(read_wav(recording(bundle).read_bytes())).text


def test_an_app_dictates_with_the_model_that_it_ships_before_it_ever_had_a_network(
    shipped: dict[str, Path], tmp_path: Path
) -> None:
    sound = recording(shipped[GREEDY] / GREEDY)
    told = run(tmp_path, programs("python")[0], shipped[GREEDY], tmp_path / "home", "http://127.0.0.1:9", sound)
    assert told.returncode == 0, told.stderr
    expected = heard_by_the_project(shipped[GREEDY] / GREEDY, greedily=True)
    assert told.stdout.startswith(f"{GREEDY}: {expected!r}, ")
    assert "no update" in told.stderr


def test_an_app_takes_over_the_air_what_the_edge_assigns_and_keeps_it_without_a_network(
    shipped: dict[str, Path], edge: str, tmp_path: Path
) -> None:
    sound = recording(shipped[GREEDY] / GREEDY)
    for url in (edge, "http://127.0.0.1:9"):
        told = run(tmp_path, programs("python")[0], shipped[GREEDY], tmp_path / "home", url, sound)
        assert told.returncode == 0, told.stderr
        expected = heard_by_the_project(shipped[SEARCHING] / SEARCHING, greedily=False)
        assert told.stdout.startswith(f"{SEARCHING}: {expected!r}, ")
    assert "no update" in told.stderr


def test_the_second_program_is_short_and_needs_two_libraries() -> None:
    program = programs("python")[1]
    assert len([line for line in program.splitlines() if line.strip()]) <= MOST_LINES
    imported: set[str] = set()
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).split(".")[0])
    assert imported - sys.stdlib_module_names == LIBRARIES


def test_from_the_manifest_alone_comes_what_the_project_hears(shipped: dict[str, Path], tmp_path: Path) -> None:
    bundle = shipped[GREEDY] / GREEDY
    told = run(tmp_path, programs("python")[1], bundle, recording(bundle))
    assert told.returncode == 0, told.stderr
    assert told.stdout == heard_by_the_project(bundle, greedily=True) + "\n"
    assert len(told.stdout.strip()) > 3, "the small network mumbles"


def test_where_the_bundle_asks_for_a_search_the_program_says_that_it_did_not(
    shipped: dict[str, Path], tmp_path: Path
) -> None:
    bundle = shipped[SEARCHING] / SEARCHING
    told = run(tmp_path, programs("python")[1], bundle, recording(bundle))
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith(heard_by_the_project(bundle, greedily=True) + " (greedy; ")


@pytest.mark.parametrize("harm", ["file", "text", "mean", "recording"])
def test_the_program_stops_at_a_changed_file_another_answer_and_a_foreign_recording(
    shipped: dict[str, Path], tmp_path: Path, harm: str
) -> None:
    bundle = shutil.copytree(shipped[GREEDY] / GREEDY, tmp_path / "bundle")
    manifest, sound = manifest_of(bundle), recording(bundle)
    if harm == "file":
        (bundle / "tokenizer.json").write_text((bundle / "tokenizer.json").read_text() + " ")
    elif harm == "recording":
        sound = tmp_path / "slow.wav"
        sound.write_bytes(recording(bundle).read_bytes().replace(b"\x80\x3e\0\0", b"\x40\x1f\0\0", 1))
    else:
        change = {"text": {"text": "something else"}, "mean": {"log_probs_mean": 0.0}}[harm]
        golden = (manifest.golden[0].model_copy(update=change), *manifest.golden[1:])
        (bundle / "manifest.json").write_text(manifest.model_copy(update={"golden": golden}).model_dump_json())
    told = run(tmp_path, programs("python")[1], bundle, sound)
    assert told.returncode == 1
    named = {"file": "tokenizer.json", "recording": "slow.wav"}.get(harm, manifest.golden[0].path)
    assert named in told.stderr
    assert "Traceback" not in told.stderr
    assert told.stdout == ""
