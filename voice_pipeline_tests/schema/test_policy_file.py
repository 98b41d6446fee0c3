"""Policy files: a key counts once, only plain values are made of them, and what is wrong is told in their words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voice_pipeline.schema.base import Record
from voice_pipeline.schema.delivery_policy import DeliveryPolicy
from voice_pipeline.schema.evaluation_policy import EvaluationPolicy
from voice_pipeline.schema.inference_policy import InferencePolicy
from voice_pipeline.schema.labeling_policy import LabelingPolicy
from voice_pipeline.schema.monitoring_policy import MonitoringPolicy
from voice_pipeline.schema.policy_file import PolicyError, StrictLoader, load_policy
from voice_pipeline.schema.release_policy import ReleasePolicy
from voice_pipeline.schema.retrain_policy import RetrainPolicy
from voice_pipeline.settings import PROJECT_ROOT

FOLDER = PROJECT_ROOT / "policy"
MODELS: dict[str, type[Record]] = {
    "delivery": DeliveryPolicy,
    "evaluation": EvaluationPolicy,
    "inference": InferencePolicy,
    "labeling": LabelingPolicy,
    "monitoring": MonitoringPolicy,
    "release": ReleasePolicy,
    "retrain": RetrainPolicy,
}
OF_PYDANTIC = ("Value error", "Input should", "Extra inputs", "Field required", " file:", "[key]")
PER_FILE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


def problem(folder: Path, text: str | bytes, model: type[Record] = ReleasePolicy) -> str:
    """What people are told of a file; "" where it is valid."""
    path = folder / "some.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        load_policy(path, model)
    except PolicyError as error:
        return str(error)
    return ""


def mappings(node: yaml.Node | None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], yaml.MappingNode]]:
    """Every mapping below `node` that holds anything, with the keys and positions that lead to it."""
    if isinstance(node, yaml.MappingNode) and node.value:
        yield path, node
        for key, value in node.value:
            yield from mappings(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from mappings(value, (*path, str(number)))


def test_every_policy_file_is_tried_here() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_a_key_that_is_said_twice_is_refused_wherever_it_stands(tmp_path: Path, name: str) -> None:
    """PyYAML lets the second win: a guardrail that somebody reads at the top would not be the one in force."""
    text = (FOLDER / f"{name}.yaml").read_text()
    assert problem(tmp_path, text, MODELS[name]) == ""
    for n, (path, _) in enumerate(mappings(yaml.compose(text))):
        tree = yaml.compose(text)
        _, mapping = list(mappings(tree))[n]
        key, _ = mapping.value[-1]
        mapping.value.insert(0, mapping.value[-1])
        told = problem(tmp_path, yaml.serialize(tree), MODELS[name])
        assert f"{'.'.join((*path, key.value))} is said twice, in lines " in told


def test_both_lines_are_named(tmp_path: Path) -> None:
    text = (FOLDER / "release.yaml").read_text()
    lines = text.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("  max_looks:"))
    lines.insert(at + 2, "  max_looks: 50")
    told = problem(tmp_path, "\n".join(lines))
    assert told == (
        f"policy some.yaml is not valid: promotion.max_looks is said twice, in lines {at + 1} and {at + 3}; "
        "keep one of them"
    )


@pytest.mark.parametrize(
    "text",
    [
        *("{a: 1, 'a': 2}", "{1: a, 0x1: b}", "{1: a, 1.0: b}", "{1: a, true: b}", "{yes: a, true: b}"),
        *("{1: a, '1': b}", "{'1': a, 0x1: b}", "{1.5: a, '1.5': b}", "{yes: a, 'true': b}", "{~: a, 'null': b}"),
        *("? a\n: 1\n? a\n: 2\n", "deep: [{1: a, '1': b}]"),
    ],
)
def test_a_key_is_the_same_however_it_is_written(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="said twice"):
        yaml.load(text, StrictLoader)


@pytest.mark.parametrize(
    "text",
    [
        "base: &b {a: 1, c: 3}\nover: {<<: *b, a: 2}",
        "base: &b {a: 1}\nmid: {deep: &m {<<: *b, a: 2}}\nlast: {<<: *m, a: 3}",
        "one: &o {a: 1}\ntwo: &t {a: 2}\nboth: {<<: [*o, *t]}",
        "one: &o {a: 1}\ntwo: *o\nthree: [*o, *o]",
        "{1: a, '01': b, '1.0': c, 'True': d, '': e}",
        "{a: {x: 1}, b: {x: 1}}",
    ],
)
def test_merging_and_aliases_say_no_key_twice(text: str) -> None:
    assert yaml.load(text, StrictLoader) == yaml.safe_load(text)


def one_name_each(mapping: dict[Any, Any]) -> bool:
    return len({str(key) for key in mapping}) == len(mapping)


KEYS = st.text(max_size=4) | st.integers()
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3).filter(one_name_each),
    max_leaves=12,
)


@PER_FILE
@given(PLAIN)
def test_what_says_each_key_once_is_read_as_by_pyyaml(content: Any) -> None:
    text = yaml.safe_dump(content)
    assert yaml.load(text, StrictLoader) == yaml.safe_load(text)


UNCLEAR = ["1:20", "190:20:30", "1:20.5", "1_000", "1_0.5", "0_1", "010", "007", "-010", "01.5", "0b11", "0x_1"]


@pytest.mark.parametrize("number", UNCLEAR)
def test_a_number_that_is_another_one_than_it_looks_like_is_refused_wherever_it_stands(
    tmp_path: Path, number: str
) -> None:
    """YAML 1.1 has 1:20 as 80 (base 60), 010 as 8."""
    text = (FOLDER / "release.yaml").read_text()
    (told,) = {problem(tmp_path, f"lease_seconds: {number}"), problem(tmp_path, f"lease_seconds: !!int '{number}'")}
    assert told.startswith(
        f"policy some.yaml is not valid: lease_seconds is {number} in line 1 and must be a plain number"
    )
    assert "\n" not in told
    key = problem(tmp_path, f"{text}\nspeed:\n  - {{{number}: 1}}\n")
    assert f"speed.0.{number} is {number} in line {len(text.splitlines()) + 3} and must be" in key
    assert f"lease_seconds is '{number}' and must be a valid integer" in problem(tmp_path, f"lease_seconds: '{number}'")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("0", 0), ("-7", -7), ("+7", 7), ("0x1F", 31), ("0.05", 0.05), ("1.", 1.0), (".5", 0.5), ("1.0e-05", 1e-05)),
        *(("'1:20'", "1:20"), ("!!str 010", "010"), ("1.2.3", "1.2.3"), ("10:00am", "10:00am"), ("12-34", "12-34")),
    ],
)
def test_plain_numbers_and_texts_are_read_as_they_look(text: str, value: object) -> None:
    assert yaml.load(f"[{text}]", StrictLoader) == [value]


@pytest.mark.parametrize("text", ["!!bool 7", "!!int ''", "!!float ''", "!!timestamp soon", "!!null 7", "!!int half"])
def test_a_tag_on_what_is_of_another_kind_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    told = problem(tmp_path, f"lease_seconds: {text}")
    assert told.startswith("policy ")
    assert "\n" not in told


def test_a_file_that_cannot_be_read_is_told_by_its_path_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "file").touch()
    for path, why in (
        (tmp_path / "absent.yaml", "no such file or directory"),
        (tmp_path / "folder.yaml", "is a directory"),
        (tmp_path / "file" / "release.yaml", "not a directory"),
    ):
        with pytest.raises(PolicyError) as told:
            load_policy(path, ReleasePolicy)
        assert str(told.value).startswith(f"policy {path} cannot be read ({why}): put a file there that you may read")
        assert "VOICE_PIPELINE_POLICY_DIR" in str(told.value)
        assert "Errno" not in str(told.value)


def test_nothing_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    told = problem(tmp_path, f"version: !!python/object/apply:pathlib.Path.touch [!!python/object:x '{mark}']")
    assert "could not determine a constructor" in told
    assert not mark.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty and must be keys with values"),
        ("- 1", "the file is [1] and must be keys with values"),
        ("owner: [", "in line 1"),
        ("owner: 2026-13-45", "cannot be read: "),
        (b"owner: \xff\xfe", "cannot be read: "),
        ("[" * 5000, "cannot be read: "),
        ("&a {owner: *a}", "cannot be read: Circular reference"),
        ("? [owner]\n: 1", "unhashable key"),
        ("lease_seconds: yes", "lease_seconds is True and must be a valid integer"),
        ('lease_seconds: "60"', "lease_seconds is '60' and must be a valid integer"),
        ("lease_seconds: 60.0", "lease_seconds is 60.0 and must be a valid integer"),
        ("promotion: {alpha: on}", "promotion.alpha is True and must be a valid number"),
        ("owner: 2026-11-02", "gates is missing"),
        ("owner: !!binary aGk=", "cannot be read: a policy cannot say b'hi'"),
        ("gates: 3", "gates is 3 and must be keys with values"),
        ("gates: {int8_delta: {max_delta: wide}}", "gates.int8_delta.max_delta is 'wide' and must be a valid number"),
        ("gates: {size: {max_bytes: {huge: 1}}}", "gates.size.max_bytes.huge is a key that is not allowed: it must be"),
        ("overrides: {latency: demo}", "overrides.latency is 'demo' and must be a list"),
        (
            "promotion: {alfa: 1}",
            "promotion.alfa is no key of this policy; promotion may say: alpha, max_latency_ratio",
        ),
        ("promotion: {}", "promotion.alpha is missing"),
        ("speed: 11", "speed is no key of this policy; the file may say: authority, compatibility, gates,"),
        (
            "stages: [{colour: 1}]",
            "stages.0.colour is no key of this policy; stages.0 may say: min_devices, min_events",
        ),
    ],
)
def test_what_is_wrong_is_told_by_key_value_and_what_may_stand_there(
    tmp_path: Path, text: str | bytes, said: str
) -> None:
    told = problem(tmp_path, text)
    assert said in told
    assert "\n" not in told
    assert not [words for words in OF_PYDANTIC if words in told]


def leaves(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value and every part of the policy."""
    if path:
        yield path
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inside:
        yield from leaves(value, (*path, key))


@PER_FILE
@given(st.data())
def test_whatever_is_written_is_valid_or_told_in_one_line_that_names_its_key(
    tmp_path: Path, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(MODELS)))
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    path = data.draw(st.sampled_from(list(leaves(content))))
    holder = content
    for part in path[:-1]:
        holder = holder[part]
    holder[path[-1]] = data.draw(PLAIN)
    told = problem(tmp_path, yaml.safe_dump(content), MODELS[name])
    if told:
        assert str(path[0]) in told
        assert "\n" not in told
        assert not [words for words in OF_PYDANTIC if words in told]
