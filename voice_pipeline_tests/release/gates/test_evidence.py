"""What is stored about a bundle: which file cannot be read is told by its name, and is a problem each time."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from voice_pipeline.release.gates.evidence import integrity_problem
from voice_pipeline.schema.publication import SIGNING_PUBLIC_KEY
from voice_pipeline_tests.release.world import World


def problem(world: World, model: str, bundle_digest: str) -> str:
    found = integrity_problem(world.store, model, bundle_digest)
    assert found is not None
    assert str(world.store.settings.root) not in found
    return found


def test_a_key_and_a_file_of_the_bundle_that_cannot_be_read_are_told_apart(
    small: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests may run as root, whom no mode keeps from reading."""
    model = small.model(0.2)
    digest = small.register(model).bundle_digest
    assert integrity_problem(small.store, model, digest) is None
    read = Path.read_bytes
    barred = {"model.onnx"}

    def refused(path: Path) -> bytes:
        if path.name in barred:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    found = problem(small, model, digest)
    assert found.startswith(f"bundle of {model}: model.onnx cannot be read (Permission denied)")
    assert "key" not in found
    barred |= {SIGNING_PUBLIC_KEY}
    assert problem(small, model, digest).startswith(f"the key {SIGNING_PUBLIC_KEY} cannot be read (Permission denied)")


def test_a_key_that_is_gone_is_told(small: World) -> None:
    model = small.model(0.2)
    digest = small.register(model).bundle_digest
    (small.store.settings.keys / SIGNING_PUBLIC_KEY).unlink()
    assert problem(small, model, digest).startswith(f"the key {SIGNING_PUBLIC_KEY} cannot be read")
