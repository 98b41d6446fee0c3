"""A blob is there whole or not at all, and only its own bytes are ever given back."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_pipeline.store.blobs import BlobStore, write_atomically
from voice_pipeline.store.errors import BlobDigestError, MissingBlobError


@given(data=st.binary(max_size=2000))
def test_what_is_put_is_what_is_got(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    blobs = BlobStore(str(tmp_path_factory.mktemp("blobs")))
    digest = blobs.put("clips/a", data)
    assert digest == hashlib.sha256(data).hexdigest()
    assert blobs.get("clips/a", digest) == data


def test_any_fsspec_url_will_do() -> None:
    blobs = BlobStore("memory://voice-pipeline-blobs")
    blobs.put("a/b", b"bytes")
    assert blobs.get("a/b") == b"bytes"
    blobs.delete("a/b")
    blobs.delete("a/b")
    assert not blobs.exists("a/b")


def test_changed_bytes_are_refused(tmp_path: Path) -> None:
    blobs = BlobStore(str(tmp_path))
    digest = blobs.put("a", b"bytes")
    (tmp_path / "a").write_bytes(b"Bytes")
    with pytest.raises(BlobDigestError, match="a was changed"):
        blobs.get("a", digest)


def test_a_missing_blob_says_which(tmp_path: Path) -> None:
    with pytest.raises(MissingBlobError, match="clips/x"):
        BlobStore(str(tmp_path)).get("clips/x")


@pytest.mark.parametrize("key", ["../outside", "a/../../outside", "/etc/passwd"])
def test_no_key_leaves_the_store(tmp_path: Path, key: str) -> None:
    blobs = BlobStore(str(tmp_path / "store"))
    with pytest.raises(MissingBlobError, match="leaves the store"):
        blobs.put(key, b"x")
    assert list(tmp_path.iterdir()) == []


WRITER = """
import sys
from pathlib import Path
from voice_pipeline.store.blobs import write_atomically
number = 0
while True:
    write_atomically(Path(sys.argv[1]), bytes([number % 251]) * 400_000)
    number += 1
    if number == 2:
        print("ready", flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.004, 0.009, 0.017, 0.03])
def test_a_kill_while_writing_leaves_the_old_bytes_or_the_new_never_a_part(tmp_path: Path, delay: float) -> None:
    path = tmp_path / "blob"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(delay)
    process.kill()
    process.wait()
    data = path.read_bytes()
    assert len(data) == 400_000
    assert data == data[:1] * 400_000


def test_a_failed_write_leaves_the_old_bytes_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "blob"
    write_atomically(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["blob"]
