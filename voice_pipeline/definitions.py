"""The Dagster code location: the eight stages' assets, checks, jobs and sensors, merged."""

import warnings
from importlib import import_module
from typing import Any

from dagster import (
    BetaWarning,
    Definitions,
    PreviewWarning,
    in_process_executor,
    load_asset_checks_from_modules,
    load_assets_from_modules,
)

from voice_pipeline.resources import store_resource

STAGES = ("capture", "labeling", "dataset", "features", "training", "packaging", "release", "monitoring")
STAGES_WITH_SENSORS = ("capture", "labeling", "dataset", "training", "packaging", "release", "monitoring")


def build_definitions(store: Any = store_resource) -> Definitions:
    """All definitions over one `store`: the lazily opened home by default, an opened `Store` in stories and tests.

    Steps run in the run's own process: most take well under a second and a process each would cost five;
    training starts a process of its own.
    """
    for category in (BetaWarning, PreviewWarning):  # backfill policies, partitioned checks: the lock pins what they do
        warnings.filterwarnings("ignore", category=category)
    assets = [import_module(f"voice_pipeline.{stage}.assets") for stage in STAGES]
    checks = [import_module(f"voice_pipeline.{stage}.checks") for stage in STAGES]
    sensors = [import_module(f"voice_pipeline.{stage}.sensors") for stage in STAGES_WITH_SENSORS]
    return Definitions(
        assets=load_assets_from_modules(assets),
        asset_checks=load_asset_checks_from_modules(checks),
        jobs=[job for module in sensors for job in module.jobs],
        sensors=[sensor for module in sensors for sensor in module.sensors],
        resources={"store": store},
        executor=in_process_executor,
    )


defs = build_definitions()
