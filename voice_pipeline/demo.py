"""The whole story in one run, through the real definitions: assets, checks and sensors are those that production uses.

Two things are simulated: the passing of time (a manual clock over about a week) and the world (reviewers who answer
open tasks, devices that run the released ONNX file on recorded speech). Everything between them is the system itself.
"""

import json
import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from dagster import DagsterInstance
from rich.console import Console

from voice_pipeline import story_report
from voice_pipeline.conductor import Conductor, RunFailedError
from voice_pipeline.demo_home import claimed_home
from voice_pipeline.evaluation.manifest import read_noises
from voice_pipeline.fleet.corpus import CorpusClip, load_corpus, synthesise_corpus
from voice_pipeline.schema.labeling_policy import load_labeling_policy
from voice_pipeline.settings import load_settings, prepare_environment
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline.store.vault import SALT
from voice_pipeline.story_progress import Progress

ACTOR = "demo"
ATTEMPTS = 4


class StoryError(Exception):
    """The story did not come out as told; the message says at which step and what was found instead."""


@dataclass(frozen=True)
class StoryPlan:
    """What the story is told with. `today` is the last simulated day.

    Equal plans give the same clips, labels and splits. Versions of dataset and model differ from home to home, because
    each home encrypts under keys of its own and a dataset version names encrypted bytes.
    """

    home: Path
    today: date
    quick: bool = False
    corpus: Path | None = None
    seed: int = 1
    devices: int = 360
    dictations: int = 6
    home_speakers: int = 40
    home_clips: int = 700


def run_demo(plan: StoryPlan, console: Console) -> dict[str, Any]:
    """Tell the story into `plan.home`; returns what is written to `reports/demo.json` there.

    Raises:
        HomeInUseError: the home holds other work, or a process works there.
        StoryError: a step came out differently from the story.
    """
    speech = _speech(plan)  # bad input is refused before anything is touched
    with claimed_home(plan.home, {"seed": plan.seed, "quick": plan.quick, "today": str(plan.today)}):
        return _told(plan, speech, console)


def _told(
    plan: StoryPlan, speech: tuple[list[CorpusClip], list[CorpusClip], Path | None], console: Console
) -> dict[str, Any]:
    profile = "quick" if plan.quick else "story"
    settings = load_settings(plan.home).model_copy(update={"training_profile": profile})
    write_atomically(
        settings.keys / SALT, sha256(f"demo-{plan.seed}".encode()).digest()
    )  # equal plans, equal pseudonyms
    prepare_environment(settings)
    _keep_libraries_quiet()
    clock = ManualClock(datetime(plan.today.year, plan.today.month, plan.today.day, 8, tzinfo=UTC) - timedelta(days=5))
    store = Store.open(settings, clock)
    progress = Progress(console, settings)
    with ExitStack() as stack:
        instance = stack.enter_context(DagsterInstance.get())
        stack.enter_context(progress.alive())
        conductor = Conductor(store, instance, progress.run)
        story = _Story(plan, store, clock, conductor, progress)
        story.tell(*speech, stack)
    report = story_report.build(store, conductor, story.model_versions, time.monotonic() - progress.started, plan.seed)
    write_atomically(settings.reports / "demo.json", json.dumps(report, indent=2).encode())
    console.print(story_report.summary(report))
    console.print(f"report: {settings.reports / 'demo.json'}")
    for line in story_report.where_to_look(store):
        console.print(line)
    return report


def _keep_libraries_quiet() -> None:
    """Libraries' warnings and log lines would tear the live display; alerts are in `reports/alerts.log`."""
    logging.captureWarnings(True)
    logging.disable(logging.WARNING)


def _speech(plan: StoryPlan) -> tuple[list[CorpusClip], list[CorpusClip], Path | None]:
    """(the home population's clips, the new population's clips, noise manifest), every recording heard once.

    An own corpus without FSDD brings no new population: then accented digits are synthesised.
    """
    alphabet = load_labeling_policy(load_settings(plan.home).policy_dir).alphabet
    if plan.corpus is None:
        home, new = synthesise_corpus(plan.seed, plan.home_clips, plan.home_speakers, alphabet)
        return home, new, None
    clips = load_corpus(plan.corpus)
    new = [clip for clip in clips if clip.corpus == "fsdd"]
    home = [clip for clip in clips if clip.corpus == "an4"] or [clip for clip in clips if clip.corpus != "fsdd"]
    if not home:
        raise StoryError(f"corpus {plan.corpus} holds only fsdd, the new population; add speech of the home population")
    for clip in (*home, *new):
        clip.samples()
    noise = plan.corpus / "noise.jsonl"
    if noise.exists():
        read_noises(noise)
    return home, new or synthesise_corpus(plan.seed, 60, 8, alphabet)[1], noise if noise.exists() else None


