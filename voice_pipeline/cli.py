"""`voice-pipeline`: one command group per stage, and the commands that cross stages.

Bad input gives one clear line on standard error and exit code 1; a traceback means a bug of ours.
"""

import os
import re
import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from voice_pipeline import cli_device_lab, cli_published
from voice_pipeline.cli_home import Home
from voice_pipeline.cli_home import existing_store as _existing_store
from voice_pipeline.cli_home import open_store as _store
from voice_pipeline.schema.release import Decision
from voice_pipeline.settings import load_settings, prepare_environment

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__)


def _group(name: str, text: str) -> typer.Typer:
    group = typer.Typer(no_args_is_help=True, help=text)
    app.add_typer(group, name=name)
    return group


DAY = ["%Y-%m-%d"]


class PolicyName(StrEnum):
    """Policies that can be explained."""

    RELEASE = "release"


class InputError(Exception):
    """What was asked for on the command line cannot be done; the message says why."""


def _words(value: str) -> str:
    if not value.strip():
        raise typer.BadParameter("must not be empty")
    return value


Words = Annotated[str, typer.Argument(callback=_words)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]


@app.command()
def demo(
    quick: Annotated[bool, typer.Option("--quick", help="The five-minute version")] = False,
    corpus: Annotated[Path | None, typer.Option(help="Folder with manifest.jsonl; default: synthesised voices")] = None,
    home: Home = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random")] = 1,
    today: Annotated[datetime | None, typer.Option(formats=DAY, help="Last simulated day; default yesterday")] = None,
) -> None:
    """Tell the whole story: import, label, train, release, drift, retrain, roll out, roll back."""
    from rich.console import Console

    from voice_pipeline.demo import StoryPlan, run_demo

    day = (today or datetime.now(UTC) - timedelta(days=1)).date()
    plan = StoryPlan(home=load_settings(home).root, today=day, quick=quick, corpus=corpus, seed=seed)
    run_demo(plan, Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160))


@app.command()
def lineage(model_version: str, home: Home = None, as_json: AsJson = False) -> None:
    """Which data, whose consent, which releases, which devices: everything about one model in one lookup."""
    from voice_pipeline.lineage import lineage as look_up
    from voice_pipeline.lineage import lineage_lines

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
    os.execv(command[0], command)


