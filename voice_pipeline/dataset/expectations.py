"""What a dataset version must fulfil, said in Great Expectations and judged before anything is written.

`critical` expectations block the snapshot, `warning` ones are shown and let it pass. Results name clip ids, never
transcripts: what is stored here outlives an erasure. (GX: https://docs.greatexpectations.io/docs/core/)
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from voice_pipeline.schema.alphabet import LOWERCASE, MARKS
from voice_pipeline.schema.base import Record
from voice_pipeline.schema.clip import MAX_CLIP_SECONDS, DeviceClass, Microphone
from voice_pipeline.schema.dataset import Split
from voice_pipeline.settings import QUIET

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations import Expectation

SHOWN_CLIPS = 5
UUID7 = r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
CHARACTERS_A_SECOND = (0.2, 40.0)


class ExpectationResult(Record):
    """One expectation: what it said, how many rows broke it, the first clips that did."""

    expectation: str
    column: str
    why: str
    severity: str
    success: bool
    rows: int
    unexpected: int
    clip_ids: tuple[str, ...]


class Validation(Record):
    """The judgement of a whole set of rows, whose texts are written in `alphabet` (lowercase where none is kept)."""

    passed: bool
    rows: int
    results: tuple[ExpectationResult, ...]
    engine: str
    alphabet: str = LOWERCASE

    def failures(self, severity: str) -> tuple[ExpectationResult, ...]:
        """Broken expectations of one severity (`critical` or `warning`)."""
        return tuple(r for r in self.results if not r.success and r.severity == severity)


def validate(rows: Sequence[dict[str, Any]], alphabet: str = LOWERCASE) -> Validation:
    """Judge plain manifest rows whose texts are to be written in `alphabet`.

    `passed` is False if any critical expectation is broken or could not be evaluated.
    """
    os.environ.update(QUIET)
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    source = context.data_sources.add_pandas("catalogue").add_dataframe_asset("dataset")
    suite = context.suites.add(gx.ExpectationSuite(name="dataset_rows", expectations=expectations(alphabet)))
    definition = gx.ValidationDefinition(
        name="gate", data=source.add_batch_definition_whole_dataframe("all"), suite=suite
    )
    outcome = context.validation_definitions.add(definition).run(
        batch_parameters={"dataframe": frame(rows)},
        result_format={
            "result_format": "SUMMARY",
            "unexpected_index_column_names": ["clip_id"],
            "partial_unexpected_count": SHOWN_CLIPS,
        },
    )
    results = tuple(_result(r) for r in outcome.to_json_dict()["results"])
    return Validation(
        passed=all(r.success for r in results if r.severity == "critical"),
        rows=len(rows),
        results=results,
        alphabet=alphabet,
        engine=f"great_expectations {gx.__version__}",
    )


def frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The rows as pandas, with what is judged across rows as columns of its own."""
    import pandas as pd

    columns = ["clip_id", "content_sha256", "speaker", "split", "text", "duration_s", "consent_id", "batch_id"]
    columns += ["device_class", "microphone", "locale", "captured_at"]
    table = pd.DataFrame(list(rows), columns=columns)
    table["splits_of_speaker"] = table.groupby("speaker")["split"].transform("nunique")
    table["splits_of_recording"] = table.groupby("content_sha256")["split"].transform("nunique")
    table["characters_a_second"] = table["text"].str.len() / table["duration_s"].clip(lower=0.01)
    return table


def expectations(alphabet: str = LOWERCASE) -> list[Expectation]:
    """The suite for texts in `alphabet`, blocking ones first."""
    from great_expectations import expectations as gxe

    def critical(why: str) -> dict[str, Any]:
        return {"severity": "critical", "meta": {"why": why}}

    def warning(why: str) -> dict[str, Any]:
        return {"severity": "warning", "meta": {"why": why}}

    kinds = {"device_class": DeviceClass, "microphone": Microphone, "split": Split}
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1, **critical("an empty dataset trains nothing")),
        gxe.ExpectColumnValuesToBeUnique(column="clip_id", **critical("a clip counts once")),
        gxe.ExpectColumnValuesToMatchRegex(column="clip_id", regex=UUID7, **critical("clip ids are UUIDv7")),
        *(
            gxe.ExpectColumnValuesToNotBeNull(column=name, **critical("every row is traceable"))
            for name in ("speaker", "consent_id", "batch_id", "text", "captured_at")
        ),
        gxe.ExpectColumnValuesToMatchRegex(
            column="content_sha256", regex=r"^[0-9a-f]{64}$", **critical("audio is named by its digest")
        ),
        gxe.ExpectColumnValuesToMatchRegex(
            column="text", regex=written_in(alphabet), **critical("transcripts are normalised")
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="duration_s", min_value=0.05, max_value=MAX_CLIP_SECONDS, **critical("clips are at most 30 s")
        ),
        *(
            gxe.ExpectColumnValuesToBeInSet(column=name, value_set=[k.value for k in kind], **critical("known values"))
            for name, kind in kinds.items()
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="splits_of_speaker", min_value=1, max_value=1, **critical("no speaker is in two splits")
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="splits_of_recording", min_value=1, max_value=1, **critical("no recording is in two splits")
        ),
        gxe.ExpectColumnValuesToBeUnique(column="content_sha256", **warning("the same recording counts twice")),
        gxe.ExpectColumnValuesToBeBetween(
            column="characters_a_second",
            min_value=CHARACTERS_A_SECOND[0],
            max_value=CHARACTERS_A_SECOND[1],
            mostly=0.98,
            **warning("text and audio belong together"),
        ),
        gxe.ExpectColumnUniqueValueCountToBeBetween(column="speaker", min_value=8, **warning("many people speak")),
        gxe.ExpectColumnDistinctValuesToContainSet(
            column="split", value_set=[s.value for s in Split], **warning("every split is filled")
        ),
    ]


def written_in(alphabet: str) -> str:
    """Regular expression of the texts that `alphabet` allows: they start with a letter or apostrophe, end without a
    space, and no mark stands alone.
    """
    letters = re.escape("".join(c for c in alphabet if c.isalpha() or c == "'"))
    marks = re.escape("".join(c for c in alphabet if c in MARKS))
    word = f"[{letters}][{letters}{marks}]*"
    return f"^{word}(?: +{word})*$"


def _result(raw: dict[str, Any]) -> ExpectationResult:
    config, result = raw["expectation_config"], raw["result"]
    breaking = result.get("partial_unexpected_index_list") or ()
    return ExpectationResult(
        expectation=config["type"],
        column=config["kwargs"].get("column", ""),
        why=config["meta"]["why"],
        severity=config["severity"],
        success=bool(raw["success"]) and not raw["exception_info"].get("raised_exception", False),
        rows=int(result.get("element_count") or 0),
        unexpected=int(result.get("unexpected_count") or 0),
        clip_ids=tuple(dict.fromkeys(str(entry["clip_id"]) for entry in breaking)),
    )
