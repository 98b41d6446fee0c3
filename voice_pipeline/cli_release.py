"""`voice-pipeline release`: where rollouts stand, and what people decide about them."""

import typer

from voice_pipeline.cli_home import Home, existing_store
from voice_pipeline.cli_input import InputError, Words
from voice_pipeline.cli_table import print_table
from voice_pipeline.schema.release import Decision

app = typer.Typer(no_args_is_help=True)


@app.command()
def status(home: Home = None) -> None:
    """Every release, where it stands and which model it carries."""
    from voice_pipeline.store.releases import release_views

    rows = [
        (view.release_id, view.state.value, f"{view.exposure_percent} %", view.entered_at, view.model_version)
        for view in release_views(existing_store(home))
    ]
    print_table(("release_id", "state", "exposure", "since", "model_version"), rows)


@app.command()
def history(release_id: str, home: Home = None) -> None:
    """All transitions of one release; of a model version, those of each of its releases."""
    from voice_pipeline.store.releases import release_views

    views = [
        view for view in release_views(existing_store(home)) if release_id in (view.release_id, view.model_version)
    ]
    if not views:
        raise InputError(
            f"release {release_id} is not in this home, nor a release of a model of that name; "
            "`voice-pipeline release status` shows all"
        )
    for view in views:
        if release_id != view.release_id:
            typer.echo(f"{view.release_id}:")
        for step in view.transitions:
            typer.echo(f"{step.at}  {step.from_state or '-'} → {step.to_state}  by {step.actor}: {step.reason}")


@app.command()
def decide(release_id: str, decision: Decision, actor: Words, reason: Words, home: Home = None) -> None:
    """Store a person's decision (approve, reject, hold, resume, rollback); rollout_sensor acts on it."""
    from voice_pipeline.release.decisions import record_decision

    stored = record_decision(existing_store(home), release_id, decision, actor=actor, reason=reason)
    typer.echo(f"{stored.decision_id} stored")


@app.command()
def verify(home: Home = None) -> None:
    """Check the ledger's hash chain."""
    typer.echo(f"{existing_store(home).ledger.verify()} ledger lines verify")
