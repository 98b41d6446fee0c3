"""Where the offline keys are on another machine, nothing is published, renewed or changed before they have signed."""

from __future__ import annotations

import shutil
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from dagster import DagsterInstance, RunRequest, build_sensor_context
from sqlalchemy import insert, select

from voice_pipeline.cli import main
from voice_pipeline.packaging.bundle import publish
from voice_pipeline.packaging.errors import RepositoryDamagedError, RepositoryWaitsError
from voice_pipeline.packaging.keys import make_key
from voice_pipeline.packaging.metadata_chain import ROOT, TARGETS, TIMESTAMP
from voice_pipeline.packaging.offline import read_waiting, sign_file
from voice_pipeline.packaging.publication import finish_publications, publications_due
from voice_pipeline.packaging.repository import UpdateRepository
from voice_pipeline.packaging.rotation import revocation_begun, revoke_signing
from voice_pipeline.packaging.sensors import renewal_job, repository_renewal_sensor
from voice_pipeline.packaging.signing import signing_public_key
from voice_pipeline.schema.bundle import BundleManifest
from voice_pipeline.schema.publication import PUBLISHED
from voice_pipeline.settings import Settings
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import bundles
from voice_pipeline_tests.packaging.publisher import NEW, OLD, Killed, in_force, killed_after, signed

__all__ = ["signed"]


@pytest.fixture
def stick(store: Store, clock: ManualClock, signed: tuple[Settings, dict[str, BundleManifest]]) -> Path:
    """A folder elsewhere with the offline keys of the store's home; OLD is on offer there, NEW is catalogued only."""
    source, manifests = signed
    for name in ("keys", "bundles"):
        shutil.copytree(source.root / name, store.settings.root / name, dirs_exist_ok=True)
    with store.database.write() as connection:
        for manifest in manifests.values():
            row = {"bundle_digest": manifest.digest, "model_version": manifest.model_version, "size": 1}
            uri = str(store.settings.bundles / manifest.model_version)
            content = manifest.model_dump(mode="json")
            connection.execute(insert(bundles).values(**row, uri=uri, manifest=content, created_at="2026-11-02"))
    assert publish(store, OLD).in_force
    elsewhere = store.settings.root.with_name("stick")
    shutil.move(store.settings.keys / "offline", elsewhere)
    return elsewhere


def repository(store: Store) -> UpdateRepository:
    return UpdateRepository(store.settings, store.now())


def published_at(store: Store, model_version: str) -> str | None:
    value: str | None = store.database.scalar(
        select(bundles.c.published_at).where(bundles.c.model_version == model_version)
    )
    return value


def on_offer(store: Store) -> set[str]:
    return {name.removesuffix(".tar.xz") for name in in_force(repository(store))[1].signed.targets}


def test_without_its_keys_a_publication_waits_and_does_not_pretend(store: Store, stick: Path) -> None:
    publication = publish(store, NEW)
    assert not publication.in_force
    assert publication.waits_for == "0 of 1 targets keys have signed"
    assert published_at(store, NEW) is None
    assert len(store.ledger.lines(kind=PUBLISHED)) == 1
    assert on_offer(store) == {OLD}
    served = b"".join(path.read_bytes() for path in repository(store).metadata.iterdir())
    assert NEW.encode() not in served
    assert publish(store, NEW) == publication, "repeating changes nothing"
    assert finish_publications(store) == ()
    assert publications_due(store) is None


def test_signed_on_another_machine_and_taken_back_it_is_published(store: Store, stick: Path, tmp_path: Path) -> None:
    publish(store, NEW)
    (pending,) = repository(store).pending()
    carried = Path(shutil.copy(pending.path, tmp_path / "carried.json"))
    says = sign_file(carried, stick).says
    assert says[0].startswith("targets 3, until ")
    assert sum(NEW in line and "bundle " in line for line in says) == 1
    assert on_offer(store) == {OLD}
    assert repository(store).accept(read_waiting(carried)) == []
    assert on_offer(store) == {OLD, NEW}
    assert finish_publications(store) == (NEW,)
    assert published_at(store, NEW) is not None
    assert publish(store, NEW).in_force
    assert len(store.ledger.lines(kind=PUBLISHED)) == 2


