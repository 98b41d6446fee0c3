"""What `policy/release.yaml` may say at its edges: no test without evidence, no rule that keeps another from acting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from voice_pipeline.release.people.roll import is_word
from voice_pipeline.schema.policy_file import PolicyError, load_policy
from voice_pipeline.schema.release_policy import FILE_NAME, PERSON_WORD, PersonOrRole, ReleasePolicy
from voice_pipeline.settings import PROJECT_ROOT

SHIPPED: dict[str, Any] = yaml.safe_load((PROJECT_ROOT / "policy" / FILE_NAME).read_text())
INF, NAN = float("inf"), float("nan")
MARGINS = [f"guardrails.{name}" for name in ("correction_rate", "slow", "crash", "abandonment", "fallback", "failure")]


def changed(content: Any, path: str, value: Any) -> Any:
    """A copy with one value laid over it; `path` is dotted, positions are numbers."""
    key, _, rest = path.partition(".")
    if isinstance(content, list):
        return [changed(one, rest, value) if str(n) == key and rest else one for n, one in enumerate(content)]
    return {**content, key: changed(content[key], rest, value) if rest else value}


SILENCE_UNTESTED = changed(SHIPPED, "stages", [{**one, "silence_margin": None} for one in SHIPPED["stages"]])
"""No stage has to wait until silence can be told."""


def told(folder: Path, content: Any) -> str:
    """What is wrong with a policy; "" where nothing is."""
    (folder / FILE_NAME).write_text(yaml.safe_dump(content))
    try:
        load_policy(folder / FILE_NAME, ReleasePolicy)
    except PolicyError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("path", "least", "most"),
    [
        ("promotion.alpha", 1e-9, 0.2),
        ("guardrails.alpha", 1e-9, 0.2),
        ("gates.noisy_wer_improvement.max_probability_worse", 1e-9, 0.2),
        ("gates.noisy_wer_improvement.min_relative_improvement", -0.2, 0.999),
        ("gates.slice_margins.max_regression", 0, 0.2),
        ("gates.slice_margins.confidence", 0.5, 0.99),
        ("gates.int8_delta.max_delta", 0, 0.2),
        ("gates.latency.max_p95_ms", 0.001, 1000),
        ("gates.wake_words.max_false_alarms_per_hour", 0.001, 60),
        ("gates.wake_words.min_detection_rate", 0.5, 0.999),
        ("gates.max_age_days", 0.001, 92),
        ("gates.bootstrap_samples", 200, 100_000),
        ("stages.2.noninferiority_margin", 1e-9, 0.5),
        ("stages.2.silence_margin", 1e-9, 0.5),
        ("promotion.max_looks", 1, 50),
        ("promotion.max_latency_ratio", 1, 5),
        ("guardrails.slow_ratio", 1, 5),
        *((name, 0, 0.5) for name in (*MARGINS, "guardrails.silence")),
        ("telemetry.min_reporting_share", 0.5, 1),
        ("telemetry.min_heard_share", 0.1, 1),
        ("telemetry.sample_ratio_p", 1e-6, 0.05),
        ("telemetry.active_minutes", 0.001, 43_200),
        ("lease_seconds", 1, 604_800),
    ],
)
def test_each_figure_has_ends(tmp_path: Path, path: str, least: float, most: float) -> None:
    for good in (least, most):
        assert told(tmp_path, changed(SILENCE_UNTESTED, path, good)) == ""
    step = 1 if isinstance(most, int) and most > 5 else 1e-3
    for wrong in (least - step, most + step, INF, -INF, NAN):
        found = told(tmp_path, changed(SHIPPED, path, wrong))
        assert found.startswith(f"policy {FILE_NAME} is not valid: {path} is {wrong!r} and must be ")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("promotion.alpha", 0.9),
        ("guardrails.alpha", 0.5),
        ("gates.slice_margins.margins", {"accent:": 0.9}),
        ("guardrails.crash", 0.9),
        ("telemetry.sample_ratio_p", 0.99),
        ("gates.noisy_wer_improvement.max_probability_worse", 0.99),
        ("gates.max_age_days", 1e9),
    ],
)
def test_what_would_switch_a_test_off_is_refused_with_its_value(tmp_path: Path, path: str, value: Any) -> None:
    found = told(tmp_path, changed(SHIPPED, path, value))
    assert path in found
    assert str(value if not isinstance(value, dict) else 0.9) in found


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("gates.noisy_wer_improvement.slice", "condition:noise_10dB", "`noise_10db`"),
        ("gates.noisy_wer_improvement.slice", "noise:nosiy", "one of condition, device"),
        ("gates.noisy_wer_improvement.slice", "condition:", "`clean` or"),
        ("gates.coverage.required_slices", ["condition:clean", "length:longest"], "short, medium, long"),
        ("gates.coverage.required_slices", ["accent:"], "in full"),
        ("gates.slice_margins.margins", {"device:phone": 0.1}, "phone_low, phone_mid"),
        ("gates.slice_margins.margins", {"accent:unknown": 0.1}, "accent:, gender:"),
    ],
)
def test_a_slice_that_no_suite_could_have_is_refused(tmp_path: Path, path: str, value: Any, named: str) -> None:
    """A gate on such a slice would stop every model, or ask a person about every model, for ever."""
    found = told(tmp_path, changed(SHIPPED, path, value))
    assert path in found
    assert named in found


@pytest.mark.parametrize("where", ["authority.approve", "overrides.latency", "people"])
@pytest.mark.parametrize("name", ["Release Manager", "Demo", "", "**", "a" * 65, "-demo", "demo\n", "démo", "@ops"])
def test_who_could_never_be_enrolled_is_nobody_the_policy_may_name(tmp_path: Path, where: str, name: str) -> None:
    found = told(tmp_path, changed(SHIPPED, where, ["demo", name]))
    assert f"{where}.1: {name!r} can be nobody's name or role" in found


def test_nobody_and_anybody_may_be_named(tmp_path: Path) -> None:
    for names in ([], ["*"], ["demo", "*"], ["a", "9", "a.b_c-d", "a" * 64]):
        assert told(tmp_path, changed(SHIPPED, "authority.approve", names)) == ""


@given(st.text(max_size=70) | st.from_regex(PERSON_WORD) | st.from_regex(PERSON_WORD, fullmatch=True))
def test_the_policy_names_whom_people_could_enrol_and_nobody_else(name: str) -> None:
    try:
        accepted = TypeAdapter(PersonOrRole).validate_python(name) == name
    except ValidationError:
        accepted = False
    assert accepted is (name == "*" or is_word(name))


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("telemetry.stale_minutes", "telemetry.stale_minutes"),
        ("guardrails.silence_minutes", "guardrails.silence_minutes"),
        *((f"stages.{n}.min_minutes", f"stages.{s}.min_minutes") for n, s in ((0, "shadow"), (3, "canary_50"))),
    ],
)
def test_what_would_come_only_after_the_hold_is_refused(tmp_path: Path, path: str, named: str) -> None:
    hold = SHIPPED["telemetry"]["hold_after_minutes"]
    assert told(tmp_path, changed(SILENCE_UNTESTED, path, hold)) == ""
    found = told(tmp_path, changed(SILENCE_UNTESTED, path, hold + 1))
    assert f"{named} is 1441, but telemetry.hold_after_minutes holds a stage after 1440" in found


def test_all_contradictions_are_told_at_once(tmp_path: Path) -> None:
    found = told(tmp_path, changed(SHIPPED, "telemetry.hold_after_minutes", 10))
    assert found.count("but telemetry.hold_after_minutes holds") == 6


@pytest.mark.parametrize(
    ("path", "value", "told_at"),
    [("stages.2.min_minutes", 119, 120), ("lease_seconds", 3660, 121), ("guardrails.silence_minutes", 70, 130)],
)
def test_a_stage_that_tests_silence_lasts_until_silence_can_be_told(
    tmp_path: Path, path: str, value: float, told_at: float
) -> None:
    """Devices take the candidate within their lease, and are silent once they were quiet for so long."""
    found = told(tmp_path, changed(SHIPPED, path, value))
    assert f"but silence cannot be told before {told_at} (lease_seconds / 60 + guardrails.silence_minutes)" in found
    assert "stages.canary_25.min_minutes is" in found
    assert "stages.canary_5.min_minutes" not in found
    assert told(tmp_path, changed(SILENCE_UNTESTED, path, value)) == ""
