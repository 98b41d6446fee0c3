"""Shell: signs the update repository's short-lived metadata again before devices would have to refuse it."""

from collections.abc import Iterator

from dagster import (
    DefaultSensorStatus,
    OpExecutionContext,
    ResourceParam,
    RunRequest,
    SensorEvaluationContext,
    SkipReason,
    job,
    op,
    sensor,
)

from voice_pipeline.packaging.repository import UpdateRepository
from voice_pipeline.store.store import Store


@op(description="Sign snapshot and timestamp again, and targets when less than half of its life is left.")
def renew_metadata(context: OpExecutionContext, store: ResourceParam[Store]) -> None:
    renewed = UpdateRepository(store.settings, store.now()).renew()
    context.log.info("renewed" if renewed else "nothing to renew yet")


@job(description="Keep what the update repository offers fetchable.")
def renewal_job() -> None:
    renew_metadata()


@sensor(
    job=renewal_job,
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.RUNNING,
    description="Less than half of the life of the repository's timestamp is left.",
)
def repository_renewal_sensor(
    _context: SensorEvaluationContext, store: ResourceParam[Store]
) -> Iterator[RunRequest | SkipReason]:
    due = UpdateRepository(store.settings, store.now()).renewal_due()
    if due is None:
        yield SkipReason("nothing is published, or its metadata is fresh")
    else:
        yield RunRequest(run_key=due)


sensors = [repository_renewal_sensor]
jobs = [renewal_job]
