"""Policies are YAML that people read and change; here they become typed records.

Unknown keys are refused, and what is no number where one belongs (PyYAML takes `yes` for true, and that for 1). So is
a key that is said twice: YAML (1.2.2, §3.2.1.1) asks for keys that are unique, PyYAML lets the last one win without a
word. What is wrong is told in the words of the file: the key, what it says, what it may say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from datetime import date
from pathlib import Path
from reprlib import Repr
from typing import Annotated, Any, TypeVar, get_args, get_origin

import yaml
from pydantic import ValidationError

from voice_pipeline.schema.base import Record

P = TypeVar("P", bound=Record)
_MERGE = "tag:yaml.org,2002:merge"
_PLAINER = {
    "model_type": "must be keys with values (`key: value`)",
    "dict_type": "must be keys with values (`key: value`)",
    "tuple_type": "must be a list (`[one, another]`)",
}


class PolicyError(Exception):
    """A policy file is missing, is no YAML, or says something that the policy model does not allow."""


class KeySaidTwiceError(yaml.YAMLError):
    """One mapping of a YAML file says a key more than once."""


class EachKeyOnce(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses keys that are said twice; one laid over a merged key (`<<`) is not."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        self._check(node, (), set())
        return node

    def _check(self, node: Any, path: tuple[str, ...], seen: set[int]) -> None:
        """Raises `KeySaidTwiceError`. Before construction, which puts merged keys among a mapping's own."""
        if id(node) in seen:  # an alias
            return
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for number, one in enumerate(node.value):
                self._check(one, (*path, str(number)), seen)
        if isinstance(node, yaml.MappingNode):
            lines: dict[Hashable, int] = {}
            for key, value in node.value:
                name, line = self._key(key), key.start_mark.line + 1
                where = (*path, str(getattr(key, "value", "")))
                if name in lines:
                    told = f"{'.'.join(where)} is said twice, in lines {lines[name]} and {line}; keep one of them"
                    raise KeySaidTwiceError(told)
                lines[name] = line
                self._check(value, where, seen)

    def _key(self, node: Any) -> Hashable:
        """What tells keys apart: the value, so that `1` and `0x1` are one. What is no scalar is refused later."""
        if not isinstance(node, yaml.ScalarNode):
            return id(node)
        if node.tag == _MERGE:
            return (_MERGE, node.value)
        value: Hashable = self.construct_object(node)  # type: ignore[no-untyped-call]
        return value


def load_policy(path: Path, model: type[P]) -> P:
    """Read `path` as a `model`.

    Raises:
        PolicyError: names the file and every key that is wrong, what it says and what it may say; of a key that is
            said twice, both lines.
    """
    try:
        content = json.dumps(yaml.load(path.read_text(), EachKeyOnce), default=_as_text)
    except KeySaidTwiceError as error:
        raise PolicyError(f"policy {path.name} is not valid: {error}") from error
    except (OSError, yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise PolicyError(f"policy {path} cannot be read: {_unreadable(error)}") from error
    return policy_from_json(content, path, model)


def policy_from_json(content: str, path: Path, model: type[P]) -> P:
    """The `model` that the JSON in `path` is: strictly, and yet names of enums are enums.

    Raises:
        PolicyError: as `load_policy`.
    """
    try:
        return model.model_validate_json(content, strict=True)
    except ValidationError as error:
        wrong = "; ".join(_wrong(one, model) for one in error.errors())
        raise PolicyError(f"policy {path.name} is not valid: {wrong}") from error


def _as_text(value: object) -> str:
    """What YAML has and JSON has not."""
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"a policy cannot say {_said(value)}")


def _unreadable(error: Exception) -> str:
    """One line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"{error.problem or 'it is no YAML'}, in line {error.problem_mark.line + 1}"
    return " ".join(str(error).split()) or type(error).__name__


def _wrong(error: Mapping[str, Any], model: type[Record]) -> str:
    """One error of pydantic's in the words of the file."""
    loc, kind = tuple(error["loc"]), error["type"]
    of_key = loc[-1:] == ("[key]",)
    where = ".".join(str(part) for part in loc if part != "[key]")
    if kind == "missing":
        return f"{where} is missing"
    if kind == "extra_forbidden":
        holder = ".".join(map(str, loc[:-1])) or "the file"
        return f"{where} is no key of this policy; {holder} may say: {', '.join(_keys(model, loc[:-1]))}"
    if kind in ("value_error", "assertion_error"):
        return f"{where}: {error['ctx']['error']}" if where else str(error["ctx"]["error"])
    must = _PLAINER.get(kind) or re.sub(r"^\w+ should ", "must ", error["msg"])
    if of_key:
        return f"{where} is a key that is not allowed: it {must}"
    return f"{where or 'the file'} is {_said(error['input'])} and {must}"


def _said(value: object) -> str:
    short = Repr()
    short.maxstring = short.maxother = 60
    return "empty" if value is None else short.repr(value)


def _keys(model: type[Record], loc: tuple[Any, ...]) -> list[str]:
    """The keys that may stand at `loc`."""
    found: Any = model
    for part in loc:
        found = _inside(found, part)
    kind = _record(found)
    return sorted(kind.model_fields) if kind else []


def _inside(annotation: Any, part: Any) -> Any:
    """The type of what the key or position `part` leads to."""
    if kind := _record(annotation):
        field = kind.model_fields.get(str(part))
        return field.annotation if field else None
    if get_origin(annotation) is Annotated:
        return _inside(get_args(annotation)[0], part)
    if get_origin(annotation) is dict:
        return get_args(annotation)[1]
    if get_origin(annotation) is tuple:
        return get_args(annotation)[0]
    return next((found for one in get_args(annotation) if (found := _inside(one, part))), None)


def _record(annotation: Any) -> type[Record] | None:
    """The record that stands there, by itself or as one of several."""
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return annotation
    if get_origin(annotation) in (dict, tuple):
        return None
    return next((kind for one in get_args(annotation) if (kind := _record(one))), None)
