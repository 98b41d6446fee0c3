"""`voice-pipeline release trials`: how often the release engine errs, on simulated rollouts."""

from typing import Annotated

import typer

from voice_pipeline.settings import load_settings


def trials(
    rollouts: Annotated[int, typer.Option(min=1, help="Of each candidate of which something is promised")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random")] = 1,
) -> None:
    """Print docs/error-rates.md: simulated rollouts of known candidates under the policy as it is."""
    from voice_pipeline.rollout_table import measure, page
    from voice_pipeline.schema.policy_file import load_policy
    from voice_pipeline.schema.release_policy import FILE_NAME, ReleasePolicy

    policy = load_policy(load_settings().policy_dir / FILE_NAME, ReleasePolicy)
    found = measure(policy, rollouts, seed, told=lambda line: typer.echo(line, err=True))
    command = f"voice-pipeline release trials --rollouts {rollouts} --seed {seed}"
    typer.echo(page(policy, found, seed, f"{command} > docs/error-rates.md"))
