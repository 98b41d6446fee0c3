"""`voice-pipeline device-lab`: reports of how fast a bundle is on real devices."""

from pathlib import Path

import typer

from voice_pipeline.cli_home import Home, existing_store

app = typer.Typer(no_args_is_help=True)


@app.command("import")
def import_report(files: list[Path], home: Home = None) -> None:
    """Check a device lab's JSON reports and keep them; report, card and the latency gate then use them."""
    from voice_pipeline.evaluation.device_lab import import_lab_report

    store = existing_store(home)
    for path in files:
        kept = import_lab_report(store, path)
        typer.echo(f"{kept.model_version}: {kept.device_class} p95 {kept.p95_ms:.1f} ms on {kept.device_model} kept")


@app.command("show")
def show(model_version: str, home: Home = None) -> None:
    """What the device lab says about a model's bundle, and which files were refused."""
    from voice_pipeline.evaluation.device_lab import bundle_digest_of, lab_findings

    store = existing_store(home)
    found = lab_findings(store, bundle_digest_of(store, model_version))
    for report in found.reports:
        device = f"{report.device_model}, {report.os}, {report.runtime}"
        times = f"p50 {report.p50_ms:.1f}  p95 {report.p95_ms:.1f}  p99 {report.p99_ms:.1f} ms"
        typer.echo(f"{report.device_class.value:10}  {times}  {report.peak_memory_mb:.0f} MB  {device}")
    for line in found.refused:
        typer.echo(f"refused: {line}")
    if not found.reports:
        typer.echo(f"no device-lab report on the bundle of {model_version}")