def test_with_the_keys_back_the_asset_run_again_publishes(store: Store, stick: Path) -> None:
    publish(store, NEW)
    shutil.copytree(stick, store.settings.keys / "offline")
    repository(store).sign()
    assert publish(store, NEW).in_force
    assert published_at(store, NEW) is not None


def test_the_sensor_finishes_what_was_signed_and_not_recorded(store: Store, stick: Path) -> None:
    """Whoever accepted the signatures was killed before the catalogue knew."""
    publish(store, NEW)
    shutil.copytree(stick, store.settings.keys / "offline")
    assert tick(store) == []
    repository(store).sign()
    (request,) = tick(store)
    assert request.run_key == tick(store)[0].run_key
    assert renewal_job.execute_in_process(resources={"store": store}).success
    assert published_at(store, NEW) is not None
    assert tick(store) == []


def test_the_sensor_goes_on_with_a_revocation_after_each_signature(store: Store, stick: Path) -> None:
    """Three rounds: a root with the new bundle key, archives with new signatures, a root without the former key."""
    former = signing_public_key(store.settings.keys)
    revoke_signing(store.settings, store.now())
    for role in (ROOT, TARGETS, ROOT):
        assert tick(store) == []
        (pending,) = repository(store).pending()
        assert pending.role is role
        sign_file(pending.path, stick)
        repository(store).sign()
        if role is ROOT and not revocation_begun(store.settings):
            break
        assert len(tick(store)) == 1
        assert renewal_job.execute_in_process(resources={"store": store}).success
    assert not revocation_begun(store.settings)
    assert tick(store) == []
    assert former not in signing_public_key(store.settings.keys)
    assert on_offer(store) == {OLD}


def test_what_waited_beyond_its_own_expiry_does_not_come_into_force(
    store: Store, stick: Path, clock: ManualClock
) -> None:
    publish(store, NEW)
    clock.advance(timedelta(days=366))
    (pending,) = repository(store).pending()
    sign_file(pending.path, stick)
    (waiting,) = repository(store).sign()
    assert "repository discard targets" in waiting.missing
    assert on_offer(store) == {OLD}
    assert repository(store).discard(TARGETS)
    assert publish(store, NEW).waits_for == "0 of 1 targets keys have signed"


def tick(store: Store) -> list[RunRequest]:
    context = build_sensor_context(instance=DagsterInstance.ephemeral(), resources={"store": store})
    found = list(repository_renewal_sensor(context))  # type: ignore[call-overload]
    return [item for item in found if isinstance(item, RunRequest)]


def test_accepting_killed_at_any_write_leaves_the_former_offer_and_repeating_finishes(
    store: Store, stick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, NEW)
    carried = Path(shutil.copy(repository(store).pending()[0].path, tmp_path / "carried.json"))
    sign_file(carried, stick)
    before = tmp_path / "before"
    shutil.copytree(store.settings.tuf, before)
    for survived in range(4):  # pending, targets, snapshot, timestamp
        shutil.rmtree(store.settings.tuf)
        shutil.copytree(before, store.settings.tuf)
        with killed_after(survived, monkeypatch), pytest.raises(Killed):
            repository(store).accept(read_waiting(carried))
        assert on_offer(store) == {OLD}
        if repository(store).pending()[0].missing:
            repository(store).accept(read_waiting(carried))
        else:
            repository(store).sign()
        assert on_offer(store) == {OLD, NEW}


def test_signatures_on_something_else_are_not_taken(store: Store, stick: Path, tmp_path: Path) -> None:
    publish(store, NEW)
    (pending,) = repository(store).pending()
    other = read_waiting(pending.path)
    other.signed.targets.pop(f"{OLD}.tar.xz")
    other.to_file(str(tmp_path / "other.json"))
    sign_file(tmp_path / "other.json", stick)
    with pytest.raises(RepositoryWaitsError, match="this is not the targets"):
        repository(store).accept(read_waiting(tmp_path / "other.json"))
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(RepositoryDamagedError, match="no metadata"):
        read_waiting(tmp_path / "other.json")
    with pytest.raises(RepositoryDamagedError, match="not root or targets"):
        read_waiting(repository(store).metadata / "timestamp.json")
    with pytest.raises(RepositoryWaitsError, match="--keys"):
        sign_file(pending.path, tmp_path)
    assert on_offer(store) == {OLD}


