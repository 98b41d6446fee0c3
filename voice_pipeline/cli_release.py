"""`voice-pipeline release`: where rollouts stand, and what people decide about them, signed with their keys."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voice_pipeline.cli_home import Home, existing_store
from voice_pipeline.cli_input import InputError
from voice_pipeline.cli_people import app as people
from voice_pipeline.cli_table import print_table, to_the_second
from voice_pipeline.cli_trials import trials
from voice_pipeline.schema.release import Decision

if TYPE_CHECKING:
    from voice_pipeline.schema.release_policy import ReleasePolicy
    from voice_pipeline.store.releases import ReleaseView
    from voice_pipeline.store.store import Store

app = typer.Typer(no_args_is_help=True)
app.add_typer(people, name="people", help="Who may sign decisions")
app.command()(trials)

LIVE = "live"
EVIDENCE = {Decision.OVERRIDE: "gate {gate} overridden", Decision.READMIT: "readmitted"}
"""Decisions that are no transition of their release."""
AT_ONCE = "in force now, no sensor is needed"
TICKS = "at its next tick: within 30 s while `voice-pipeline dev` runs on this home, else when it is started"
BY_SENSOR = f"signed and stored; rollout_sensor acts on it {TICKS}"

Release = Annotated[str, typer.Argument(help="Id of a release; `live` is the one in production")]
ReleaseOrModel = Annotated[str, typer.Argument(help="Id of a release, `live`, or a model version")]
As = Annotated[str, typer.Option("--as", help="Who decides: a person that is enrolled")]
Reason = Annotated[str, typer.Option(help="Why; it is kept in the ledger")]
Chart = Annotated[Path | None, typer.Option(help="Draw the rollout there, too: exposure over time, looks, harm (PNG)")]
LeaveNone = Annotated[bool, typer.Option("--leave-none", help="Also where no model was live before: then none is")]
Found = Annotated[bool, typer.Option("--found-checkpoint", help="Note and key are lost for good: make new ones first")]
Key = Annotated[Path | None, typer.Option(help="Private key, else VOICE_PIPELINE_PERSON_KEY, else that of the home")]


@app.command()
def status(home: Home = None) -> None:
    """Every release, where it stands, which model it carries and what it waits for; then which one is live."""
    from voice_pipeline.release.waiting import waits_for
    from voice_pipeline.store.releases import live_of, release_views

    store = existing_store(home)
    store.ledger.verify()
    policy, views = _standing_policy(store), release_views(store)
    rows = [
        (
            *(view.release_id, view.state.value, f"{view.exposure_percent} %", to_the_second(view.entered_at)),
            *(view.model_version, waits_for(store, policy, views, view) or None),
        )
        for view in views
    ]
    print_table(("release_id", "state", "exposure", "since", "model_version", "waits for"), rows)
    if views:
        now_live = live_of(tuple(views))
        typer.echo(f"live: {now_live.release_id if now_live else 'no model; devices go on with what they have'}")


@app.command()
def approve(release: Release, name: As, reason: Reason, key: Key = None, home: Home = None) -> None:
    """Sign a release off that awaits it."""
    _decide(release, Decision.APPROVE, name, reason, key, home)


@app.command()
def reject(release: Release, name: As, reason: Reason, key: Key = None, home: Home = None) -> None:
    """Reject a release that no device has heard of yet."""
    _decide(release, Decision.REJECT, name, reason, key, home)


@app.command()
def hold(release: Release, name: As, reason: Reason, key: Key = None, home: Home = None) -> None:
    """Hold a rollout where it is, at once; harm is still undone."""
    _decide(release, Decision.HOLD, name, reason, key, home)


@app.command()
def resume(release: Release, name: As, reason: Reason, key: Key = None, home: Home = None) -> None:
    """Let a held rollout go on from the stage it was held in."""
    _decide(release, Decision.RESUME, name, reason, key, home)


@app.command()
def rollback(
    release: Release, name: As, reason: Reason, leave_none: LeaveNone = False, key: Key = None, home: Home = None
) -> None:
    """Take a release back, at once: devices go on with the live model, for `live` with the one before it. By mistake?
    See `readmit`."""
    from voice_pipeline.release.rollback import model_before
    from voice_pipeline.store.releases import live_of, release_views

    store = existing_store(home)
    views = release_views(store)
    now = live_of(tuple(views))
    if now and _named(store, release) == now.release_id and not model_before(now, views) and not leave_none:
        raise InputError(
            f"no model was live before {now.release_id}, so there is none to go back to: devices that have it go on "
            "with it, and no other can dictate; if that is better than this model for all, add --leave-none"
        )
    _decide(release, Decision.ROLLBACK, name, reason, key, home)


@app.command()
def readmit(release: Release, name: As, reason: Reason, key: Key = None, home: Home = None) -> None:
    """Let a release come back that people ended by mistake: as the next one, through all gates and stages again."""
    from voice_pipeline.release.carrying_out import readmit as let_in
    from voice_pipeline.release.people.enrolment import person_key

    store = existing_store(home)
    signed = let_in(store, _named(store, release), person_key(store, name, key), reason)
    typer.echo(f"{signed.decision_id}: {signed.statement.release_id} readmitted; signed")
    typer.echo(f"signed_bundle_sensor registers it as the next release of its model {TICKS}")
    _standing_policy(store)


@app.command()
def override(
    release: Release,
    gate: Annotated[str, typer.Option(help="The gate that the bundle failed")],
    name: As,
    reason: Reason,
    key: Key = None,
    home: Home = None,
) -> None:
    """Settle a gate that a release's bundle failed; no stage of the rollout is skipped."""
    from voice_pipeline.release.carrying_out import override_gate
    from voice_pipeline.release.people.enrolment import person_key

    store = existing_store(home)
    signed, failing = override_gate(store, _named(store, release), gate, person_key(store, name, key), reason)
    typer.echo(f"{signed.decision_id}: gate {gate} of bundle {signed.statement.bundle_digest[:12]} overridden; signed")
    typer.echo(
        f"it still fails: {', '.join(failing)}"
        if failing
        else f"signed_bundle_sensor registers it, or rollout_sensor lets it go on, {TICKS}"
    )
    _standing_policy(store)


