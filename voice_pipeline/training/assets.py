"""Shell: plan, weights, confidence, evaluation and card of one model version."""

from dagster import AssetExecutionContext, MaterializeResult, MetadataValue, ResourceParam, asset

from voice_pipeline.evaluation.charts import as_markdown_image
from voice_pipeline.partitions import model_version
from voice_pipeline.store.store import Store
from voice_pipeline.training import presentation, stages
from voice_pipeline.training.charts import with_charts_inside
from voice_pipeline.training.planning import find_plan

GROUP = "training"
OWNERS = ["team:speech"]


@asset(
    partitions_def=model_version,
    deps=["training_frame", "eval_suites"],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"python"},
    description="The spec whose digest names the model: data, features, code, lock, hyperparameters, seed, parent.",
)
def training_plan(context: AssetExecutionContext, store: ResourceParam[Store]) -> MaterializeResult:
    plan = find_plan(store, context.partition_key)
    spec = MetadataValue.json(plan.spec.model_dump(mode="json"))
    return MaterializeResult(metadata={**presentation.plan_figures(plan), "spec": spec})


@asset(
    partitions_def=model_version,
    deps=["training_plan"],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"pytorch", "mlflow"},
    description="The CTC network, trained in a process of its own that resumes where it was killed.",
)
def acoustic_model(context: AssetExecutionContext, store: ResourceParam[Store]) -> MaterializeResult:
    model = stages.train_model(store, context.partition_key)
    curve = MetadataValue.md(as_markdown_image(model.curve, "learning curve"))
    figures = presentation.training_figures(model.epochs)
    return MaterializeResult(metadata={**figures, "learning_curve": curve, "mlflow_run_id": model.mlflow_run_id})


@asset(
    partitions_def=model_version,
    deps=["acoustic_model"],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"python"},
    description="Word n-grams of the train speakers' texts and the search over them, kept where dev WER falls by it.",
)
def language_model(context: AssetExecutionContext, store: ResourceParam[Store]) -> MaterializeResult:
    tuned = stages.choose_decoder(store, context.partition_key)
    return MaterializeResult(metadata=tuned.figures())


@asset(
    partitions_def=model_version,
    deps=["language_model"],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"numpy"},
    description="Calibrated probability that a dictation needs no correction, fitted on dev speakers, also in noise.",
)
def confidence_model(context: AssetExecutionContext, store: ResourceParam[Store]) -> MaterializeResult:
    calibrated = stages.calibrate_model(store, context.partition_key)
    charts = {name: MetadataValue.md(image) for name, image in presentation.calibration_charts(calibrated).items()}
    return MaterializeResult(metadata={**presentation.calibration_figures(calibrated.calibration), **charts})


@asset(
    partitions_def=model_version,
    deps=["confidence_model"],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"python", "mlflow"},
    description="Errors on the newest frozen suite, by slice, beside the live model's; worst words, latency, coverage.",
)
def evaluation_report(context: AssetExecutionContext, store: ResourceParam[Store]) -> MaterializeResult:
    assessment = stages.evaluate_model(store, context.partition_key)
    tables = {name: MetadataValue.md(text) for name, text in presentation.report_tables(assessment).items()}
    trusted = presentation.held_out_figures(stages.judge_calibration(store, context.partition_key))
    return MaterializeResult(metadata={**presentation.report_figures(assessment), **trusted, **tables})


@asset(
    partitions_def=model_version,
    deps=["evaluation_report"],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"markdown", "mlflow"},
    description="What the model is for, what it learnt from and who agreed, how well it does for whom, and its limits.",
)
def model_card(context: AssetExecutionContext, store: ResourceParam[Store]) -> MaterializeResult:
    card = stages.describe_model(store, context.partition_key)
    text = MetadataValue.md(with_charts_inside(card))
    return MaterializeResult(metadata={"card": text, "path": MetadataValue.path(card)})