def test_a_signature_by_a_key_that_the_root_does_not_name_counts_nothing(
    store: Store, stick: Path, tmp_path: Path
) -> None:
    publish(store, NEW)
    make_key(tmp_path / "own", TARGETS)
    (pending,) = repository(store).pending()
    sign_file(pending.path, tmp_path / "own")
    (waiting,) = repository(store).sign()
    assert waiting.missing == "0 of 1 targets keys have signed"
    assert on_offer(store) == {OLD}


def test_without_offline_keys_renewal_needs_only_the_online_ones_and_people_are_told_in_time(
    store: Store, stick: Path, clock: ManualClock
) -> None:
    """Nearly a year passes, the sensor looks every five days, and nobody signs."""
    chain = repository(store).chain
    expires = chain.current(ROOT).signed.expires
    asked: set[str | None] = set()
    alerts = []
    for _ in range(69):
        clock.advance(timedelta(days=5))
        for request in tick(store):
            if request.run_key in asked:
                continue  # Dagster runs a key once
            asked.add(request.run_key)
            if not renewal_job.execute_in_process(resources={"store": store}, raise_on_error=False).success:
                alerts.append((expires - clock.now()).days)
        assert chain.current(TIMESTAMP).signed.expires > clock.now()
    assert alerts == [90, 80, 65, 50, 35, 30, 20], "at the days that are named, and at each renewal in between"
    shutil.copytree(stick, store.settings.keys / "offline")
    assert repository(store).sign() == []
    assert tick(store) == []
    assert chain.current(ROOT).signed.version == 2
    assert chain.current(TARGETS).signed.version == 3


# --- the commands ---


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and what was printed, standard error behind."""
    monkeypatch.setattr(sys, "argv", ["voice-pipeline", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    told = capsys.readouterr()
    return int(stop.value.code or 0), told.out + told.err


def test_the_commands_of_two_machines(
    store: Store, stick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ("--home", str(store.settings.root))
    publish(store, NEW)
    code, told = run(monkeypatch, capsys, "repository", "status", *home)
    assert code == 0
    assert "targets 3 waits: 0 of 1 targets keys have signed" in told
    assert "2 of 3" in told
    carried = shutil.copy(repository(store).pending()[0].path, tmp_path / "carried.json")
    code, told = run(monkeypatch, capsys, "repository", "sign", str(carried), "--keys", str(stick))
    assert (code, NEW in told) == (0, True)
    code, told = run(monkeypatch, capsys, "repository", "accept", str(carried), *home)
    assert (code, f"{NEW} is published" in told) == (0, True)
    code, told = run(monkeypatch, capsys, "repository", "rotate", "targets", *home)
    assert (code, "--public-key" in told) == (1, True)
    run(monkeypatch, capsys, "repository", "key", "targets", "--keys", str(stick))
    arguments = ("repository", "rotate", "targets", "--public-key", str(stick / "targets-3.pub"))
    code, told = run(monkeypatch, capsys, *arguments, *home)
    assert (code, "root 2 waits" in told, "targets 4 waits" in told) == (0, True, True)
    code, told = run(monkeypatch, capsys, "repository", "sign", "--keys", str(stick), *home)
    assert (code, "nothing waits" in told) == (0, True)
    code, told = run(monkeypatch, capsys, "repository", "sign", *home)
    assert (code, "nothing waits" in told) == (1, True)
    assert on_offer(store) == {OLD, NEW}
    code, told = run(monkeypatch, capsys, "repository", "rotate", "snapshot", "--revoke", *home)
    assert (code, "--revoke is for signing" in told) == (1, True)
    run(monkeypatch, capsys, "repository", "rotate", "signing", *home)
    code, told = run(monkeypatch, capsys, "repository", "discard", "root", *home)
    assert (code, "pending root discarded" in told) == (0, True)
