"""Shell: keeps the update repository fetchable, and finishes what waited for signatures."""

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

from voice_pipeline.packaging.publication import finish_publications, publications_due
from voice_pipeline.packaging.repository import UpdateRepository
from voice_pipeline.store.store import Store


@op(
    description="Record publications that were signed since; sign again what is half spent. Fails, and so alerts, if "
    "root or targets will expire unless people sign them."
)
def renew_metadata(context: OpExecutionContext, store: ResourceParam[Store]) -> None:
    try:
        renewed = UpdateRepository(store.settings, store.now()).renew()
        context.log.info(f"renewed: {', '.join(renewed) or 'nothing yet'}")
    finally:  # what people are told does not keep a publication waiting
        published = finish_publications(store)
        context.log.info(f"published: {', '.join(published) or 'nothing new'}")


@job(description="Keep what the update repository offers fetchable; finish what waited for signatures.")
def renewal_job() -> None:
    renew_metadata()


@sensor(
    job=renewal_job,
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.RUNNING,
    description="Less than half of the life of some metadata of the repository is left, or a publication that waited "
    "for offline keys is in force.",
)
def repository_renewal_sensor(
    _context: SensorEvaluationContext, store: ResourceParam[Store]
) -> Iterator[RunRequest | SkipReason]:
    due = publications_due(store) or UpdateRepository(store.settings, store.now()).renewal_due()
    if due is None:
        yield SkipReason("nothing is published or waits to be, or its metadata is fresh")
    else:
        yield RunRequest(run_key=due)


sensors = [repository_renewal_sensor]
jobs = [renewal_job]
