"""`voice-pipeline capture`: recordings come in, people take them back."""

import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from voice_pipeline.cli_home import Home, existing_store, open_store
from voice_pipeline.cli_input import DAY, InputError, Words
from voice_pipeline.cli_table import print_columns

app = typer.Typer(no_args_is_help=True)

FIRST = 3
"""How many names are told where there may be many."""


@app.command("import")
def import_recordings(
    corpus: Path,
    day: Annotated[datetime | None, typer.Option(formats=DAY, help="Capture day; default yesterday (UTC)")] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of minted ids; the same recording under another seed comes in anew")
    ] = 1,
    home: Home = None,
) -> None:
    """Import recordings you hold consent for (DIR/manifest.jsonl), and noises if there are any (DIR/noise.jsonl); the
    running sensors open tasks for people to label.
    """
    from voice_pipeline.capture.noise import import_noise
    from voice_pipeline.demo_home import keep_home, served_home
    from voice_pipeline.fleet.corpus import load_corpus
    from voice_pipeline.fleet.importer import import_clips
    from voice_pipeline.settings import load_settings

    clips = load_corpus(corpus)
    with served_home(load_settings(home).root, "voice-pipeline capture import"):
        store = open_store(home)
        noise = corpus / "noise.jsonl"
        noises = import_noise(store, noise) if noise.exists() else 0  # a refused import leaves a demo's home a demo's
        keep_home(store.settings.root)
        captured = day.date() if day else store.now().date() - timedelta(days=1)
        imported = import_clips(store, clips, [captured], seed=seed)
    typer.echo(
        f"{imported.new} clips wait in the inbox for {captured}, {imported.held} were imported before, "
        f"{noises} noises are new"
    )
    if imported.changed:
        typer.echo(
            f"{len(imported.changed)} changed since they were imported, and are left as they are: "
            f"{_first(imported.changed)}; give a changed recording another path to import it"
        )


def _first(names: tuple[str, ...]) -> str:
    return ", ".join(names[:FIRST]) + (", …" if len(names) > FIRST else "")


@app.command()
def token(installation: Words, home: Home = None) -> None:
    """The pseudonym under which an installation's (or an imported speaker's) clips are kept."""
    from voice_pipeline.store.vault import subject_token

    typer.echo(subject_token(existing_store(home).subject_salt, installation))


@app.command()
def erase(subject_token: Words, actor: Words, home: Home = None) -> None:
    """Destroy a person's key: their audio is gone from every dataset version; prints what had learnt from it."""
    from voice_pipeline.capture.erasure import erase_subject
    from voice_pipeline.lineage import subject_lineage

    if not re.fullmatch(r"[0-9a-f]{32}", subject_token):
        raise InputError(f"{subject_token} is no pseudonym; `voice-pipeline capture token INSTALLATION` gives it")
    store = existing_store(home)
    before = subject_lineage(store, subject_token)
    erase_subject(store, subject_token, actor)
    typer.echo(before.model_dump_json(indent=2))


@app.command()
def quarantined(home: Home = None) -> None:
    """Clips that were refused, with the reason."""
    print_columns(existing_store(home), "quarantine", ("capture_date", "clip_id", "reason", "detail"))
