"""The policy: typed, whole, explained, and its documentation current."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from voice_pipeline.release.explain import explain
from voice_pipeline.schema.policy_file import PolicyError, load_policy
from voice_pipeline.schema.release_policy import ReleasePolicy
from voice_pipeline.settings import PROJECT_ROOT

SOURCE = PROJECT_ROOT / "policy" / "release.yaml"


def written(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "release.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def content() -> dict[str, Any]:
    return yaml.safe_load(SOURCE.read_text())


def test_the_documentation_is_made_from_the_policy_as_it_is() -> None:
    made = explain(load_policy(SOURCE, ReleasePolicy)) + "\n"
    stored = (PROJECT_ROOT / "docs" / "release-policy.md").read_text()
    assert stored == made, "run: voice-pipeline policy explain release > docs/release-policy.md"


def test_a_policy_that_skips_or_reorders_a_stage_does_not_parse(tmp_path: Path, content: dict[str, Any]) -> None:
    stages = content["stages"]
    for wrong in (stages[:-1], stages[1:], [stages[0], stages[3]], stages[::-1], []):
        with pytest.raises(PolicyError, match="no stage can be skipped"):
            load_policy(written(tmp_path, {**content, "stages": wrong}), ReleasePolicy)


def test_an_unknown_key_is_refused_by_name(tmp_path: Path, content: dict[str, Any]) -> None:
    content["guardrails"]["colour"] = 1
    with pytest.raises(PolicyError, match=r"guardrails\.colour"):
        load_policy(written(tmp_path, content), ReleasePolicy)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("promotion", "alpha", 0),
        ("promotion", "alpha", 1.5),
        ("guardrails", "crash", -0.1),
        ("telemetry", "stale_minutes", 0),
        ("shadow", "device_percent", 101),
    ],
)
def test_a_figure_out_of_range_is_refused(
    tmp_path: Path, content: dict[str, Any], section: str, key: str, value: float
) -> None:
    content[section][key] = value
    with pytest.raises(PolicyError, match=f"{section}.{key}"):
        load_policy(written(tmp_path, content), ReleasePolicy)


def test_every_decision_has_somebody_who_may(tmp_path: Path, content: dict[str, Any]) -> None:
    del content["authority"]["rollback"]
    with pytest.raises(PolicyError, match="who may: rollback"):
        load_policy(written(tmp_path, content), ReleasePolicy)


def test_a_comment_leaves_the_digest_alone_and_a_margin_changes_it(tmp_path: Path, content: dict[str, Any]) -> None:
    before = load_policy(SOURCE, ReleasePolicy).digest
    assert load_policy(written(tmp_path, content), ReleasePolicy).digest == before
    content["guardrails"]["crash"] = 0.03
    assert load_policy(written(tmp_path, content), ReleasePolicy).digest != before
