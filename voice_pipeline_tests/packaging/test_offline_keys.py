"""Where the offline keys are on another machine, nothing is published, renewed or changed before they have signed."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from dagster import DagsterInstance, RunRequest, build_sensor_context

from voice_pipeline.packaging.bundle import publish
from voice_pipeline.packaging.errors import BundleConflictError, RepositoryDamagedError, RepositoryWaitsError
from voice_pipeline.packaging.keys import make_key
from voice_pipeline.packaging.metadata_chain import ROOT, TARGETS, TIMESTAMP
from voice_pipeline.packaging.offline import describe_file, read_waiting, sign_file
from voice_pipeline.packaging.publication import finish_publications, publications_due
from voice_pipeline.packaging.rotation import revocation_begun, revoke_signing, rotate_signing
from voice_pipeline.packaging.sensors import renewal_job, repository_renewal_sensor
from voice_pipeline.packaging.signing import private_key, public_pem, signing_public_key
from voice_pipeline.schema.publication import PUBLISHED, SIGNING_KEY_FIELD
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline_tests.packaging.offline_publisher import on_offer, published_at, repository, stick
from voice_pipeline_tests.packaging.publisher import NEW, OLD, Killed, killed_after, signed

__all__ = ["signed", "stick"]


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
    with pytest.raises(RepositoryWaitsError, match="no key of targets"):
        repository(store).sign()
    (waiting,) = repository(store).pending()
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
    with pytest.raises(RepositoryWaitsError, match="no key of targets"):
        repository(store).sign()
    shutil.copytree(tmp_path / "own", store.settings.keys / "offline")
    with pytest.raises(RepositoryWaitsError, match="no key of targets"):
        repository(store).sign()
    (waiting,) = repository(store).pending()
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
    assert repository(store).sign() == 5, "root-1 to 3, targets-1 and 2"
    assert repository(store).pending() == []
    assert tick(store) == []
    assert chain.current(ROOT).signed.version == 2
    assert chain.current(TARGETS).signed.version == 3


def test_signatures_that_do_not_verify_replace_no_good_one(store: Store, stick: Path, tmp_path: Path) -> None:
    rotate_signing(store.settings, store.now())
    (pending,) = repository(store).pending()
    assert pending.role is ROOT
    good = Path(shutil.copy(pending.path, tmp_path / "good.json"))
    sign_file(good, stick)
    signed_well = read_waiting(good)
    broken = read_waiting(good)
    one, two, three = sorted(broken.signatures)
    for keyid in (one, two, three):
        broken.signatures[keyid].signature = "00" * 70
    only_one = read_waiting(good)
    only_one.signatures = {one: signed_well.signatures[one]}
    (waiting,) = repository(store).accept(only_one)
    assert waiting.missing.startswith("1 of 2")
    with pytest.raises(RepositoryWaitsError, match="no root key"):
        repository(store).accept(broken)
    broken.signatures[two] = signed_well.signatures[two]
    assert repository(store).accept(broken) == [], "the one that was there before and the good one of these"


def thief_puts_a_bundle_key_into(path: Path, tmp_path: Path) -> str:
    """Into a pending root, as whoever has the online machine can. Returns the sha256 of the key."""
    pem = public_pem(private_key(tmp_path / "thief.key"))
    root = read_waiting(path)
    root.signed.unrecognized_fields[SIGNING_KEY_FIELD] += pem.decode()
    root.to_file(str(path))
    return hashlib.sha256(pem).hexdigest()


def yearly_root(store: Store, clock: ManualClock) -> Path:
    clock.advance(timedelta(days=200))
    with contextlib.suppress(RepositoryWaitsError):
        repository(store).renew()
    return repository(store).chain.pending_path(ROOT)


def test_a_bundle_key_put_into_the_yearly_root_is_shown_to_whoever_signs(
    store: Store, stick: Path, clock: ManualClock, tmp_path: Path
) -> None:
    path, in_force_now = yearly_root(store, clock), repository(store).metadata / "1.root.json"
    key = hashlib.sha256(signing_public_key(store.settings.keys)).hexdigest()
    says = describe_file(path, in_force_now)
    assert f"  bundle key {key}" in says
    assert says[-1] == "nothing changed against root 1 but number and expiry"
    thiefs = thief_puts_a_bundle_key_into(path, tmp_path)
    assert f"  bundle key {thiefs}" in describe_file(path)
    assert describe_file(path, in_force_now)[-2:] == ["changed against root 1:", f"+ bundle key {thiefs}"]
    assert sign_file(path, stick, in_force_now).says[-1] == f"+ bundle key {thiefs}"


def test_a_made_up_root_in_force_hides_no_change(store: Store, stick: Path, clock: ManualClock, tmp_path: Path) -> None:
    path = yearly_root(store, clock)
    made_up = Path(shutil.copy(repository(store).metadata / "1.root.json", tmp_path / "1.root.json"))
    for each in (path, made_up):
        thief_puts_a_bundle_key_into(each, tmp_path)
    before = path.read_bytes()
    with pytest.raises(RepositoryDamagedError, match="too few of its own keys"):
        sign_file(path, stick, made_up)
    assert path.read_bytes() == before


def test_a_key_under_the_id_of_another_is_shown(store: Store, stick: Path, clock: ManualClock, tmp_path: Path) -> None:
    path = yearly_root(store, clock)
    root = read_waiting(path)
    keyid = root.signed.roles["timestamp"].keyids[0]
    pem = public_pem(private_key(tmp_path / "thief.key")).decode()
    root.signed.keys[keyid].keyval["public"] = pem
    root.to_file(str(path))
    assert any(
        line.startswith(f"+ timestamp key {keyid} IS ANOTHER KEY: ")
        for line in describe_file(path, repository(store).metadata / "1.root.json")
    )


def test_what_targets_offer_anew_and_no_more_is_shown(store: Store, stick: Path) -> None:
    publish(store, NEW)
    repository(store).withdraw(OLD)
    (pending,) = repository(store).pending()
    (current,) = repository(store).metadata.glob("2.targets.json")
    changes = describe_file(pending.path, current)[-2:]
    assert [(line[:9], OLD in line, NEW in line) for line in changes] == [
        ("+ offers ", False, True),
        ("- offers ", True, False),
    ]


def test_a_revocation_that_failed_is_tried_again_the_next_hour(store: Store, stick: Path, clock: ManualClock) -> None:
    shutil.copytree(stick, store.settings.keys / "offline")
    (store.settings.bundles / OLD / "model.onnx").write_bytes(b"evil")
    with pytest.raises(BundleConflictError):
        revoke_signing(store.settings, store.now())
    first = publications_due(store)
    assert first is not None
    assert publications_due(store) == first
    clock.advance(timedelta(hours=1))
    assert publications_due(store) not in (None, first)
