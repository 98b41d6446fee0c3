"""`voice-pipeline release people`: who may sign decisions about releases."""

from pathlib import Path
from typing import Annotated, Any

import typer

from voice_pipeline.cli_home import Home, existing_store
from voice_pipeline.cli_input import InputError
from voice_pipeline.cli_table import print_table, to_the_second

app = typer.Typer(no_args_is_help=True)

SHORT = 16
"""Characters of a fingerprint that are printed."""

Role = Annotated[str, typer.Option(help="What policy/release.yaml may name instead of the person")]
PublicKey = Annotated[Path | None, typer.Option(help="PEM file; without it a key pair is made here")]
Key = Annotated[
    Path | None,
    typer.Option(help="Private key of whom --as names, else VOICE_PIPELINE_PERSON_KEY, else that of the home"),
]


@app.command("list")
def list_people(home: Home = None) -> None:
    """The people who are enrolled, with their role and the fingerprint of their key; what nobody of them may do."""
    from voice_pipeline.release.people.enrolment import key_here
    from voice_pipeline.release.people.roll import roll_of
    from voice_pipeline.release.people.staffing import changed_by_who_may_not, gaps
    from voice_pipeline.release.policy import standing_policy

    store = existing_store(home)
    store.ledger.verify()
    roll = roll_of(store)
    rows = [
        (
            *(person.name, person.role, person.fingerprint[:SHORT], to_the_second(person.enrolled_at)),
            "here" if key_here(store, person) else "elsewhere",
        )
        for person in roll.here
    ]
    print_table(("name", "role", "fingerprint", "enrolled at", "private key"), rows)
    policy = standing_policy(store).policy
    told = (*roll.founded_anew, *roll.refused, *changed_by_who_may_not(store, policy), *gaps(policy, roll.here))
    for line in told:
        typer.echo(line)


@app.command()
def add(
    name: str,
    role: Role,
    by: Annotated[str | None, typer.Option("--as", help="Who signs for them; nobody for the first person")] = None,
    key: Key = None,
    public_key: PublicKey = None,
    home: Home = None,
) -> None:
    """Enrol a person; what they sign counts from now on, as far as the policy lets them."""
    from voice_pipeline.release.people.enrolment import enrol, person_key
    from voice_pipeline.release.people.staffing import unnamed
    from voice_pipeline.release.policy import standing_policy

    store, given = existing_store(home), _read(public_key)
    person, path = enrol(store, name, role, given, person_key(store, by, key) if by else None)
    _tell(store)
    _tell_key(person.name, path)
    if told := unnamed(standing_policy(store).policy, person.name, person.role):
        typer.echo(told)


@app.command()
def remove(
    name: str,
    by: Annotated[str, typer.Option("--as", help="Who signs it: somebody who may, or the person")],
    key: Key = None,
    home: Home = None,
) -> None:
    """Remove a person: nothing they sign counts any more, nor what waits or was overridden in their name."""
    from voice_pipeline.release.people.decisions import waiting_of
    from voice_pipeline.release.people.enrolment import key_here, person_key
    from voice_pipeline.release.people.enrolment import remove as strike

    store = existing_store(home)
    waited = waiting_of(store, name)
    gone = strike(store, name, person_key(store, by, key))
    _tell(store)
    for signed in waited:
        typer.echo(f"waited, and counts no more: {signed.statement.release_id}: {signed.said}")
    typer.echo(f"nor do overrides and readmissions count that {name} signed; others may sign them again")
    if path := key_here(store, gone):
        typer.echo(f"their private key is still there, and signs nothing that counts: {path}; delete it")


@app.command("found-anew")
def found_people_anew(
    name: str,
    role: Role,
    reason: Annotated[str, typer.Option(help="Why; `release verify` and `people list` tell it for ever")],
    public_key: PublicKey = None,
    home: Home = None,
) -> None:
    """All keys that may enrol are lost: remove everybody and begin again with one person. Nobody signs for it."""
    from voice_pipeline.release.people.enrolment import found_anew

    store, given = existing_store(home), _read(public_key)
    person, path = found_anew(store, name, role, reason, given)
    _tell(store)
    _tell_key(person.name, path)


def _read(public_key: Path | None) -> bytes | None:
    """Raises:
    InputError: there is no such file, or it cannot be read.
    """
    from voice_pipeline.release.people.keys import plainly

    try:
        return public_key.read_bytes() if public_key else None
    except OSError as error:
        raise InputError(
            f"--public-key {public_key} cannot be read ({plainly(error)}); name the PEM file of the public half, or "
            "leave it out, and a key pair is made here"
        ) from error


def _tell(store: Any) -> None:
    """Whoever may sign is everybody's business: alerted and said here, with what a killed command left untold."""
    from voice_pipeline.release.people.staffing import tell_untold
    from voice_pipeline.release.policy import standing_policy

    for told in tell_untold(store, standing_policy(store).policy):
        typer.echo(told)


def _tell_key(name: str, path: Path | None) -> None:
    if path is not None:
        typer.echo(f"private key: {path}; give it to {name}, and to nobody else")