@app.command()
def history(release_id: ReleaseOrModel, chart: Chart = None, home: Home = None) -> None:
    """All transitions and signed overrides of one release; of a model version, those of each of its releases."""
    from voice_pipeline.release.people.decisions import signed_decisions
    from voice_pipeline.store.errors import LedgerBrokenError
    from voice_pipeline.store.releases import release_views

    store = existing_store(home)
    release_id = _live(store) if release_id == LIVE else release_id
    views = [view for view in release_views(store) if release_id in (view.release_id, view.model_version)]
    if not views:
        raise InputError(
            f"release {release_id} is not in this home, nor a release of a model of that name; "
            "`voice-pipeline release status` shows all"
        )
    for view in views:
        if release_id != view.release_id:
            typer.echo(f"{view.release_id}:")
        told: dict[int, tuple[str, Any]] = {
            step.seq: (f"{step.from_state or '-'} → {step.to_state}", step) for step in view.transitions
        }
        for signed in signed_decisions(store, release_id=view.release_id):
            if signed.statement.decision in EVIDENCE:
                told[signed.seq] = (EVIDENCE[signed.statement.decision].format(gate=signed.statement.gate), signed)
        for _, (what, entry) in sorted(told.items()):
            typer.echo(f"{to_the_second(entry.at)}  {what}  by {entry.actor}: {entry.reason}")
    if chart is not None:
        _draw(store, views, chart)
    try:
        store.ledger.verify()
    except LedgerBrokenError as broken:  # all the same, this is when a history is looked at
        typer.echo(f"voice-pipeline: do not rely on this history: {broken}", err=True)


