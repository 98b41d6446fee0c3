"""A release as people read it in the Dagster UI: plain values, and its story as Markdown with one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from voice_pipeline.evaluation.charts import as_markdown_image
from voice_pipeline.release.errors import UnknownReleaseError
from voice_pipeline.release.gates.evidence import overridden_gates, settled, stored_verdicts
from voice_pipeline.release.people.decisions import DECISION, signed_decisions
from voice_pipeline.release.story.audits import named
from voice_pipeline.release.story.charts import alt_text, rollout_png
from voice_pipeline.release.story.markdown import plain, table
from voice_pipeline.release.story.timeline import CORRECTION_RATE, Difference, Harm, ToldLook, release_as_of, told_looks
from voice_pipeline.schema.release import Decision, Outcome, ReleaseState
from voice_pipeline.schema.release_policy import STAGES, ReleasePolicy
from voice_pipeline.store.errors import LedgerBrokenError
from voice_pipeline.store.ledger import LedgerLine
from voice_pipeline.store.releases import ReleaseView, latest_release, release_views
from voice_pipeline.store.store import Store

NBSP = "\u00a0"
"""Keeps what belongs together in one line of a narrow table."""

LEDGER_LINE = "ledger_line"
"""Metadata by which an event says which ledger line it tells: its number and hash."""


class Markdown(str):
    """Text that is to be shown as Markdown."""


def page(store: Store, policy: ReleasePolicy, release_id: str, up_to: int) -> dict[str, Markdown | str | int | float]:
    """What the asset of a release shows, by name, as ledger line `up_to` left it: told late, it tells the same.

    Raises:
        UnknownReleaseError: the ledger has no such line about this release.
    """
    lines = [line for line in store.ledger.lines(subject=release_id) if line.seq <= up_to]
    view = release_as_of(lines)
    if view is None or lines[-1].seq != up_to:
        raise UnknownReleaseError(f"ledger line {up_to} is not about release {release_id}; verify the ledger")
    looks = told_looks(lines)
    signed = {word.seq for word in signed_decisions(store, release_id)}  # what nobody signed is nobody's word
    decided = [line for line in lines if line.kind == DECISION and line.seq in signed]
    return {
        "state": view.state.value,
        "exposure_percent": view.exposure_percent,
        "chart": Markdown(chart(view, looks)),
        "story": Markdown(story(policy, view, looks, decided)),
        "gate_verdicts": Markdown(f"[verdicts of its gates]({verdicts_link(view.model_version)})"),
        "waits_for": awaited(policy, view, looks) or "nothing",
        "reason": view.transitions[-1].reason,
        **_last_look(looks),
        "release_id": view.release_id,
        "bundle_digest": view.bundle_digest,
        LEDGER_LINE: named(lines[-1]),
    }


def story(
    policy: ReleasePolicy, view: ReleaseView, looks: Sequence[ToldLook], decided: Sequence[LedgerLine] = ()
) -> str:
    """Where the release stands and what it waits for; every look, every decision and every transition as a table."""
    waiting = awaited(policy, view, looks)
    parts = [
        f"**{plain(view.release_id)}** is **{_words(view.state)}** on {view.exposure_percent} % of devices "
        f"since {view.entered_at[:16].replace('T', ' ')} UTC.",
        f"**Waits for:** {plain(waiting)}." if waiting else "It waits for nothing.",
    ]
    if looks:
        parts += ["#### Looks", looks_table(looks), GUARDRAILS_READ, guardrail_table(looks)]
    if decided:
        rows = [(_minute(line.at), line.actor, _decision(line), line.payload.get("reason", "")) for line in decided]
        parts += ["#### Who decided", table(("at (UTC)", "who", "what", "why"), rows)]
    return "\n\n".join([*parts, "#### Steps", steps_table(view)])


def steps_table(view: ReleaseView) -> str:
    """All transitions as a Markdown table."""
    rows = [
        (
            _minute(step.at),
            _words(step.from_state),
            _words(step.to_state),
            step.actor,
            step.reason,
        )
        for step in view.transitions
    ]
    return table(("at (UTC)", "from", "to", "by", "reason"), rows)


def looks_table(looks: Sequence[ToldLook]) -> str:
    """Every look with its sample, the correction rate's difference (candidate minus live) and the latency ratio."""
    heads = ("at (UTC)", "stage", "outcome", "devices", "dictations", "correction rate [bounds]", "margin", "p95 ratio")
    rows = [
        (
            _minute(look.at.isoformat()),
            _words(look.stage),
            look.outcome.value.upper(),
            _arms(look.devices),
            _arms(look.dictations),
            _bounds(look.correction_rate),
            _points(look.correction_rate.margin),
            "–" if look.latency_ratio is None else f"{look.latency_ratio:.2f}",
        )
        for look in looks
    ]
    return table(heads, rows, right=5)


