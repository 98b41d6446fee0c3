"""`voice-pipeline repository`: the update repository's keys, signatures and what is on offer."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from voice_pipeline.cli_home import Home, existing_store
from voice_pipeline.cli_input import InputError
from voice_pipeline.cli_table import print_table
from voice_pipeline.schema.delivery_policy import MetadataRole

app = typer.Typer(no_args_is_help=True)

SHORT = 12
"""Characters of a key id that are printed, and that are enough to name it."""


class Rotated(StrEnum):
    """What can be given a new key."""

    ROOT = "root"
    TARGETS = "targets"
    SNAPSHOT = "snapshot"
    TIMESTAMP = "timestamp"
    SIGNING = "signing"


class OfflineRole(StrEnum):
    """Whose metadata can wait for signatures."""

    ROOT = "root"
    TARGETS = "targets"


Keys = Annotated[Path | None, typer.Option("--keys", help="Folder of private keys, else VOICE_PIPELINE_OFFLINE_KEYS")]


@app.command()
def status(home: Home = None) -> None:
    """Roles, key ids, thresholds, expiry, what is on offer and what waits for signatures."""
    from voice_pipeline.packaging.publication import unknown_targets
    from voice_pipeline.packaging.repository import UpdateRepository
    from voice_pipeline.packaging.status import repository_status

    store = existing_store(home)
    found = repository_status(UpdateRepository(store.settings, store.now()))
    rows = [
        (role.role, role.version, f"{role.expires:%Y-%m-%d}", f"{role.threshold} of {len(role.key_ids)}", _ids(role))
        for role in found.roles
    ]
    print_table(("role", "version", "expires", "threshold", "keys (file, if here)"), rows)
    typer.echo(f"\nbundles are signed with {found.bundle_key_ids[0][:SHORT]}", nl=False)
    former = [key[:SHORT] for key in found.bundle_key_ids[1:]]
    typer.echo(f"; {', '.join(former)} still count" if former else "")
    for role in found.roles:
        for keyid, file in role.retired.items():
            typer.echo(f"retired: {role.role} key {_named(keyid, file)} counts no more: destroy it")
    if found.revoking:
        typer.echo("former bundle keys are being revoked; `voice-pipeline repository discard root` gives that up")
    typer.echo("\non offer:")
    print_table(("model", "bundle digest"), sorted(found.offered.items()))
    for name in unknown_targets(store):
        typer.echo(f"{name} is no bundle of the catalogue: if a key was stolen, `repository withdraw {name}`")
    _tell(list(found.pending))


Against = Annotated[Path | None, typer.Option(help="With FILE: a copy of what is in force, to see what changed")]


@app.command()
def show(
    file: Annotated[Path | None, typer.Argument(help="A copy of a pending file; default all of the home")] = None,
    against: Against = None,
    home: Home = None,
) -> None:
    """What whoever signs what waits vouches for, and what changed; signs nothing. With FILE no home is needed."""
    from voice_pipeline.packaging.offline import describe_file
    from voice_pipeline.packaging.repository import UpdateRepository

    if file is not None:
        typer.echo("\n".join(describe_file(file, against)))
        return
    store = existing_store(home)
    _describe(UpdateRepository(store.settings, store.now()))


@app.command()
def sign(
    file: Annotated[Path | None, typer.Argument(help="A copy of a pending file; default all of the home")] = None,
    keys: Keys = None,
    against: Against = None,
    home: Home = None,
) -> None:
    """Add signatures to what waits. With FILE no home is needed: run it where the offline keys are."""
    from voice_pipeline.packaging.offline import sign_file
    from voice_pipeline.packaging.repository import UpdateRepository
    from voice_pipeline.packaging.status import key_changes, root_in_force
    from voice_pipeline.settings import load_settings

    if file is not None:
        signed = sign_file(file, keys or load_settings(home).offline_key_folder, against)
        typer.echo("\n".join(signed.says))
        typer.echo(f"signed by {', '.join(key[:SHORT] for key in signed.key_ids)}; `repository accept` takes it back")
        return
    store = existing_store(home)
    settings = store.settings.model_copy(update={"offline_keys": keys}) if keys else store.settings
    repository = UpdateRepository(settings, store.now())
    _describe(repository)
    before = root_in_force(repository)
    typer.echo(f"added {repository.sign()} signatures")
    _tell_keys(key_changes(repository, before))
    _finish(store)


@app.command()
def accept(files: list[Path], home: Home = None) -> None:
    """Take files back that were signed elsewhere; what has enough signatures comes into force."""
    from voice_pipeline.packaging.offline import read_waiting
    from voice_pipeline.packaging.repository import UpdateRepository
    from voice_pipeline.packaging.status import key_changes, root_in_force

    store = existing_store(home)
    signed = [read_waiting(file) for file in files]
    repository = UpdateRepository(store.settings, store.now())
    before = root_in_force(repository)
    for metadata in signed:
        repository.accept(metadata)
    _tell_keys(key_changes(repository, before))
    _finish(store)


@app.command()
def rotate(
    what: Rotated,
    key_id: Annotated[str | None, typer.Option(help="Which key goes; default the oldest")] = None,
    public_key: Annotated[list[Path] | None, typer.Option(help="New key made elsewhere (.pub); repeatable")] = None,
    revoke: Annotated[bool, typer.Option("--revoke", help="signing: former keys count no more")] = False,
    home: Home = None,
) -> None:
    """A new key for a role, or for the signatures of bundles (signing), which a new root tells devices of."""
    from voice_pipeline.packaging import rotation
    from voice_pipeline.packaging.publication import unknown_targets
    from voice_pipeline.packaging.repository import UpdateRepository
    from voice_pipeline.packaging.status import key_changes, root_in_force

    store = existing_store(home)
    now = store.now()
    repository = UpdateRepository(store.settings, now)
    before = root_in_force(repository)
    if what is Rotated.SIGNING:
        if key_id or public_key:
            raise InputError("--key-id and --public-key are for roles; `rotate signing` makes its key here")
        (rotation.revoke_signing if revoke else rotation.rotate_signing)(store.settings, now)
    elif revoke:
        raise InputError(f"--revoke is for signing; the former key of {what} counts no more once the root is in force")
    elif what is Rotated.TARGETS and (unknown := unknown_targets(store)):
        raise InputError(
            f"{', '.join(unknown)} is on offer and no bundle of the catalogue: a new key would vouch for it. Run "
            f"`voice-pipeline repository withdraw {' '.join(unknown)}`, then rotate"
        )
    else:
        rotation.rotate(store.settings, now, MetadataRole(what), key_id, public_key or ())
    _tell_keys(key_changes(repository, before))
    _finish(store)


@app.command()
def key(role: OfflineRole, keys: Keys = None, home: Home = None) -> None:
    """Make a key of root or targets in a folder; its .pub file is for `rotate --public-key`."""
    from voice_pipeline.packaging.keys import make_key, signer
    from voice_pipeline.settings import load_settings

    path = make_key(keys or load_settings(home).offline_key_folder, MetadataRole(role))
    typer.echo(f"{path} and {path.with_suffix('.pub').name}: key {signer(path).public_key.keyid[:SHORT]}")


@app.command()
def withdraw(names: list[str], home: Home = None) -> None:
    """Offer bundles (model versions, or names of targets) no more; devices that hold one keep it as a fallback."""
    from voice_pipeline.packaging.repository import UpdateRepository

    store = existing_store(home)
    for name in names:
        if not UpdateRepository(store.settings, store.now()).withdraw(name):
            raise InputError(f"{name} is not on offer; `voice-pipeline repository status` shows what is")
        typer.echo(f"{name} is withdrawn")
    _finish(store)


@app.command()
def discard(role: OfflineRole, home: Home = None) -> None:
    """Give up what of a role waits for signatures (root: a revocation under way, too); what is in force stays."""
    from voice_pipeline.packaging.repository import UpdateRepository

    store = existing_store(home)
    given_up = UpdateRepository(store.settings, store.now()).discard(MetadataRole(role))
    for what in given_up:
        typer.echo(f"{what} discarded")
    if not given_up:
        typer.echo(f"no {role} metadata waits")


def _describe(repository: Any) -> None:
    from voice_pipeline.packaging.offline import describe, read_waiting

    waiting = repository.pending()
    if not waiting:
        raise InputError("nothing waits for signatures; `voice-pipeline repository status` shows what is in force")
    for pending in waiting:
        typer.echo("\n".join(describe(read_waiting(pending.path), repository.chain.current(pending.role))))


def _ids(role: Any) -> str:
    return ", ".join(_named(key, role.files.get(key, "")) for key in role.key_ids)


def _named(key_id: str, file: str) -> str:
    return f"{key_id[:SHORT]} ({file})" if file else key_id[:SHORT]


def _tell_keys(changes: list[Any]) -> None:
    """Which keys left a role, to be destroyed, and which are new; or will, once a root is in force."""
    for change in changes:
        new = ", ".join(_named(key, file) for key, file in change.new.items()) or "none"
        left = ", ".join(_named(key, file) for key, file in change.left.items())
        if change.waits_for:
            typer.echo(f"{change.role}: key {left} leaves with root {change.waits_for}, keep it till then; new {new}")
        else:
            typer.echo(f"{change.role}: key {left} left: destroy it; new {new}")


def _finish(store: Any) -> None:
    """Record what is published now, go on with a revocation, and say what still waits."""
    from voice_pipeline.packaging.publication import finish_publications
    from voice_pipeline.packaging.repository import UpdateRepository

    for version in finish_publications(store):
        typer.echo(f"{version} is published")
    waiting = UpdateRepository(store.settings, store.now()).pending()
    _tell(waiting)
    if not waiting:
        typer.echo("in force; nothing waits for signatures")


def _tell(waiting: list[Any]) -> None:
    for pending in waiting:
        typer.echo(f"\n{pending.role} {pending.version} waits: {pending.missing}; sign {pending.path}")
