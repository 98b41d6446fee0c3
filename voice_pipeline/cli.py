"""`voice-pipeline`: one command group per stage, and the four commands that cross stages.

Bad input gives one clear line on standard error and exit code 1; a traceback means a bug of ours.
"""

import os
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from voice_pipeline.settings import load_settings, prepare_environment

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__)
Home = Annotated[Path | None, typer.Option(help="Home folder; default VOICE_PIPELINE_HOME or .voice_pipeline")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]


def _store(home: Path | None) -> Any:
    from voice_pipeline.store.store import Store

    settings = load_settings(home)
    prepare_environment(settings)
    return Store.open(settings)


def _existing_store(home: Path | None) -> Any:
    settings = load_settings(home)
    if not settings.database_url and not (settings.root / "catalogue.db").exists():
        typer.echo(
            f"voice-pipeline: home {settings.root} holds no catalogue yet; run `make demo` or import clips", err=True
        )
        raise typer.Exit(1)
    return _store(home)


@app.command()
def demo(
    quick: Annotated[bool, typer.Option("--quick", help="The five-minute version")] = False,
    corpus: Annotated[Path | None, typer.Option(help="Folder with manifest.jsonl; default: synthesised voices")] = None,
    home: Home = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random")] = 1,
    today: Annotated[str | None, typer.Option(help="Last simulated day, YYYY-MM-DD; default today (UTC)")] = None,
) -> None:
    """Tell the whole story: import, label, train, release, drift, retrain, roll out, roll back."""
    from rich.console import Console

    from voice_pipeline.demo import StoryPlan, run_demo

    day = date.fromisoformat(today) if today else datetime.now(UTC).date()
    settings = load_settings(home)
    prepare = StoryPlan(home=settings.root, today=day, quick=quick, corpus=corpus, seed=seed)
    run_demo(prepare, Console(highlight=False))


@app.command()
def lineage(model_version: str, home: Home = None, as_json: AsJson = False) -> None:
    """Which data, whose consent, which releases, which devices: everything about one model in one lookup."""
    from voice_pipeline.lineage import lineage as look_up
    from voice_pipeline.story_report import lineage_lines

    found = look_up(_existing_store(home), model_version)
    typer.echo(found.model_dump_json(indent=2) if as_json else "\n".join(lineage_lines(found)))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def dev(context: typer.Context, home: Home = None) -> None:
    """The Dagster UI and daemon on this home (`dev webserver …`, `dev daemon …` for one of them)."""
    from voice_pipeline.settings import PROJECT_ROOT

    settings = load_settings(home)
    prepare_environment(settings)
    workspace = ["-w", str(PROJECT_ROOT / "workspace.yaml")]
    scripts = Path(sys.executable).parent
    match context.args[:1]:
        case ["webserver"]:
            command = [str(scripts / "dagster-webserver"), *workspace, *context.args[1:]]
        case ["daemon"]:
            command = [str(scripts / "dagster-daemon"), "run", *workspace, *context.args[1:]]
        case _:
            command = [str(scripts / "dagster"), "dev", *workspace, *context.args]
    os.execv(command[0], command)  # noqa: S606


def main() -> None:
    """Entry point: errors of this project become one line and exit code 1."""
    try:
        app()
    except Exception as error:
        if not type(error).__module__.startswith("voice_pipeline"):
            raise
        typer.echo(f"voice-pipeline: {' '.join(str(error).split())}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