GUARDRAILS_READ = (
    "Devices and dictations are those on the candidate / on the live model; differences (candidate minus live) are "
    "percentage points. Guardrails at each look: difference (upper bound) where tested against the margin, in the "
    "head; else the figures of both as the harm test saw them."
)


def guardrail_table(looks: Sequence[ToldLook]) -> str:
    """Every look with each guardrail: its non-inferiority test, or its harm test where it has no other."""
    measures = sorted({name for look in looks for name in (*look.tests, *look.harm)} - {CORRECTION_RATE})
    rows = []
    for look in looks:
        cells = [_guardrail(look.tests.get(name), look.harm.get(name)) for name in measures]
        found = ", ".join(name for name, test in look.harm.items() if test.harmful) or ("none" if look.harm else "–")
        rows.append((_minute(look.at.isoformat()), _words(look.stage), found, *cells))
    heads = [f"{name.replace('_', ' ')} {_margin_of(name, looks)}".rstrip() for name in measures]
    return table(("at (UTC)", "stage", "harm found", *heads), rows)


def awaited(policy: ReleasePolicy, view: ReleaseView, looks: Sequence[ToldLook]) -> str:
    """What had to happen, by ledger and policy alone, before the release went on; "" where nothing had to.

    `release.waiting` tells the same of this moment, with telemetry that no line of the ledger holds yet.
    """
    if view.state in STAGES:
        stage, own = policy.stage(view.state), [look for look in looks if look.stage is view.state]
        if not own:
            return (
                f"a first look: {stage.min_minutes:g} minutes, {stage.min_devices} devices and {stage.min_events} "
                "dictations on the candidate"
            )
        if own[-1].outcome is Outcome.PASS:
            return "the run that takes the next step: its last look passed"
        return f"look {len(own) + 1} of {policy.promotion.max_looks}; the last was {own[-1].outcome}: {own[-1].reason}"
    reason = view.transitions[-1].reason
    return {
        ReleaseState.CANDIDATE: "the verdicts of its gates",
        ReleaseState.GATED: "its turn: shadow begins when no other release rolls out",
        ReleaseState.AWAITING_SIGN_OFF: f"a sign-off by {policy.said(Decision.APPROVE)} ({reason})",
        ReleaseState.HELD: f"{policy.said(Decision.RESUME)} to resume, or a rollback ({reason})",
    }.get(view.state, "")


def picture(store: Store, view: ReleaseView) -> bytes:
    """The rollout so far as PNG."""
    return rollout_png(view, told_looks(store.ledger.lines(subject=view.release_id)))


def chart(view: ReleaseView, looks: Sequence[ToldLook]) -> str:
    """The rollout as a Markdown image. A picture that cannot be drawn says why: it must never stop a rollback's run."""
    try:
        return as_markdown_image(rollout_png(view, looks), plain(alt_text(view, looks)))
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a drawing, the release has moved already
        return f"no chart: {plain(f'{type(error).__name__}: {error}')}"


def verdicts_link(model_version: str) -> str:
    """Where the UI shows the verdicts of a model's gates."""
    return f"/assets/release_candidate?view=partitions&partition={quote(model_version, safe='')}"