@app.command()
def verify(found_checkpoint: Found = False, home: Home = None) -> None:
    """Check the ledger's hash chain, and that every decision and every line about people in it is signed by somebody
    who was enrolled then."""
    from voice_pipeline.release.people.decisions import unsigned_decisions
    from voice_pipeline.release.people.roll import roll_of

    store = existing_store(home)
    if found_checkpoint:
        _found(store)
    lines = store.ledger.verify()
    (decided, unsigned), roll = unsigned_decisions(store), roll_of(store)
    counted = f"{roll.lines - len(roll.refused)} of {roll.lines} lines about people count"
    typer.echo(f"{lines} ledger lines verify; {decided - len(unsigned)} of {decided} decisions are signed; {counted}")
    for told in (*roll.founded_anew, *_changed_by_who_may_not(store)):
        typer.echo(told)
    if unsigned or roll.refused:
        raise InputError("; ".join([*unsigned, *roll.refused]))


def _changed_by_who_may_not(store: "Store") -> list[str]:
    from voice_pipeline.release.people.staffing import changed_by_who_may_not
    from voice_pipeline.schema.policy_file import PolicyError

    try:
        return changed_by_who_may_not(store, _standing_policy(store))
    except PolicyError as problem:
        return [f"whether all who changed the people may do so, only a policy says: {problem}"]


def _found(store: "Store") -> None:
    from voice_pipeline.store.alerts import raise_alert

    found = store.ledger.found_checkpoint("command line")
    if found is None:
        raise InputError("this home has its ledger.checkpoint and key; nothing to found, leave --found-checkpoint out")
    told = (
        f"a new ledger.checkpoint vouches for the {found} lines that are here. Whether more came after them, nothing "
        "shows: look through `release status`, `release people list` (who was removed may count again) and "
        "the newest backup, and say again what is missing"
    )
    raise_alert(store, {"checkpoint_founded": store.ledger.head()}, "a new ledger.checkpoint was founded", told)
    typer.echo(told)


def _draw(store: "Store", views: Sequence["ReleaseView"], chart: Path) -> None:
    from voice_pipeline.release.story.presentation import picture

    if len(views) != 1:
        raise InputError(f"--chart draws one release; name one of {', '.join(view.release_id for view in views)}")
    if not chart.parent.is_dir():
        raise InputError(f"--chart {chart}: there is no folder {chart.parent}; make it first")
    chart.write_bytes(picture(store, views[0]))
    typer.echo(f"{chart} written")


def _decide(release: str, decision: Decision, name: str, reason: str, key: Path | None, home: Path | None) -> None:
    from voice_pipeline.release.people.decisions import record_decision
    from voice_pipeline.release.people.enrolment import person_key
    from voice_pipeline.release.people.fitting import QUEUED
    from voice_pipeline.store.releases import find_release, live

    store = existing_store(home)
    release_id = _named(store, release)
    signed = record_decision(store, release_id, decision, person_key(store, name, key), reason)
    when = BY_SENSOR if decision in QUEUED else AT_ONCE
    view, now_live = find_release(store, release_id), live(store)
    typer.echo(f"{signed.decision_id}: {decision} {release_id}: {when}")
    if view is not None and decision not in QUEUED:
        typer.echo(f"{release_id} is {view.state}; live: {now_live.release_id if now_live else 'no model'}")
    _standing_policy(store)


def _standing_policy(store: "Store") -> "ReleasePolicy":
    """The rules in force, by which the controller acts, too; one line says so where they are not those of the file."""
    from voice_pipeline.release.policy import standing_policy

    standing = standing_policy(store)
    if standing.problem:
        typer.echo(f"voice-pipeline: {' '.join(standing.problem.split())}", err=True)
    return standing.policy


def _named(store: Any, release: str) -> str:
    """Raises:
    InputError: nothing is live, or a model was named where a release is wanted.
    """
    from voice_pipeline.store.releases import release_views

    if release == LIVE:
        return _live(store)
    of_model = [view.release_id for view in release_views(store) if view.model_version == release]
    if of_model:
        raise InputError(f"{release} is a model; name one of its releases: {', '.join(of_model)}")
    return release


def _live(store: "Store") -> str:
    """Raises:
    InputError: nothing is live.
    """
    from voice_pipeline.store.releases import live

    now = live(store)
    if now is None:
        raise InputError("no release is live; `voice-pipeline release status` lists all")
    return now.release_id