class _Story:
    def __init__(
        self, plan: StoryPlan, store: Store, clock: ManualClock, conductor: Conductor, progress: Progress
    ) -> None:
        self.plan = plan
        self.store = store
        self.clock = clock
        self.conductor = conductor
        self.progress = progress
        self.truth: dict[str, str] = {}
        self.model_versions: list[str] = []

    def tell(self, home: list[CorpusClip], new: list[CorpusClip], noise: Path | None, stack: ExitStack) -> None:
        """The nine steps, in order."""
        self.import_speech(home, noise)
        self.label_and_train()
        self.sign_off_first()
        fleet = self.field(home, new, stack)
        self.drift(fleet)
        self.roll_out_second(fleet)
        self.sabotage_third(fleet)
        self.trace()

    def import_speech(self, home: list[CorpusClip], noise: Path | None) -> None:
        from voice_pipeline.capture.noise import import_noise
        from voice_pipeline.fleet.cohorts import with_devices
        from voice_pipeline.fleet.importer import import_clips

        self.progress.begin(1, "Import consented clips")
        days = [self.clock.now().date() + timedelta(days=n) for n in range(3)]
        self.clock.advance(timedelta(days=3))
        if noise is not None:
            import_noise(self.store, noise)
        spoken = with_devices(home, self.plan.seed)
        self.truth.update(import_clips(self.store, spoken, days, seed=self.plan.seed).texts)
        self.progress.say(f"{len(self.truth)} clips over {len(days)} days, encrypted under their speakers' keys")
        self.conductor.settle()

    def label_and_train(self) -> None:
        from voice_pipeline.fleet.reviewers import SimulatedReviewers

        self.progress.begin(2, "Label with two-pass review; 3 dataset, 4 features, 5 train v1, package, gate")
        self.reviewers = SimulatedReviewers(self.truth, error_rate=0.03, seed=self.plan.seed)
        self._settle()
        self.model_versions.append(self._newest_model())

    def sign_off_first(self) -> None:
        from voice_pipeline.release.people.decisions import record_decision
        from voice_pipeline.release.people.enrolment import enrol, person_key
        from voice_pipeline.schema.release import Decision, ReleaseState

        view = self._release(self.model_versions[0])
        if view.state is not ReleaseState.AWAITING_SIGN_OFF:
            raise StoryError(f"release {view.release_id} should await its sign-off but is {view.state}")
        reason = "first model of this installation: no champion to compare with"
        enrol(self.store, ACTOR, "release-manager")
        record_decision(self.store, view.release_id, Decision.APPROVE, person_key(self.store, ACTOR), reason)
        self.conductor.settle()
        self._expect(self.model_versions[0], ReleaseState.PRODUCTION)
        self.progress.say(f"v1 = {view.release_id}: signed off by {ACTOR} and live")

    def field(self, home: list[CorpusClip], new: list[CorpusClip], stack: ExitStack) -> Any:
        from voice_pipeline.edge.server import EdgeServer
        from voice_pipeline.evaluation.noises import load_noises
        from voice_pipeline.fleet.devices import SimulatedFleet
        from voice_pipeline.fleet.scenario import populations

        self.progress.begin(6, "Devices in the field")
        edge = stack.enter_context(EdgeServer(self.store))
        fleet = SimulatedFleet(
            devices=self.plan.devices,
            seed=self.plan.seed,
            edge_url=edge.url,
            root=self.store.settings.root / "fleet",
            populations=populations(home, new, seed=self.plan.seed, noises=load_noises(self.store)),
            old_apps=1,
        )
        stack.callback(fleet.close)
        self.clock.advance(timedelta(days=1))
        remote = self._tick(fleet, ticks=2)
        self.progress.say(
            f"one app is too old for every model: the edge hears its person, who allows it ({remote} times)"
        )
        return fleet

    def drift(self, fleet: Any) -> None:
        from voice_pipeline.store.incidents import incidents

        if any(incident.kind == "input_drift" for incident in incidents(self.store)):
            raise StoryError("input drift was reported on traffic that is like the training data")
        self.progress.say("a new population arrives: accented digits, band-limited and noisy microphones")
        fleet.admit_new_population(share=0.7)
        self.clock.advance(timedelta(days=1))
        self._tick(fleet, ticks=2)
        found = [incident for incident in incidents(self.store) if incident.kind == "input_drift"]
        if not found:
            raise StoryError("the new population was not reported as input drift")
        self.progress.say(f"{found[0].incident_id}: {found[0].summary}")
        self.model_versions.append(self._newest_model())
        if self.model_versions[1] == self.model_versions[0]:
            raise StoryError(f"incident {found[0].incident_id} led to no new model")

    def roll_out_second(self, fleet: Any) -> None:
        from voice_pipeline.schema.release import ReleaseState

        self.progress.begin(7, f"v2 = {self.model_versions[1]}: shadow → 5 → 25 → 50 → 100 %")
        self._roll(fleet, self.model_versions[1], ReleaseState.PRODUCTION)

    def sabotage_third(self, fleet: Any) -> None:
        from voice_pipeline.fleet.scenario import Fault
        from voice_pipeline.schema.release import ReleaseState
        from voice_pipeline.training.planning import request_retrain

        self.progress.begin(8, "v3: fine offline, slow and wrong on devices")
        request_retrain(self.store, "routine refresh", actor=ACTOR)
        self._settle()
        self.model_versions.append(self._newest_model())
        self.progress.say(f"v3 = {self.model_versions[2]}")
        fleet.inject(Fault(self.model_versions[2], latency_factor=8.0, corrupt=True))
        self._roll(fleet, self.model_versions[2], ReleaseState.ROLLED_BACK)
        self._expect(self.model_versions[1], ReleaseState.PRODUCTION)
        self.expect_devices_back(fleet)

    def expect_devices_back(self, fleet: Any) -> None:
        """The ledger said so; now the devices do: at their next poll their own clients answer with v2 again."""
        answering = fleet.answering()
        astray = {device: model for device, model in answering.items() if model != self.model_versions[1]}
        if astray or not answering:
            raise StoryError(f"after the rollback devices should answer with {self.model_versions[1]}: {astray}")
        self.progress.say(f"asked again, {len(answering)} devices answer with v2, from their own slots")

    def trace(self) -> None:
        from voice_pipeline.lineage import lineage, lineage_lines

        self.progress.begin(9, "Lineage of the live model, from one lookup")
        for line in lineage_lines(lineage(self.store, self.model_versions[1])):
            self.progress.say(line)

    def _roll(self, fleet: Any, model_version: str, goal: Any, most: int = 16) -> None:
        """Let simulated half hours pass until the release reaches `goal`."""
        from voice_pipeline.schema.release import ReleaseState

        settled = {ReleaseState.PRODUCTION, ReleaseState.ROLLED_BACK, ReleaseState.REJECTED, ReleaseState.HELD}
        seen = None
        for _ in range(most):
            view = self._release(model_version)
            if view.state is not seen:
                self.progress.say(f"{view.release_id} is {view.state}: {view.transitions[-1].reason}")
                seen = view.state
            if view.state in settled:
                break
            self.clock.advance(timedelta(minutes=35))
            self._tick(fleet)
        self._expect(model_version, goal)

    def _tick(self, fleet: Any, ticks: int = 1) -> int:
        """Devices dictate, sensors and reviewers react; how many dictations the edge turned into text."""
        remote = 0
        for _ in range(ticks):
            stats = fleet.tick(self.clock, self.plan.dictations)
            self.truth.update(stats.captured)
            remote += stats.remote
            self._settle()
        return remote

    def _settle(self) -> None:
        """Let sensors and reviewers finish. A model that its gates reject is told and another is asked for: gates are
        never softened for the story, and models of a minute's training do not always beat the one before.
        """
        from voice_pipeline.schema.release import ReleaseState
        from voice_pipeline.store.releases import latest_release
        from voice_pipeline.training.planning import request_retrain

        for attempt in range(ATTEMPTS):
            try:
                self.conductor.settle(lambda: self.reviewers.answer_open_tasks(self.store))
                return
            except RunFailedError:
                view = latest_release(self.store, self._newest_model())
                if view is None or view.state is not ReleaseState.REJECTED or attempt == ATTEMPTS - 1:
                    raise
                self.progress.say(f"{view.release_id} was rejected: {view.transitions[-1].reason}; asking for another")
                self.clock.advance(timedelta(minutes=1))  # the newest plan is the last one by time
                request_retrain(self.store, f"{view.release_id} was rejected by its gates", actor=ACTOR)

    def _newest_model(self) -> str:
        from sqlalchemy import select

        from voice_pipeline.store.tables import models

        version = self.store.database.scalar(
            select(models.c.model_version).order_by(models.c.planned_at.desc()).limit(1)
        )
        if version is None:
            raise StoryError(f"no model was planned: {story_report.why_no_model(self.store)}")
        return str(version)

    def _release(self, model_version: str) -> Any:
        from voice_pipeline.store.releases import release_views

        views = [view for view in release_views(self.store) if view.model_version == model_version]
        if not views:
            raise StoryError(f"model {model_version} has no release; was its bundle signed?")
        return views[-1]

    def _expect(self, model_version: str, state: Any) -> None:
        view = self._release(model_version)
        if view.state is not state:
            last = view.transitions[-1].reason
            raise StoryError(f"release {view.release_id} should be {state} but is {view.state}: {last}")
