"""`voice-pipeline evaluate`, `wake-words` and `bench`: figures of a model on any recordings."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from voice_pipeline.cli_home import Home, existing_store, open_store
from voice_pipeline.cli_input import InputError

Model = Annotated[str, typer.Option(help="Model version, or path of a bundle folder")]


def evaluate(
    model: Model,
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
    with _store_for([model, *([against] if against else [])], home) as store:
        report = evaluate_manifest(store, model, manifest, under)
        if json_out:
            write_atomically(json_out, report.model_dump_json(indent=2).encode())
        typer.echo(report_text(report))
        comparison = compare(report, evaluate_manifest(store, against, manifest, under)) if against else None
    if comparison:
        typer.echo(f"\npaired with {comparison.baseline_model_version}:\n{comparison_table(comparison)}")


def wake_words(
    model: Model,
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

    with _store_for([model], home) as store:
        rules = load_evaluation_policy(store.settings.policy_dir).wake_words
        if not rules.phrases:
            raise InputError("policy/evaluation.yaml names no wake word; add some to wake_words: phrases")
        results = evaluate_wake_words(store, model, positives, negatives, rules)
    if json_out:
        lines = [result.model_dump_json() for result in results]
        write_atomically(json_out, f"[{','.join(lines)}]".encode())
    typer.echo(wake_word_table(results))


@contextmanager
def _store_for(models: Sequence[str], home: Path | None) -> Iterator[Any]:
    """The home that knows the models. Bundle folders stand for themselves: they need no home, none is made."""
    if not all(Path(model).is_dir() for model in models):
        yield existing_store(home)
        return
    with TemporaryDirectory(prefix="voice-pipeline-") as folder:
        yield open_store(Path(folder))


def bench(
    names: Annotated[list[str] | None, typer.Argument(help="Benchmarks; default all")] = None,
    corpus: Annotated[Path | None, typer.Option(help="Folder with manifest.jsonl, for those that need speech")] = None,
    home: Home = None,
) -> None:
    """Measure figures with goals; one JSON line each, also appended to reports/bench.jsonl of the home."""
    from voice_pipeline.benchmarks import run_benchmarks

    measured = False
    for told in run_benchmarks(open_store(home), names or [], corpus):
        measured = measured or not isinstance(told, str)
        typer.echo(told if isinstance(told, str) else told.model_dump_json())
    if not measured:
        raise InputError("nothing was measured; each line above says what it needs")
