"""What rollouts of known candidates come to: `voice-pipeline release trials`, which makes docs/error-rates.md.

Shares carry Wilson's 95 % interval. The rules that were tried are named by a digest over all of the policy except what
no tick reads (gates, authority, lease): another rule in the policy demands another table. So does other code: the page
carries the digest of how the first rollouts of each candidate went.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from statistics import median
from time import monotonic

from voice_pipeline.rollout_trials import Effect, End, Fleet, Trial, rollout
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.schema.release_policy import STAGES, ReleasePolicy
from voice_pipeline.stats.rates import wilson_interval

SEED = 1
ROLLOUTS = 1000
OTHERS = 10
"""Scenarios without a goal are tried on a tenth of the rollouts."""
FIRST = 2
"""So many rollouts of each scenario are named in the page, for a test to repeat."""
_NO_RULE_OF_A_TICK = {"version", "owner", "gates", "authority", "overrides", "people", "lease_seconds"}
_CHUNK = 10

USUAL = Fleet()
EQUAL, TWO_POINTS, CRASH_X3 = "equal", "correction_2pp", "crash_x3"


@dataclass(frozen=True)
class Scenario:
    """A candidate of known truth, in words and as what it does to its fleet."""

    said: str
    effect: Effect
    fleet: Fleet = USUAL


SCENARIOS: dict[str, Scenario] = {
    EQUAL: Scenario("equal to the live model (A/A)", Effect()),
    "correction_1pp": Scenario("correction rate +1 pp", Effect(correction=0.01)),
    TWO_POINTS: Scenario("correction rate +2 pp", Effect(correction=0.02)),
    "correction_5pp": Scenario("correction rate +5 pp", Effect(correction=0.05)),
    CRASH_X3: Scenario("crashes ×3", Effect(crash=3.0)),
    "crash_x10": Scenario("crashes ×10", Effect(crash=10.0)),
    "slow_x2": Scenario("latency ×2", Effect(latency=2.0)),
    "fallback_10pp": Scenario("fallback +10 pp", Effect(fallback=0.10)),
    "silent_18": Scenario("18 % of its devices fall silent", Effect(silent=0.18)),
    "silent_30": Scenario("30 % of its devices fall silent", Effect(silent=0.3)),
    "quiet_25": Scenario(
        "of 2,000 devices, which take an hour to take it, 25 % fall silent after two dictations with it",
        Effect(silent=0.25, last_words=2),
        Fleet(devices=2000, poll_minutes=60.0),
    ),
    "fatal_5": Scenario("crashes each time on 5 % of devices, whose people give up", Effect(fatal=0.05)),
    "fatal_30": Scenario("crashes each time on 30 % of devices, whose people give up", Effect(fatal=0.3)),
    "fatal_5_back": Scenario(
        "crashes each time on 5 % of devices, which go back to the live model", Effect(fatal=0.05, going_back=True)
    ),
    "fatal_4_of_250": Scenario(
        "of 250 devices, crashes each time on 4 %, which go back to the live model",
        Effect(fatal=0.04, going_back=True),
        Fleet(devices=250),
    ),
    "light_strained": Scenario("equal, where who dictates little fares worse", Effect(), Fleet(strain=-1.0)),
    "busy_strained": Scenario("equal, where who dictates much fares worse", Effect(), Fleet(strain=1.0)),
    "light_strained_late": Scenario(
        "equal, where who dictates little fares worse, use is very uneven and devices take an hour to take it",
        Effect(),
        Fleet(strain=-1.0, busyness=1.0, poll_minutes=60.0),
    ),
    "busy_strained_late": Scenario(
        "equal, where who dictates much fares worse, use is very uneven and devices take an hour to take it",
        Effect(),
        Fleet(strain=1.0, busyness=1.0, poll_minutes=60.0),
    ),
    "lopsided": Scenario("half of its devices never take it", Effect(refusing=0.5)),
}


def rolled_back(found: Sequence[Trial]) -> int:
    return sum(trial.end is End.ROLLED_BACK for trial in found)


def promoted(found: Sequence[Trial]) -> int:
    return sum(trial.end is End.PRODUCTION for trial in found)


def held(found: Sequence[Trial]) -> int:
    return sum(trial.end is End.HELD for trial in found)


def beyond_canary_5(found: Sequence[Trial]) -> int:
    """Rollouts that ever gave the candidate to more than 5 % of devices."""
    return sum(STAGES.index(trial.stage) > STAGES.index(ReleaseState.CANARY_5) for trial in found)


@dataclass(frozen=True)
class Promise:
    """A share of a scenario's rollouts: at most `goal`, or `at_least` that."""

    said: str
    scenario: str
    count: Callable[[Sequence[Trial]], int]
    goal: float
    at_least: bool = False


