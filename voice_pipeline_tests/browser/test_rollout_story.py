"""What a release manager sees of a rollout in the Dagster UI: its picture, its tests, who decided, its exposure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance

from voice_pipeline.store.clock import ManualClock
from voice_pipeline_tests.browser.conftest import CHROMIUM
from voice_pipeline_tests.browser.webserver import webserver
from voice_pipeline_tests.release.conftest import FLEET, START
from voice_pipeline_tests.release.daemon import TYPED, Daemon, Rollouts, tell_rollouts
from voice_pipeline_tests.release.world import World, add_suite, open_world

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="needs Debian's chromium: apt-get install chromium"),
]


@dataclass(frozen=True)
class Ui:
    url: str
    models: Rollouts

    def open(self, page: Any, asset: str, model: str) -> None:
        page.goto(f"{self.url}/assets/{asset}?view=partitions&partition={model}")
        page.get_by_text("exposure_percent").first.wait_for()

    def entry(self, page: Any, name: str) -> Any:
        """The row of one metadata entry; a short Markdown is shown in it."""
        return page.get_by_role("row").filter(has=page.get_by_text(name, exact=True))

    def show(self, page: Any, asset: str, model: str, name: str) -> Any:
        """The opened Markdown of one metadata entry."""
        self.open(page, asset, model)
        self.entry(page, name).get_by_text("[Show Markdown]").click()
        dialog = page.get_by_role("dialog")
        dialog.wait_for()
        return dialog


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """A home in which one model went live and the next was rolled back from 25 %, told by the assets and the sensor."""
    clock = ManualClock(START)
    store = open_world(tmp_path_factory.mktemp("rollout") / "home", clock, FLEET)
    with webserver(store.settings) as served:
        with DagsterInstance.from_config(str(store.settings.dagster_home)) as instance:
            models = tell_rollouts(Daemon(World(store, clock, add_suite(store)), instance))
        yield Ui(served.url, models)


def test_the_picture_of_a_rollback_is_drawn_on_the_canary(page: Any, ui: Ui) -> None:
    picture = ui.show(page, "canary_release", ui.models.rolled_back, "chart").locator("img")
    picture.wait_for()
    page.wait_for_function("() => [...document.images].every(image => image.complete)")
    width, height = picture.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert width > 700
    assert height > 500
    shown = picture.bounding_box()
    assert shown["width"] > 500  # not squeezed into a corner
    said = picture.get_attribute("alt")
    assert "canary 25 from 2026-11-02" in said
    assert "rolled back from 2026-11-02" in said
    assert "harm in correction_rate" in said


def test_the_tests_of_every_stage_are_a_table(page: Any, ui: Ui) -> None:
    story = ui.show(page, "production_release", ui.models.live, "story")
    looks = story.get_by_role("table").first
    for stage in ("shadow", "canary 5", "canary 25", "canary 50"):
        row = looks.get_by_role("row").filter(has=page.get_by_text(stage, exact=True)).last
        assert row.get_by_text("PASS").is_visible()
    decided = story.get_by_role("table").nth(2)
    assert decided.get_by_text("wait for Monday").is_visible()


def test_what_a_person_typed_is_text_and_nothing_else(page: Any, ui: Ui) -> None:
    ui.open(page, "production_release", ui.models.first)
    story = ui.entry(page, "story")
    assert story.get_by_text(TYPED.replace("\n", " "), exact=True).first.is_visible()
    assert story.locator("table b, table a, table img").count() == 0


def test_exposure_over_time_is_plotted(page: Any, ui: Ui) -> None:
    """Dagster's own plot of the numeric metadata: one point an event, looks and rollback among them."""
    page.goto(f"{ui.url}/assets/canary_release?view=overview")
    page.get_by_role("button", name="Plots").click()
    page.get_by_role("button", name="Events").click()
    page.get_by_text("exposure_percent", exact=True).wait_for()
    canvas = page.locator("canvas").nth(page.locator("canvas").count() - 1)
    canvas.wait_for()
    page.wait_for_timeout(1000)
    painted = canvas.evaluate(
        "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((v, i) => i % 4 === 3 && v).length"
    )
    assert painted > 1000


def test_the_verdicts_are_one_click_away(page: Any, ui: Ui) -> None:
    ui.open(page, "canary_release", ui.models.live)
    page.get_by_role("link", name="verdicts of its gates").click()
    page.get_by_text("release_candidate").first.wait_for()
    ui.entry(page, "verdicts").get_by_text("[Show Markdown]").click()
    page.get_by_role("dialog").get_by_text("noisy_wer_improvement").wait_for()
