"""What the release policy may say of margins, wake words, languages and apps; everything else is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from voice_pipeline.release.explain import explain
from voice_pipeline.schema.evaluation import SLICE_KINDS
from voice_pipeline.schema.evaluation_policy import load_evaluation_policy
from voice_pipeline.schema.policy_file import PolicyError, load_policy
from voice_pipeline.schema.release_policy import FILE_NAME, ReleasePolicy
from voice_pipeline.settings import PROJECT_ROOT

SOURCE = PROJECT_ROOT / "policy" / FILE_NAME


def read(folder: Path, path: str, value: Any) -> ReleasePolicy:
    """The policy with one value laid over it; `path` is dotted."""
    content = yaml.safe_load(SOURCE.read_text())
    *parents, last = path.split(".")
    inner = content
    for name in parents:
        inner = inner[name]
    inner[last] = value
    (folder / FILE_NAME).write_text(yaml.safe_dump(content))
    return load_policy(folder / FILE_NAME, ReleasePolicy)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("gates.wake_words.max_misses", 1),
        ("gates.wake_words.max_false_alarms_per_hour", 0),
        ("gates.wake_words.max_false_alarms_per_hour", float("inf")),
        ("gates.wake_words.max_false_alarms_per_hour", float("nan")),
        ("gates.wake_words.min_detection_rate", 1.0),
        ("gates.wake_words.min_detection_rate", 0),
        ("gates.wake_words.may_be_uncovered", ["Hey Bob"]),
        ("gates.latency.max_p95_ms", float("inf")),
        ("gates.slice_margins.margin", {"accent:": 0.1}),
        ("gates.slice_margins.margins", {"accent": 0.1}),
        ("gates.slice_margins.margins", {"accent:*": 0.1}),
        ("gates.slice_margins.margins", {"accent:en-*": 0.1}),
        ("gates.slice_margins.margins", {"dialect:": 0.1}),
        ("gates.slice_margins.margins", {"Accent:": 0.1}),
        ("gates.slice_margins.margins", {"": 0.1}),
        ("gates.slice_margins.margins", {":": 0.1}),
        ("gates.slice_margins.margins", {"*": 0.1}),
        ("gates.slice_margins.margins", {"accent:": 1.1}),
        ("gates.slice_margins.margins", {"accent:": float("nan")}),
        ("gates.coverage.sensitive_locales", ["ar-*"]),
        ("gates.coverage.sensitive_locales", ["ar_EG"]),
        ("gates.coverage.sensitive_locales", [""]),
        ("gates.coverage.sensitive_locales", ["languages"]),
        ("compatibility.first_app_of_format", {}),
        ("compatibility.last_app_of_format", {0: "1.0.0"}),
        ("compatibility.last_app_of_format", {99: "1.0.0"}),
        ("compatibility.last_app_of_format", {"two": "1.0.0"}),
        ("compatibility.last_app_of_format", {1: "latest"}),
        ("compatibility.last_app_of_format", {1: "1.2.3.4"}),
        ("compatibility.last_app_of_format", {1: "1." + "9" * 10}),
        ("compatibility.last_app_of_format", {1: 1.4}),
    ],
)
def test_what_a_rule_may_not_say_is_refused_by_name(tmp_path: Path, path: str, value: Any) -> None:
    read(tmp_path, "version", 1)
    with pytest.raises(PolicyError, match=path.replace(".", r"\.")):
        read(tmp_path, path, value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("gates.slice_margins.margins", {f"{kind}:": 0.1 for kind in SLICE_KINDS}),
        ("gates.slice_margins.margins", {"accent:en-gb": 0, "condition:noise_10db": 0.2}),
        ("gates.coverage.sensitive_locales", ["ar", "zh-Hant-TW", "*"]),
        ("compatibility.last_app_of_format", {1: "3", 2: "4.10.999999999"}),
    ],
)
def test_what_a_rule_may_say_changes_the_digest(tmp_path: Path, path: str, value: Any) -> None:
    assert read(tmp_path, path, value).digest != load_policy(SOURCE, ReleasePolicy).digest


def test_the_wake_words_that_ship_are_those_that_need_not_be_covered() -> None:
    """Else every release of a home that nobody configured would wait for a person."""
    shipped = load_evaluation_policy(PROJECT_ROOT / "policy").wake_words.phrases
    assert load_policy(SOURCE, ReleasePolicy).gates.wake_words.may_be_uncovered == shipped


@pytest.mark.parametrize("section", ["gates.wake_words", "compatibility"])
def test_no_section_can_be_left_out(tmp_path: Path, section: str) -> None:
    content = yaml.safe_load(SOURCE.read_text())
    *parents, last = section.split(".")
    inner = content
    for name in parents:
        inner = inner[name]
    del inner[last]
    (tmp_path / FILE_NAME).write_text(yaml.safe_dump(content))
    with pytest.raises(PolicyError, match=section.replace(".", r"\.")):
        load_policy(tmp_path / FILE_NAME, ReleasePolicy)


def test_all_of_it_is_explained(tmp_path: Path) -> None:
    read(tmp_path, "version", 1)
    policy = read(tmp_path, "gates.slice_margins.margins", {"accent:": 0.02, "accent:en-in": 0.015})
    said = explain(
        policy.model_copy(
            update={"compatibility": policy.compatibility.model_copy(update={"last_app_of_format": {1: "3.9.9"}})}
        )
    )
    assert "`accent:` 2.0%, `accent:en-in` 1.5%, any other 3.0% (absolute)" in said
    assert "format 1: app 3.9.9" in said
    words = policy.gates.wake_words
    assert f"false alarms an hour lies within {words.max_false_alarms_per_hour:g}" in said
    assert "sensitive locale (none)" in said