PROMISES: dict[str, Promise] = {
    "aa_false_rollback": Promise("an equal model is rolled back", EQUAL, rolled_back, 0.05),
    "false_promotion": Promise("a model 2 pp worse reaches production", TWO_POINTS, promoted, 0.05),
    "power_at_margin": Promise("an equal model reaches production", EQUAL, promoted, 0.80, at_least=True),
    "crash_x3_past_5": Promise("a model that crashes ×3 is given to more than 5 %", CRASH_X3, beyond_canary_5, 0.05),
}
"""Benchmarks of the same names."""


def rules_digest(policy: ReleasePolicy) -> str:
    """Names the rules that the trials tried (12 hex digits)."""
    return digest(policy.model_dump(mode="json", exclude=_NO_RULE_OF_A_TICK))[:12]


def went(found: dict[str, list[Trial]]) -> str:
    """Names how the first rollouts of each scenario went (12 hex digits): what decides in them is what was tried."""
    return digest({name: [asdict(trial) for trial in of[:FIRST]] for name, of in found.items()})[:12]


def trials(
    policy: ReleasePolicy,
    effect: Effect,
    rollouts: int,
    seed: int = SEED,
    fleet: Fleet = USUAL,
) -> list[Trial]:
    """Rollouts 0 to `rollouts` of a seed, in order, on all cores.

    The processes are spawned, not forked: a caller may hold a database open.
    """
    one = partial(rollout, policy, fleet, effect, seed)
    cores = min(os.cpu_count() or 1, rollouts // _CHUNK)
    if cores < 2:
        return [one(index) for index in range(rollouts)]
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        return list(pool.map(one, range(rollouts), chunksize=_CHUNK))


def measure(
    policy: ReleasePolicy, rollouts: int, seed: int, told: Callable[[str], None] = lambda line: None
) -> dict[str, list[Trial]]:
    """Every scenario; those that nothing is promised of on a tenth of the rollouts."""
    promised = {promise.scenario for promise in PROMISES.values()}
    found = {}
    for name, scenario in SCENARIOS.items():
        n = rollouts if name in promised else max(1, rollouts // OTHERS)
        started = monotonic()
        found[name] = trials(policy, scenario.effect, n, seed, scenario.fleet)
        told(f"{scenario.said}: {n} rollouts, {monotonic() - started:.0f} s")
    return found


def page(policy: ReleasePolicy, found: dict[str, list[Trial]], seed: int, command: str) -> str:
    """docs/error-rates.md: the tables, and under which assumptions they hold."""
    return "\n".join(
        [
            "# How often the release engine errs",
            "",
            f"Made by `{command}`; seed {seed}, rules `{rules_digest(policy)}`,",
            f"first {FIRST} rollouts of each candidate `{went(found)}`.",
            "",
            "## What is promised",
            "",
            *promises(found),
            "",
            *crashing(found[CRASH_X3]),
            "Benches of these names measure the same: `make bench NAME=power_at_margin`.",
            "",
            "## Rollouts of known candidates",
            "",
            *table(found),
            "",
            *_READING,
            "",
            *_fleet(USUAL),
            "",
            *_LIMITS,
        ]
    )


def promises(found: dict[str, list[Trial]]) -> list[str]:
    """One Markdown row a promise."""
    rows = ["| bench | share of rollouts in which | goal | measured |", "|---|---|--:|--:|"]
    for name, promise in PROMISES.items():
        of = found[promise.scenario]
        goal = f"{'≥' if promise.at_least else '≤'} {promise.goal:.0%}"
        rows.append(f"| `{name}` | {promise.said} | {goal} | {_share(promise.count(of), len(of))} |")
    return rows


def crashing(found: Sequence[Trial]) -> list[str]:
    """In words what the promise on crashes does not tell: that most such models are held, if these trials were."""
    waiting = sum(trial.end is End.HELD and trial.stage is ReleaseState.CANARY_5 for trial in found)
    if 2 * waiting <= len(found):
        return []
    n = len(found)
    return [
        "A model that crashes ×3 is, in most rollouts, not rolled back: it is held on 5 % of devices until a person",
        f"decides ({_share(waiting, n)}); the engine rolled back {_share(rolled_back(found), n)}.",
        "",
    ]


def table(found: dict[str, list[Trial]]) -> list[str]:
    """One Markdown row a scenario."""
    head = ("candidate", "rollouts", "production", "beyond 5 %", "rolled back", "held", "stopped (median)")
    rows = ["| " + " | ".join(head) + " |", "|---|--:|--:|--:|--:|--:|---|"]
    for name, of in found.items():
        shares = [_share(count(of), len(of)) for count in (promoted, beyond_canary_5, rolled_back, held)]
        rows.append("| " + " | ".join([SCENARIOS[name].said, str(len(of)), *shares, _stopped(of)]) + " |")
    return rows


def _share(k: int, n: int) -> str:
    low, high = wilson_interval(k, n)
    return f"{k / n:.1%} ({low:.1%} to {high:.1%})"


def _stopped(found: Sequence[Trial]) -> str:
    """Where and when the rollouts that did not reach production ended."""
    ended = [trial for trial in found if trial.end is not End.PRODUCTION]
    if not ended:
        return "–"
    stage, times = Counter(trial.stage for trial in ended).most_common(1)[0]
    minutes = median(trial.minutes for trial in ended)
    exposed = median(max(story.exposed for story in trial.stories) for trial in ended)
    return f"{stage} ({times / len(ended):.0%}), {minutes:.0f} min, {exposed:.0f} devices"


_READING = [
    "Shares with Wilson's 95 % interval. *Beyond 5 %*: the candidate was ever given to more than 5 % of devices.",
    "*Stopped*: of the rollouts that did not reach production, the stage in which most ended; the median of simulated",
    "time since the shadow stage began, and of devices that had run the candidate by then.",
]

_LIMITS = [
    "## What this does not prove",
    "",
    "- The fleet is made up. Real devices differ in more ways: hours of the day, weekdays, reports that come late,",
    "  people who correct less as they tire. What the tests do assume: devices are independent of one another, and the",
    "  bucket is drawn at random. That busy devices fare like light ones they do not (two rows of the table).",
    "- Power is this fleet's. With fewer devices, or devices that are used less, the same rules hold more equal models",
    "  for a person, or take more time.",
    "- An effect is the same on every device. One that hits a single device class must be larger to be seen as early.",
    "- Harm tests assume that devices take the candidate soon against how often they are used. A device that is on",
    "  takes it within its lease, an hour (two rows of the table). Where that lasts many hours and use is very uneven,",
    "  harm tests err more often than is said here.",
    "- Devices whose apps run the candidate and no model before it have nobody to be compared with: they are held",
    "  against all others. No row tries that, and no error rate is assured where most devices are such, or where they",
    "  fare worse by nature.",
    "- A look at silence sees the last hour: a device that fell quiet within that hour is not silent yet. Of devices",
    "  that a model silences after days of use, no stage of hours tells.",
    "- A look shows that harm is small where it is spread. Of harm that is all on a few devices a small sample may",
    "  hold none: without one in n devices, up to 3 / n of them could be harmed (the rule of three). So it is with",
    "  silence at 5 %: looks test it from 25 % on.",
    "- Only the analysis and its bookkeeping are tried; ledger, assignment, rollback and devices have their own tests.",
    "- People who give up, and devices that go back, because the model crashes do so after two crashes and for good.",
    "- A held rollout ends here. In the engine a person decides, and harm goes on being looked for.",
]


def _fleet(fleet: Fleet) -> list[str]:
    """Every assumption, by its name in `rollout_trials.Fleet`, where each is explained."""
    said = [f"`{name}` {value}" for name, value in asdict(fleet).items()]
    return [
        "## The fleet",
        "",
        "The real analysis under the real policy, with a made-up fleet around it (`voice_pipeline/rollout_trials.py`,",
        "where each figure is explained):",
        "; ".join(said).replace("(", "").replace(")", "") + ".",
    ]