def verdict_table(store: Store, view: ReleaseView) -> str:
    """The newest verdict of each gate under the policy of the last transition, as a Markdown table."""
    rows = []
    for verdict in stored_verdicts(store, view.bundle_digest, view.transitions[-1].policy_digest).values():
        value = "" if verdict.value is None else f"{verdict.value:.4g}"
        threshold = "" if verdict.threshold is None else f"{verdict.threshold:.4g}"
        rows.append((verdict.gate, verdict.outcome, value, threshold, verdict.detail))
    return table(("gate", "outcome", "value", "threshold", "detail"), rows)


def _last_look(looks: Sequence[ToldLook]) -> dict[str, Any]:
    """Figures of the newest look for the UI's plots; nothing before the first."""
    if not looks:
        return {}
    test = looks[-1].correction_rate
    shown = {"correction_rate_difference": test.difference, "correction_rate_upper": test.upper}
    shown |= {"correction_rate_margin": test.margin, "latency_ratio": looks[-1].latency_ratio}
    return {"last_look": looks[-1].outcome.value, **{name: round(v, 4) for name, v in shown.items() if v is not None}}


def _guardrail(test: Difference | None, harm: Harm | None) -> str:
    if test is not None:
        found = "ok" if test.passes else "WORSE" if test.fails else "open"
        return f"{_points(test.difference)} (≤ {_points(test.upper)}) {found}".replace(" ", NBSP)
    if harm is not None:
        found = "HARM" if harm.harmful else "no harm"
        return f"{100 * harm.candidate:.1f} / {100 * harm.control:.1f} {found}".replace(" ", NBSP)
    return "–"


def _margin_of(measure: str, looks: Sequence[ToldLook]) -> str:
    """The margin of the newest look that tested this measure."""
    tests = [look.tests[measure] for look in reversed(looks) if measure in look.tests]
    return f"< {_points(tests[0].margin)}" if tests else ""


def _bounds(test: Difference) -> str:
    if test.difference is None:
        return "–"
    return f"{_points(test.difference)} [{_points(test.lower)}, {_points(test.upper)}]"


def _points(fraction: float | None) -> str:
    return "?" if fraction is None else f"{100 * fraction:+.1f}"


def _arms(pair: tuple[int, int] | None) -> str:
    return "–" if pair is None else f"{pair[0]} / {pair[1]}"


def _decision(line: LedgerLine) -> str:
    gate = line.payload.get("gate")
    return f"{line.payload.get('decision', '')}{f' gate {gate}' if gate else ''}"


def _minute(at: str) -> str:
    return at[:16].replace("T", " ")


def _words(state: ReleaseState | None) -> str:
    return state.value.replace("_", " ") if state else ""


@dataclass(frozen=True)
class JudgedGate:
    """One gate as an asset check shows it; `passed` also where a person's sign-off or override settles it."""

    passed: bool
    metadata: dict[str, Any]


def judged_gate(store: Store, policy: ReleasePolicy, model_version: str, gate: str) -> JudgedGate:
    """A gate of a model's newest release under `policy`; without a verdict it has not passed."""
    view = latest_release(store, model_version)
    found = stored_verdicts(store, view.bundle_digest, policy.digest) if view else {}
    verdict = found.get(gate)
    if verdict is None:
        return JudgedGate(False, {"detail": "no verdict is stored for this bundle and policy"})
    passed = settled(verdict, overridden_gates(store, policy, view.bundle_digest) if view else {})
    figures = {"value": verdict.value, "threshold": verdict.threshold}
    metadata = {"outcome": verdict.outcome.value, "metric": verdict.metric, "detail": verdict.detail}
    return JudgedGate(passed, {**metadata, **{k: v for k, v in figures.items() if v is not None}})


def live_state(store: Store) -> tuple[bool, dict[str, Any]]:
    """Whether at most one release is live, and which."""
    live = [view.release_id for view in release_views(store) if view.state is ReleaseState.PRODUCTION]
    return len(live) <= 1, {"live": ", ".join(live) or "none"}


def ledger_state(store: Store) -> tuple[bool, dict[str, Any]]:
    """Whether the ledger verifies, with its length or what is wrong."""
    try:
        return True, {"lines": store.ledger.verify()}
    except LedgerBrokenError as error:
        return False, {"problem": str(error)}
