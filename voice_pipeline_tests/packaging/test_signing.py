"""Devices and the library that signs come to the same verdict about a signature, whatever somebody made of it."""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

from voice_pipeline.packaging.signing import PRIVATE_KEY, sign_folder, signing_public_key
from voice_pipeline.schema.publication import SIGNING_PUBLIC_KEY
from voice_pipeline.trust import SignatureRefusedError, signature_path, verify_signature


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A signed folder of three files, and the publisher's keys."""
    root = tmp_path_factory.mktemp("signed")
    folder = root / "m-20261102-00000001"
    (folder / "golden").mkdir(parents=True)
    for name in ("manifest.json", "model.onnx", "golden/one.wav"):
        (folder / name).write_bytes(name.encode() * 10)
    sign_folder(folder, root / "keys")
    return folder, root / "keys"


def _library_accepts(folder: Path, signature: Path, keys: Path) -> bool:
    from model_signing import verifying

    try:
        verifying.Config().use_elliptic_key_verifier(public_key=keys / SIGNING_PUBLIC_KEY).verify(folder, signature)
    except Exception:  # noqa: BLE001 what it raises is its own affair
        return False
    return True


def _device_accepts(folder: Path, signature: Path, keys: Path) -> bool:
    try:
        verify_signature(folder, signature, signing_public_key(keys))
    except SignatureRefusedError:
        return False
    return True


def _changed(content: dict[str, Any], where: str, value: Any) -> bytes:
    """The signature with one thing changed: in its envelope, or in the statement without signing it anew."""
    changed = json.loads(json.dumps(content))
    envelope = changed["dsseEnvelope"]
    if where in envelope:
        envelope[where] = value
    elif where == "sig":
        envelope["signatures"][0]["sig"] = value
    elif where == "hint":
        changed["verificationMaterial"]["publicKey"]["hint"] = value
    else:
        statement = json.loads(base64.b64decode(envelope["payload"]))
        statement["predicate"]["resources"][0][where] = value
        envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    return json.dumps(changed).encode()


def test_an_honest_signature_is_accepted_by_both(signed: tuple[Path, Path]) -> None:
    folder, keys = signed
    assert _library_accepts(folder, signature_path(folder), keys)
    assert _device_accepts(folder, signature_path(folder), keys)


@pytest.mark.parametrize(
    "where", ["payload", "payloadType", "signatures", "sig", "hint", "name", "digest", "algorithm"]
)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(value=st.one_of(st.none(), st.text(), st.binary(max_size=80).map(lambda b: base64.b64encode(b).decode())))
def test_no_change_of_a_signature_gets_past_the_device(signed: tuple[Path, Path], where: str, value: object) -> None:
    folder, keys = signed
    content = json.loads(signature_path(folder).read_bytes())
    with tempfile.TemporaryDirectory() as scratch:
        forged = Path(scratch) / "forged.sig"
        forged.write_bytes(_changed(content, where, value))
        assert not _device_accepts(folder, forged, keys)
        if where != "hint":  # the library also takes signatures of before there was a hint at the key
            assert not _library_accepts(folder, forged, keys)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "golden/one.wav"])
def test_a_changed_file_is_seen_by_both_and_named_by_the_device(signed: tuple[Path, Path], name: str) -> None:
    folder, keys = signed
    intact = (folder / name).read_bytes()
    try:
        (folder / name).write_bytes(intact + b"x")
        assert not _library_accepts(folder, signature_path(folder), keys)
        with pytest.raises(SignatureRefusedError, match=name):
            verify_signature(folder, signature_path(folder), signing_public_key(keys))
    finally:
        (folder / name).write_bytes(intact)


def test_a_former_key_counts_as_long_as_it_is_named_and_not_a_moment_longer(
    signed: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, keys = signed
    newer = signing_public_key(tmp_path / "newer")
    verify_signature(folder, signature_path(folder), newer + signing_public_key(keys))
    with pytest.raises(SignatureRefusedError, match="key mismatch"):
        verify_signature(folder, signature_path(folder), newer)


def test_another_statement_by_the_publishers_key_is_no_signature_of_a_model(signed: tuple[Path, Path]) -> None:
    """The same key may sign attestations of other kinds, which may name the same files."""
    folder, keys = signed
    content = json.loads(signature_path(folder).read_bytes())
    statement = json.loads(base64.b64decode(content["dsseEnvelope"]["payload"]))
    statement["predicateType"] = "https://example.org/reviewed/v1"
    private = load_pem_private_key((keys / PRIVATE_KEY).read_bytes(), None)
    envelope = Envelope(json.dumps(statement).encode(), content["dsseEnvelope"]["payloadType"], {})
    envelope.sign(CryptoSigner(private))  # type: ignore[arg-type]
    told = envelope.to_dict()
    told["signatures"][0]["keyid"] = ""
    other = folder.with_name("other.sig")
    other.write_text(json.dumps({**content, "dsseEnvelope": told}))
    with pytest.raises(SignatureRefusedError, match="not the files of a model"):
        verify_signature(folder, other, signing_public_key(keys))


def test_a_hint_at_the_publishers_key_does_not_make_another_keys_signature_good(
    signed: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, keys = signed
    honest = json.loads(signature_path(folder).read_bytes())
    forged = tmp_path / folder.name
    forged.mkdir()
    (forged / "model.onnx").write_bytes(b"evil")
    signature = sign_folder(forged, tmp_path / "attacker")
    content = json.loads(signature.read_bytes())
    content["verificationMaterial"] = honest["verificationMaterial"]
    signature.write_text(json.dumps(content))
    with pytest.raises(SignatureRefusedError, match="threshold"):
        verify_signature(forged, signature, signing_public_key(keys))
