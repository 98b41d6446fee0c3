"""`voice-pipeline bundle`: bundles as files: into an app's build, as a bill of materials, and whether one is sound."""

from pathlib import Path
from typing import Annotated

import typer

from voice_pipeline.cli_home import Home, existing_store
from voice_pipeline.packaging.platforms import AppPlatform

app = typer.Typer(no_args_is_help=True)


@app.command()
def export(
    model_version: Annotated[str, typer.Argument(metavar="VERSION", help="Model version that is or was live")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Appears in one move; must be empty or not exist")],
    platform: Annotated[AppPlatform, typer.Option("--for", help="What the app is built for")],
    home: Home = None,
) -> None:
    """Lay a live model's bundle out for an app's build: as it was signed, with what to trust and what to know."""
    from voice_pipeline.packaging.app_build import export_for_app

    manifest = export_for_app(existing_store(home), model_version, platform, folder)
    typer.echo(f"{model_version} for {platform.value} is in {folder}, digest {manifest.digest}; read INTEGRATION.md")


@app.command()
def bom(
    model_version: Annotated[str, typer.Argument(metavar="VERSION", help="Model version that has a bundle")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write it here; default standard output")] = None,
    home: Home = None,
) -> None:
    """A bundle's bill of materials: CycloneDX 1.6 JSON."""
    from voice_pipeline.packaging.mlbom import bill_of_materials
    from voice_pipeline.store.blobs import write_atomically

    bill = bill_of_materials(existing_store(home), model_version)
    if out:
        write_atomically(out, bill)
    else:
        typer.echo(bill.decode(), nl=False)


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder; its signature lies beside it")],
    root: Annotated[Path | None, typer.Option(help="root.json that names the key; default: this home's key")] = None,
    home: Home = None,
) -> None:
    """Check a bundle folder: every file's digest and the signature."""
    from voice_pipeline.packaging.app_build import bundle_keys
    from voice_pipeline.packaging.signing import signing_public_key
    from voice_pipeline.trust import verify_bundle

    keys = bundle_keys(root.read_bytes()) if root else signing_public_key(existing_store(home).settings.keys)
    manifest = verify_bundle(bundle.resolve(), keys)
    typer.echo(f"{manifest.model_version} is intact and signed, digest {manifest.digest}")