@app.command()
def evaluate(
    model: Annotated[str, typer.Option(help="Model version, or path of a bundle folder")],
    manifest: Annotated[Path, typer.Option(help="JSON Lines: path, text, speaker, …")],
    noise: Annotated[Path | None, typer.Option(help="Noise manifest to mix in as a second condition")] = None,
    snr: Annotated[float, typer.Option(help="Signal-to-noise ratio in dB for --noise")] = 10.0,
    against: Annotated[
        str | None, typer.Option(help="Another model or bundle folder to compare with, in pairs")
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the report here")] = None,
    home: Home = None,
) -> None:
    """WER and CER with intervals over speakers, by slice, worst words and latency, on any recordings."""
    from voice_pipeline.evaluation.manifest import NoiseUnder, evaluate_manifest
    from voice_pipeline.evaluation.paired import compare
    from voice_pipeline.evaluation.tables import comparison_table, report_text
    from voice_pipeline.store.blobs import write_atomically

    under = NoiseUnder(noise, snr) if noise else None
    store = _store(home)
    report = evaluate_manifest(store, model, manifest, under)
    if json_out:
        write_atomically(json_out, report.model_dump_json(indent=2).encode())
    typer.echo(report_text(report))
    comparison = compare(report, evaluate_manifest(store, against, manifest, under)) if against else None
    if comparison:
        typer.echo(f"\npaired with {comparison.baseline_model_version}:\n{comparison_table(comparison)}")


@app.command(name="wake-words")
def wake_words(
    model: Annotated[str, typer.Option(help="Model version, or path of a bundle folder")],
    positives: Annotated[Path, typer.Option(help="JSON Lines: recordings that say the wake words")],
    negatives: Annotated[list[Path], typer.Option(help="JSON Lines of other speech or of noise; may be repeated")],
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the results here")] = None,
    home: Home = None,
) -> None:
    """Detection rate and false alarms per hour of the wake words in policy/evaluation.yaml, on any recordings."""
    from voice_pipeline.evaluation.wakeword_manifests import evaluate_wake_words
    from voice_pipeline.evaluation.wakewords import wake_word_table
    from voice_pipeline.schema.evaluation_policy import load_evaluation_policy
    from voice_pipeline.store.blobs import write_atomically

    store = _store(home)
    rules = load_evaluation_policy(store.settings.policy_dir).wake_words
    if not rules.phrases:
        raise InputError("policy/evaluation.yaml names no wake word; add some to wake_words: phrases")
    results = evaluate_wake_words(store, model, positives, negatives, rules)
    if json_out:
        lines = [result.model_dump_json() for result in results]
        write_atomically(json_out, f"[{','.join(lines)}]".encode())
    typer.echo(wake_word_table(results))


@app.command()
def bench(
    names: Annotated[list[str] | None, typer.Argument(help="Benchmarks; default all")] = None,
    corpus: Annotated[Path | None, typer.Option(help="Folder with manifest.jsonl, for those that need speech")] = None,
    home: Home = None,
) -> None:
    """Measure figures with goals; one JSON line each, also appended to reports/bench.jsonl of the home."""
    from voice_pipeline.benchmarks import run_benchmarks

    for told in run_benchmarks(_store(home), names or [], corpus):
        typer.echo(told if isinstance(told, str) else told.model_dump_json())


capture = _group("capture", "Receive, quarantine, erase")
labeling = _group("labeling", "Tasks and labels")
dataset = _group("dataset", "Dataset versions")
training = _group("training", "Models")
packaging = _group("packaging", "Bundles")
release = _group("release", "Rollouts")
monitoring = _group("monitoring", "Incidents")
policy = _group("policy", "Rules")
edge = _group("edge", "The HTTP face to devices and reviewers")
app.command()(cli_published.published)
app.add_typer(cli_device_lab.app, name="device-lab", help="Latency reports from real devices")


@capture.command("import")
def capture_import(
    corpus: Path,
    day: Annotated[datetime | None, typer.Option(formats=DAY, help="Capture day; default yesterday (UTC)")] = None,
    seed: Annotated[int, typer.Option(help="Seed of minted ids and device contexts")] = 1,
    home: Home = None,
) -> None:
    """Import recordings you hold consent for (DIR/manifest.jsonl), and noises if there are any (DIR/noise.jsonl); the
    running sensors open tasks for people to label.
    """
    from voice_pipeline.capture.noise import import_noise
    from voice_pipeline.demo import keep_home
    from voice_pipeline.fleet.corpus import load_corpus
    from voice_pipeline.fleet.importer import import_clips

    clips = load_corpus(corpus)
    store = _store(home)
    noise = corpus / "noise.jsonl"
    noises = import_noise(store, noise) if noise.exists() else 0  # a refused import leaves a demo's home a demo's
    keep_home(store.settings.root)
    captured = day.date() if day else store.now().date() - timedelta(days=1)
    imported = import_clips(store, clips, [captured], seed=seed)
    typer.echo(f"{len(imported)} clips wait in the inbox for {captured}, {noises} noises are new")


@capture.command()
def token(installation: Words, home: Home = None) -> None:
    """The pseudonym under which an installation's (or an imported speaker's) clips are kept."""
    from voice_pipeline.store.vault import subject_token

    typer.echo(subject_token(_existing_store(home).subject_salt, installation))


@capture.command()
def erase(subject_token: Words, actor: Words, home: Home = None) -> None:
    """Destroy a person's key: their audio is gone from every dataset version; prints what had learnt from it."""
    from voice_pipeline.capture.erasure import erase_subject
    from voice_pipeline.lineage import subject_lineage

    if not re.fullmatch(r"[0-9a-f]{32}", subject_token):
        raise InputError(f"{subject_token} is no pseudonym; `voice-pipeline capture token INSTALLATION` gives it")
    store = _existing_store(home)
    before = subject_lineage(store, subject_token)
    erase_subject(store, subject_token, actor)
    typer.echo(before.model_dump_json(indent=2))


@capture.command()
def quarantined(home: Home = None) -> None:
    """Clips that were refused, with the reason."""
    _table(_existing_store(home), "quarantine", ("capture_date", "clip_id", "reason", "detail"))


@labeling.command("status")
def labeling_status(home: Home = None) -> None:
    """How many tasks are in which state."""
    _count(_existing_store(home), "label_tasks", "state")


@dataset.command("list")
def dataset_list(home: Home = None) -> None:
    """Dataset versions, oldest first."""
    _table(_existing_store(home), "dataset_versions", ("dataset_version", "dvc_md5", "clips", "created_at"))


@dataset.command()
def checkout(dataset_version: str, home: Home = None) -> None:
    """Bring one version's folder back beside the current one; prints its path."""
    from voice_pipeline.dataset.snapshot import materialise

    typer.echo(materialise(_existing_store(home), dataset_version))


@training.command("list")
def training_list(home: Home = None) -> None:
    """Models, oldest first."""
    _table(_existing_store(home), "models", ("model_version", "state", "dataset_version", "parent_model_version"))


@training.command()
def request(reason: Words, actor: Words, home: Home = None) -> None:
    """Ask for a retrain now; retrain_decision_sensor picks it up."""
    from voice_pipeline.training.planning import request_retrain

    typer.echo(request_retrain(_existing_store(home), reason, actor))


@packaging.command()
def verify(bundle: Path, home: Home = None) -> None:
    """Check a bundle folder: every file's digest and the signature."""
    from voice_pipeline.packaging.signing import signing_public_key
    from voice_pipeline.trust import verify_bundle

    manifest = verify_bundle(bundle.resolve(), signing_public_key(_existing_store(home).settings.keys))
    typer.echo(f"{manifest.model_version} is intact and signed, digest {manifest.digest}")


@release.command("status")
def release_status(home: Home = None) -> None:
    """Every release and where it stands."""
    from voice_pipeline.store.releases import release_views

    for view in release_views(_existing_store(home)):
        typer.echo(f"{view.release_id}  {view.state.value:18} {view.exposure_percent:3} %  since {view.entered_at}")


@release.command()
def history(release_id: str, home: Home = None) -> None:
    """All transitions of one release."""
    from voice_pipeline.store.releases import find_release

    view = find_release(_existing_store(home), release_id)
    if view is None:
        raise InputError(f"release {release_id} is not in this home; `voice-pipeline release status` shows all")
    for step in view.transitions:
        typer.echo(f"{step.at}  {step.from_state or '-'} → {step.to_state}  by {step.actor}: {step.reason}")


@release.command()
def decide(release_id: str, decision: Decision, actor: Words, reason: Words, home: Home = None) -> None:
    """Store a person's decision (approve, reject, hold, resume, rollback); rollout_sensor acts on it."""
    from voice_pipeline.release.decisions import record_decision

    stored = record_decision(_existing_store(home), release_id, decision, actor=actor, reason=reason)
    typer.echo(f"{stored.decision_id} stored")


@release.command("verify")
def release_verify(home: Home = None) -> None:
    """Check the ledger's hash chain."""
    typer.echo(f"{_existing_store(home).ledger.verify()} ledger lines verify")


@monitoring.command("incidents")
def monitoring_incidents(home: Home = None) -> None:
    """All incidents, open ones marked."""
    _table(_existing_store(home), "incidents", ("incident_id", "kind", "action", "opened_at", "closed_at", "summary"))


@monitoring.command()
def close(incident_id: str, actor: Words, reason: Words, home: Home = None) -> None:
    """Close an incident that people have dealt with; drift closes its own."""
    from voice_pipeline.store.incidents import close_incident

    if not close_incident(_existing_store(home), incident_id, f"{reason} ({actor})"):
        raise InputError(f"incident {incident_id} is not open; `voice-pipeline monitoring incidents` shows all")
    typer.echo(f"{incident_id} closed")


@policy.command()
def explain(name: Annotated[PolicyName, typer.Argument(help="Which policy")], home: Home = None) -> None:
    """Say a policy in plain words."""
    from voice_pipeline.release.explain import explain_release

    typer.echo(explain_release(_store(home)))


@edge.command()
def serve(host: str = "", port: int = 0, home: Home = None) -> None:
    """Serve devices and reviewers."""
    import uvicorn

    from voice_pipeline.demo import keep_home
    from voice_pipeline.edge.app import create_app

    store = _store(home)
    keep_home(store.settings.root)
    uvicorn.run(create_app(store), host=host or store.settings.edge_host, port=port or store.settings.edge_port)


def _table(store: Any, name: str, columns: tuple[str, ...]) -> None:
    from sqlalchemy import select

    from voice_pipeline.store.tables import catalogue

    for row in store.database.rows(select(*(catalogue.tables[name].c[column] for column in columns))):
        typer.echo("  ".join("-" if value is None else str(value) for value in row.values()))


def _count(store: Any, name: str, column: str) -> None:
    from sqlalchemy import func, select

    from voice_pipeline.store.tables import catalogue

    by = catalogue.tables[name].c[column]
    for row in store.database.rows(select(by, func.count().label("n")).group_by(by)):
        typer.echo(f"{row[column]}  {row['n']}")


def main() -> None:
    """Entry point: errors of this project, of its settings, files and databases become one line and exit code 1."""
    try:
        app()
    except Exception as error:
        if not _explains_itself(error):
            raise
        typer.echo(f"voice-pipeline: {' '.join(str(error).split())}", err=True)
        sys.exit(1)


def _explains_itself(error: Exception) -> bool:
    from pydantic import ValidationError
    from pydantic_settings import SettingsError
    from sqlalchemy.exc import SQLAlchemyError

    ours = type(error).__module__.startswith("voice_pipeline") or type(error).__module__ == "__main__"
    return ours or isinstance(error, OSError | UnicodeDecodeError | ValidationError | SettingsError | SQLAlchemyError)


if __name__ == "__main__":
    main()
