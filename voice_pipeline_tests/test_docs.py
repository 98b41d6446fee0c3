"""README and docs name only commands, files and Makefile verbs that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from voice_pipeline.cli import app
from voice_pipeline.settings import PROJECT_ROOT

PAGES = [PROJECT_ROOT / "README.md", PROJECT_ROOT / "CONTRIBUTING.md", *sorted((PROJECT_ROOT / "docs").glob("*.md"))]


def commands() -> set[str]:
    """`group command` and top-level names of the CLI."""
    root = typer.main.get_command(app)
    found: set[str] = set()
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found |= {f"{name} {sub}" for sub in inner} if inner else {name}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_named_in_the_page_exists(page: Path) -> None:
    known = commands()
    for named in re.findall(r"voice-pipeline ([a-z][a-z-]*(?: [a-z][a-z-]*)?)", page.read_text()):
        assert named in known or named.split()[0] in known, f"{page.name} names `voice-pipeline {named}`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_verb_named_in_the_page_exists(page: Path) -> None:
    verbs = set(re.findall(r"^([a-z]+):", (PROJECT_ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for named in re.findall(r"`make ([a-z]+)", page.read_text()) + re.findall(
        r"^make ([a-z]+)", page.read_text(), re.M
    ):
        assert named in verbs, f"{page.name} names `make {named}`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_the_page_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_sensor_and_job_of_the_runbook_exists() -> None:
    from voice_pipeline.definitions import build_definitions

    repository = build_definitions().get_repository_def()
    known = {sensor.name for sensor in repository.sensor_defs} | set(repository.job_names)
    text = (PROJECT_ROOT / "docs" / "runbook.md").read_text()
    named = set(re.findall(r"\b([a-z_]+_(?:sensor|job))\b", text))
    assert named
    assert named <= known
    assert {sensor.name for sensor in repository.sensor_defs} <= named, "the runbook leaves a sensor out"
