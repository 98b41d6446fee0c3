"""A model card as Markdown. Pure: the same card gives the same text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from voice_pipeline.evaluation.tables import comparison_table, latency_table, punctuation_text, slice_table, words_table
from voice_pipeline.evaluation.wakewords import wake_word_table
from voice_pipeline.schema.training import EvaluationReport

if TYPE_CHECKING:
    from voice_pipeline.training.card import ComparedWith, DataSummary, ModelCard

PROCEDURE = (
    "CTC network: 2-D convolutions, then separable 1-D convolutions with squeeze-excite, on log-mel features that are "
    "part of the network; trained from waveforms with warm-up and cosine decay of the rate; the averaged weights of "
    "the best epoch on held-out dev speakers are kept."
)


def as_markdown(card: ModelCard) -> str:
    """The card for people."""
    report = card.evaluation
    sections = [
        f"# Model card: {card.model_version}",
        f"Owner {card.owner}. On-device dictation, alphabet `{card.spec['alphabet'].strip()}` and space. "
        f"Trained because of: {card.cause}.",
        "## Intended use",
        _list(card.intended_use),
        "## Out of scope",
        _list(card.out_of_scope),
        "## Data",
        _data(card.data),
        "## Training",
        _training(card),
        f"## Evaluation ({report.variant}, suite {report.suite_id})",
        f"WER and CER with 95 % bootstrap intervals over speakers. A slice counts as covered with "
        f"{card.minimum.clips} clips, {card.minimum.speakers} speakers and {card.minimum.words} words.",
        slice_table(report, card.minimum),
        "### Worst words",
        words_table(report.overall.worst_words),
        *(section for compared in card.compared_with for section in _compared(compared)),
        *_formatting(report),
        "## Latency by device class",
        latency_table(card.latency),
        "## Confidence",
        *(_confidence(card) or ["Not calibrated."]),
        "## Limits",
        _list(card.limits),
        "## Consent and erasure",
        card.erasure,
        "## Provenance",
        _bullets(card.provenance),
        "## Charts",
        "Beside this card in the home (`models/<model version>/charts`) and in MLflow; bundles leave them out.",
        *(f"![{chart.caption}]({chart.path})" for chart in card.charts),
    ]
    return "\n\n".join(sections) + "\n"


def _data(data: DataSummary) -> str:
    splits = "\n".join(f"| {split} | {count} | {data.speakers.get(split, 0)} |" for split, count in data.clips.items())
    scopes = ", ".join(f"{scope} {count}" for scope, count in data.consent_scopes.items())
    revoked = f"; {data.revoked} of them taken back since" if data.revoked else ""
    return (
        f"Dataset version `{data.dataset_version}` (DVC md5 `{data.dvc_md5}`), "
        f"{data.consents} consent receipts ({scopes}){revoked}. Splits share no speaker.\n\n"
        f"| split | clips | speakers |\n|---|--:|--:|\n{splits}"
    )


def _training(card: ModelCard) -> str:
    spec = card.spec
    hyperparameters = ", ".join(f"{key} {value}" for key, value in spec["hyperparameters"].items())
    parent = spec["parent_model_version"] or "none (from scratch)"
    return f"{PROCEDURE}\n\n{hyperparameters}; seed {spec['seed']}; parent {parent}.\n\n{_bullets(card.training)}"


def _compared(compared: ComparedWith) -> list[str]:
    heading = f"### Against the {compared.role} model"
    if compared.comparison is None:
        return [heading, f"{compared.reason}."]
    other = f"`{compared.comparison.baseline_model_version}` ({compared.comparison.baseline_variant})"
    told = (
        f"{other} on the same clips in the same noise; paired bootstrap over speakers, negative = this one is better."
    )
    return [heading, told, comparison_table(compared.comparison)]


def _confidence(card: ModelCard) -> list[str]:
    """The two judgements, each under whom it was made on; one that is not there is left out."""
    told = (
        (card.confidence, f"On {card.confidence.get('fitted_on')} speakers, out of fold", "whom it was fitted on"),
        (
            card.confidence_held_out,
            f"On suite {card.confidence_held_out.get('suite')}, held out",
            "whom this model was neither trained nor fitted on",
        ),
    )
    return [
        part
        for figures, heading, whom in told
        if figures
        for part in (
            f"### {heading}",
            f"{figures['clips']} clips as recorded, of {figures['speakers']} speakers, {whom}.",
            _bullets({name: value for name, value in figures.items() if name not in ("clips", "speakers")}),
        )
    ]


def _formatting(report: EvaluationReport) -> list[str]:
    """Punctuation and wake words, where the report has them."""
    sections = []
    if report.punctuation is not None:
        sections += ["### Punctuation and case", punctuation_text(report.punctuation)]
    if report.wake_words:
        sections += ["### Wake words", wake_word_table(report.wake_words)]
    return sections


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _bullets(values: Mapping[str, Any]) -> str:
    """One line a figure; series (curves, bins) are in the JSON form only."""
    told = {key: value for key, value in values.items() if isinstance(value, bool | int | float | str)}
    return _list(
        f"{key.replace('_', ' ')}: {f'{value:.4g}' if isinstance(value, float) else value}"
        for key, value in told.items()
    )
