"""`voice-pipeline`: one command group per stage, and the commands that cross stages.

Bad input gives one clear line on standard error and exit code 1; a traceback means a bug of ours.
"""

import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from voice_pipeline import (
    cli_bundle,
    cli_capture,
    cli_dev,
    cli_device_lab,
    cli_measure,
    cli_published,
    cli_release,
    cli_repository,
)
from voice_pipeline.cli_home import Home, existing_store, open_store
from voice_pipeline.cli_input import DAY, AsJson, InputError, Words
from voice_pipeline.cli_table import print_columns, print_counts
from voice_pipeline.settings import load_settings

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__)


def _group(name: str, text: str) -> typer.Typer:
    group = typer.Typer(no_args_is_help=True, help=text)
    app.add_typer(group, name=name)
    return group


class PolicyName(StrEnum):
    """Policies that can be explained."""

    RELEASE = "release"


@app.command()
def demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="Train each model for 4 or 5 epochs instead of 11 or 13")
    ] = False,
    corpus: Annotated[Path | None, typer.Option(help="Folder with manifest.jsonl; default: synthesised voices")] = None,
    home: Home = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random")] = 1,
    today: Annotated[datetime | None, typer.Option(formats=DAY, help="Last simulated day; default yesterday")] = None,
) -> None:
    """Tell the whole story: import, label, train, release, drift, retrain, roll out, roll back.

    Most of its time goes into training three models and measuring them, so it takes as long as the processor needs.
    """
    from rich.console import Console

    from voice_pipeline.demo import StoryPlan, run_demo

    day = (today or datetime.now(UTC) - timedelta(days=1)).date()
    plan = StoryPlan(home=load_settings(home).root, today=day, quick=quick, corpus=corpus, seed=seed)
    run_demo(plan, Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160))


@app.command()
def lineage(
    model_version: Annotated[str, typer.Argument(help="A model version, or the id of one of its releases")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Which data, whose consent, which releases, which devices: everything about one model in one lookup."""
    from voice_pipeline.lineage import lineage as look_up
    from voice_pipeline.lineage import lineage_lines
    from voice_pipeline.store.releases import find_release

    store = existing_store(home)
    release = find_release(store, model_version)
    found = look_up(store, release.model_version if release else model_version)
    typer.echo(found.model_dump_json(indent=2) if as_json else "\n".join(lineage_lines(found)))


labeling = _group("labeling", "Tasks and labels")
dataset = _group("dataset", "Dataset versions")
training = _group("training", "Models")
monitoring = _group("monitoring", "Incidents")
policy = _group("policy", "Rules")
edge = _group("edge", "The HTTP face to devices and reviewers")
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(cli_dev.dev)
app.command()(cli_measure.evaluate)
app.command("wake-words")(cli_measure.wake_words)
app.command()(cli_measure.bench)
app.command()(cli_published.published)
app.add_typer(cli_capture.app, name="capture", help="Receive, quarantine, erase")
app.add_typer(cli_bundle.app, name="bundle", help="Bundles as files: for an app's build, bill of materials, verify")
app.add_typer(cli_release.app, name="release", help="Rollouts")
app.add_typer(cli_repository.app, name="repository", help="Update repository: keys, signatures, what is on offer")
app.add_typer(cli_device_lab.app, name="device-lab", help="Latency reports from real devices")


@labeling.command("status")
def labeling_status(home: Home = None) -> None:
    """How many tasks are in which state."""
    print_counts(existing_store(home), "label_tasks", "state")


@dataset.command("list")
def dataset_list(home: Home = None) -> None:
    """Dataset versions, oldest first."""
    print_columns(existing_store(home), "dataset_versions", ("dataset_version", "dvc_md5", "clips", "created_at"))


@dataset.command()
def checkout(dataset_version: str, home: Home = None) -> None:
    """Bring one version's folder back beside the current one; prints its path."""
    from voice_pipeline.dataset.snapshot import materialise

    typer.echo(materialise(existing_store(home), dataset_version))


@training.command("list")
def training_list(home: Home = None) -> None:
    """Models, oldest first."""
    print_columns(existing_store(home), "models", ("model_version", "state", "dataset_version", "parent_model_version"))


@training.command()
def request(reason: Words, actor: Words, home: Home = None) -> None:
    """Ask for a retrain now; retrain_decision_sensor picks it up."""
    from voice_pipeline.training.planning import request_retrain

    typer.echo(request_retrain(existing_store(home), reason, actor))


@monitoring.command("incidents")
def monitoring_incidents(home: Home = None) -> None:
    """All incidents, open ones marked."""
    print_columns(
        existing_store(home), "incidents", ("incident_id", "kind", "action", "opened_at", "closed_at", "summary")
    )


@monitoring.command()
def close(incident_id: str, actor: Words, reason: Words, home: Home = None) -> None:
    """Close an incident that people have dealt with; drift closes its own."""
    from voice_pipeline.store.incidents import close_incident

    if not close_incident(existing_store(home), incident_id, f"{reason} ({actor})"):
        raise InputError(f"incident {incident_id} is not open; `voice-pipeline monitoring incidents` shows all")
    typer.echo(f"{incident_id} closed")


@policy.command()
def explain(name: Annotated[PolicyName, typer.Argument(help="Which policy")]) -> None:
    """Say a policy in plain words."""
    from voice_pipeline.release.explain import explain_release

    typer.echo(explain_release(load_settings().policy_dir))


@edge.command()
def serve(host: str = "", port: int = 0, home: Home = None) -> None:
    """Serve devices and reviewers."""
    import uvicorn

    from voice_pipeline.cli_dev import refuse_a_taken_port
    from voice_pipeline.demo_home import keep_home, served_home
    from voice_pipeline.edge.app import create_app

    with served_home(load_settings(home).root, "voice-pipeline edge serve"):
        store = open_store(home)
        host, port = host or store.settings.edge_host, port or store.settings.edge_port
        served = create_app(store)
        refuse_a_taken_port(host, port)
        keep_home(store.settings.root)  # not before it can serve
        uvicorn.run(served, host=host, port=port)


def main() -> None:
    """Entry point: errors of this project, of its settings, files and databases become one line and exit code 1."""
    try:
        app()
    except Exception as error:
        if not _explains_itself(error):
            raise
        typer.echo(f"voice-pipeline: {' '.join(_words(error).split())}", err=True)
        sys.exit(1)


def _words(error: Exception) -> str:
    """What it says; of the system's own errors the file and the reason, without a number."""
    if isinstance(error, OSError) and type(error).__module__ == "builtins" and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _explains_itself(error: Exception) -> bool:
    from pydantic import ValidationError
    from pydantic_settings import SettingsError
    from sqlalchemy.exc import SQLAlchemyError

    ours = type(error).__module__.startswith("voice_pipeline") or type(error).__module__ == "__main__"
    return ours or isinstance(error, OSError | UnicodeDecodeError | ValidationError | SettingsError | SQLAlchemyError)


if __name__ == "__main__":
    main()
