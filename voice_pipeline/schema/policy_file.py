"""Policies are YAML that people read and change; here they become typed records. Unknown keys are refused."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import ValidationError

from voice_pipeline.schema.base import Record

P = TypeVar("P", bound=Record)


class PolicyError(Exception):
    """A policy file is missing, is no YAML, or says something that the policy model does not allow."""


def load_policy(path: Path, model: type[P]) -> P:
    """Read `path` as a `model`.

    Raises:
        PolicyError: names the file and every key that is wrong.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise PolicyError(f"policy {path} cannot be read: {error}") from error
    try:
        return model.model_validate(content)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise PolicyError(f"policy {path.name} is not valid: {wrong}") from error
