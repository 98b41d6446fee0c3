"""How every command finds its home."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from voice_pipeline.settings import load_settings, prepare_environment

Home = Annotated[Path | None, typer.Option(help="Home folder; default VOICE_PIPELINE_HOME or .voice_pipeline")]


def open_store(home: Path | None) -> Any:
    """The store of a home, made on first use."""
    from voice_pipeline.demo_home import usable
    from voice_pipeline.store.store import Store

    settings = load_settings(home)
    with usable(settings.root):
        prepare_environment(settings)
        return Store.open(settings)


def existing_store(home: Path | None) -> Any:
    """The store of a home that was used before; else one line says so and the command ends with exit code 1."""
    from voice_pipeline.demo_home import usable

    settings = load_settings(home)
    with usable(settings.root):
        used = bool(settings.database_url) or (settings.root / "catalogue.db").exists()
    if not used:
        typer.echo(
            f"voice-pipeline: home {settings.root} holds no catalogue yet; check --home and VOICE_PIPELINE_HOME, "
            "or run `make demo` or import clips",
            err=True,
        )
        raise typer.Exit(1)
    return open_store(home)
