"""Policies are YAML that people read and change; here they become typed records.

Unknown keys are refused, and what is no number where one belongs (PyYAML takes `yes` for true, and that for 1). So is
a key that is said twice: YAML (1.2.2, §3.2.1.1) asks for keys that are unique, PyYAML lets the last one win without a
word; `1` and `"1"` are one key, as they are in JSON. So is a number that YAML 1.1, and PyYAML with it, reads otherwise
than people do: `1:20` would be 80, `010` would be 8. What is wrong is told in the words of the file: the key, what it
says, what it may say.
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
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_PLAIN = re.compile(
    r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)(e[-+]?[0-9]+)?|[-+]?0x[0-9a-f]+|[-+]?\.(inf|nan)", re.IGNORECASE
)
"""A number that is the same to YAML 1.1, to 1.2 and to people: not in base 60, 8 or 2, without `_`."""
_PLAINER = {
    "model_type": "must be keys with values (`key: value`)",
    "dict_type": "must be keys with values (`key: value`)",
    "tuple_type": "must be a list (`[one, another]`)",
}


class PolicyError(Exception):
    """A policy file is missing, is no YAML, or says something that the policy model does not allow."""


class AmbiguousYamlError(yaml.YAMLError):
    """YAML that can be read in two ways: a mapping says a key more than once, or a number is not plain."""


class StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses keys that are said twice (one laid over a merged key, `<<`, is not), and
    numbers that are not plain.
    """

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        self._check(node, (), set())
        return node

    def _check(self, node: Any, path: tuple[str, ...], seen: set[int]) -> None:
        """Raises `AmbiguousYamlError`. Before construction, which puts merged keys among a mapping's own."""
        if id(node) in seen:  # an alias
            return
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            _check_number(node, path)
        if isinstance(node, yaml.SequenceNode):
            for number, one in enumerate(node.value):
                self._check(one, (*path, str(number)), seen)
        if isinstance(node, yaml.MappingNode):
            lines: dict[Hashable, int] = {}
            for key, value in node.value:
                where, line = (*path, str(getattr(key, "value", ""))), key.start_mark.line + 1
                self._check(key, where, seen)
                names = self._names(key)
                if taken := names & lines.keys():
                    told = f"in lines {lines[taken.pop()]} and {line}; keep one of them"
                    raise AmbiguousYamlError(f"{'.'.join(where)} is said twice, {told}")
                lines |= dict.fromkeys(names, line)
                self._check(value, where, seen)

    def _names(self, node: Any) -> set[Hashable]:
        """What tells keys apart: the value, so that `1` and `0x1` are one, and what JSON makes of it, so that `1` and
        `"1"` are. What is no scalar is refused later.
        """
        if not isinstance(node, yaml.ScalarNode):
            return {id(node)}
        if node.tag == _MERGE:
            return {(_MERGE, node.value)}
        value = self.construct_object(node)  # type: ignore[no-untyped-call]
        return {value, *json.loads(json.dumps({value: 0}, skipkeys=True))}


def _check_number(node: yaml.ScalarNode, path: tuple[str, ...]) -> None:
    """Raises `AmbiguousYamlError`."""
    if node.tag in _NUMBERS and not _PLAIN.fullmatch(node.value):
        where, line = ".".join(path) or "the file", node.start_mark.line + 1
        raise AmbiguousYamlError(
            f"{where} is {node.value} in line {line} and must be a plain number (no `_`, no `:`, no zero in front) or, "
            "as a text, stand in quotes"
        )


def load_policy(path: Path, model: type[P]) -> P:
    """Read `path` as a `model`.

    Raises:
        PolicyError: names the file and every key that is wrong, what it says and what it may say; of a key that is
            said twice, both lines; of a file that cannot be read, what to do.
    """
    try:
        content = json.dumps(yaml.load(path.read_text(), StrictLoader), default=_as_text)
    except AmbiguousYamlError as error:
        raise PolicyError(f"policy {path.name} is not valid: {error}") from error
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        todo = "put a file there that you may read, or name another folder in VOICE_PIPELINE_POLICY_DIR"
        raise PolicyError(f"policy {path} cannot be read ({why}): {todo}") from error
    except (yaml.YAMLError, TypeError, ValueError, RecursionError, LookupError, AttributeError) as error:
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
    if isinstance(error, LookupError | AttributeError):  # of PyYAML's, on `!!bool 7`
        return "some value is not of the kind that its tag (`!!…`) names"
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
