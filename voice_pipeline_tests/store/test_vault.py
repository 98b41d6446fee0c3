"""What is encrypted under a person's key is readable while the key lives, for that clip only, and never afterwards."""

from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from voice_pipeline.settings import load_settings
from voice_pipeline.store import vault_tables
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.database import Database
from voice_pipeline.store.errors import BlobDigestError, ErasedSubjectError, UnknownSubjectError
from voice_pipeline.store.store import Store
from voice_pipeline.store.vault import Vault, home_salt, subject_token

several = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@several
@given(plaintext=st.binary(max_size=500), context=st.text(max_size=40))
def test_what_is_encrypted_comes_back(store: Store, plaintext: bytes, context: str) -> None:
    assert store.vault.decrypt("s", store.vault.encrypt("s", plaintext, context), context) == plaintext


@several
@given(position=st.integers(min_value=0, max_value=63), bit=st.integers(min_value=0, max_value=7))
def test_any_flipped_bit_is_noticed(store: Store, position: int, bit: int) -> None:
    ciphertext = bytearray(store.vault.encrypt("s", b"0123456789" * 4, "clip"))
    ciphertext[position] ^= 1 << bit
    with pytest.raises(BlobDigestError, match="clip"):
        store.vault.decrypt("s", bytes(ciphertext), "clip")


def test_ciphertext_is_bound_to_its_clip(store: Store) -> None:
    ciphertext = store.vault.encrypt("s", b"audio", "clip-a")
    with pytest.raises(BlobDigestError, match="clip-b"):
        store.vault.decrypt("s", ciphertext, "clip-b")


def test_another_subject_cannot_read_it(store: Store) -> None:
    ciphertext = store.vault.encrypt("s", b"audio", "clip")
    store.vault.ensure_subjects(["t"])
    with pytest.raises(BlobDigestError):
        store.vault.decrypt("t", ciphertext, "clip")


def test_an_erased_subject_is_unreadable_at_once_in_every_open_vault(store: Store) -> None:
    ciphertext = store.vault.encrypt("s", b"audio", "clip")
    other = Store.open(store.settings, store.clock).vault
    assert other.decrypt("s", ciphertext, "clip") == b"audio"
    assert store.vault.destroy("s")
    for vault in (store.vault, other):
        with pytest.raises(ErasedSubjectError, match="gone for good"):
            vault.decrypt("s", ciphertext, "clip")
    assert store.vault.erased() == {"s"}


def test_an_erased_subject_never_gets_a_key_again(store: Store) -> None:
    store.vault.encrypt("s", b"audio", "clip")
    store.vault.destroy("s")
    assert not store.vault.destroy("s")
    fresh = Store.open(store.settings, store.clock).vault
    fresh.ensure_subjects(["s"])
    with pytest.raises(ErasedSubjectError):
        fresh.encrypt("s", b"more", "clip")


def test_no_key_lies_readable_on_disk(store: Store) -> None:
    vault = store.vault
    vault.encrypt("s", b"audio", "clip")
    key = vault._cache["s"]
    files = [path.read_bytes() for path in store.settings.root.rglob("*") if path.is_file()]
    assert files
    assert not any(key in data for data in files)


def test_the_master_key_is_for_its_owner_only(store: Store) -> None:
    path = store.settings.keys / "vault-master.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes()) == 32


def test_many_openers_at_once_agree_on_one_master_key(tmp_path: Path, clock: ManualClock) -> None:
    database = Database(f"sqlite:///{tmp_path / 'vault.db'}", vault_tables.vault)
    vaults: list[Vault] = []
    threads = [
        threading.Thread(target=lambda: vaults.append(Vault(database, tmp_path / "keys", clock))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ciphertext = vaults[0].encrypt("s", b"audio", "clip")
    assert all(vault.decrypt("s", ciphertext, "clip") == b"audio" for vault in vaults)


def test_each_home_has_a_salt_of_its_own_that_lasts_and_that_only_its_owner_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VOICE_PIPELINE_SUBJECT_SALT")
    homes = [load_settings(tmp_path / name) for name in ("a", "b")]
    salts = [Store.open(home).subject_salt for home in homes]
    assert all(len(salt) == 64 for salt in salts)
    assert salts[0] != salts[1]
    assert Store.open(homes[0]).subject_salt == salts[0]
    assert stat.S_IMODE((homes[0].keys / "subject-salt.key").stat().st_mode) == 0o600
    assert salts[0] not in repr(Store.open(homes[0]))


def test_a_given_salt_wins_over_that_of_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOICE_PIPELINE_SUBJECT_SALT", "given")
    assert Store.open(load_settings(tmp_path / "home")).subject_salt == "given"


def test_many_openers_at_once_agree_on_one_salt(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: home_salt(tmp_path / "keys"), range(8)))) == 1


def test_a_subject_without_a_key_is_named(store: Store) -> None:
    with pytest.raises(UnknownSubjectError, match="nobody"):
        store.vault.decrypt("nobody", os.urandom(40), "clip")
    with pytest.raises(UnknownSubjectError, match="nobody"):
        store.vault.unseal([("nobody", os.urandom(40), "clip")])


@several
@given(plaintext=st.binary(max_size=200))
def test_sealing_is_deterministic_bound_to_its_context_and_dies_with_the_key(store: Store, plaintext: bytes) -> None:
    first = store.vault.seal([("s", plaintext, "clip")])
    assert first == store.vault.seal([("s", plaintext, "clip")])
    assert first != store.vault.seal([("s", plaintext, "other")])
    assert store.vault.unseal([("s", first[0], "clip")]) == [plaintext]
    with pytest.raises(BlobDigestError):
        store.vault.unseal([("s", first[0], "other")])


def test_unsealing_passes_over_the_erased_and_gives_the_others(store: Store) -> None:
    sealed = store.vault.seal([("s", b"one", "a"), ("t", b"two", "b")])
    store.vault.destroy("s")
    assert store.vault.unseal([("s", sealed[0], "a"), ("t", sealed[1], "b")]) == [None, b"two"]
    with pytest.raises(ErasedSubjectError):
        store.vault.seal([("s", b"again", "a")])


def test_the_tombstone_of_an_erasure_stays(store: Store) -> None:
    store.vault.encrypt("s", b"audio", "clip")
    store.vault.destroy("s")
    database = Database(store.settings.vault_database_url, vault_tables.vault)
    row = database.row(select(vault_tables.subject_keys))
    assert row is not None
    assert row["wrapped_key"] is None
    assert row["destroyed_at"] == store.now().isoformat()


def test_a_pseudonym_depends_on_salt_and_installation() -> None:
    assert subject_token("salt", "a") == subject_token("salt", "a")
    assert len({subject_token("salt", "a"), subject_token("pepper", "a"), subject_token("salt", "b")}) == 3
