"""`voice-pipeline published`: the comparison with published results on AN4."""

import os
from pathlib import Path
from typing import Annotated

import typer

from voice_pipeline.cli_home import Home, open_store


def published(
    corpus: Annotated[Path, typer.Argument(help="Folder with manifest.jsonl and noise.jsonl")],
    seed: Annotated[list[int] | None, typer.Option(help="Train this seed; may be repeated; default 1, 2, 3")] = None,
    home: Home = None,
) -> None:
    """Train profile `full` on AN4's official split and print the table; seeds that are trained already are reused."""
    from voice_pipeline.training.environment import ONE_BLAS_THREAD

    os.environ.update({**ONE_BLAS_THREAD, **os.environ})
    from voice_pipeline.published.table import SEEDS, as_markdown, compare

    results = compare(open_store(home), corpus, seed or SEEDS, lambda line: typer.echo(line, err=True))
    typer.echo(as_markdown(results))
