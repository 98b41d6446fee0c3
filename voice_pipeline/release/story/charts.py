"""A rollout as one picture: how many devices it reached when, what every look found, and the harm that ended it.

Pure: the same release and looks give the same bytes. Time runs in UTC from state to state. A state of seconds and one
of days are both readable because a state's width is its duration within limits; therefore the times stand at the steps.
Nothing is told by colour alone: outcomes have their own markers, states their names.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from voice_pipeline.evaluation.charts import as_png
from voice_pipeline.release.story.timeline import Harm, ToldLook, told_harm
from voice_pipeline.schema.release import EXPOSURE_PERCENT, Outcome
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.releases import ENDED, ReleaseView, Transition

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH_IN, DPI = 7.4, 115
MOST_STEPS = 20
NARROWEST, WIDEST = 0.085, 0.30
BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#d55e00", "#009e73", "#b2182b", "0.45"
NAMES: dict[S, str] = {
    S.CANDIDATE: "candi-\ndate",
    S.AWAITING_SIGN_OFF: "awaits\nsign-off",
    S.CANARY_5: "canary\n5 %",
    S.CANARY_25: "canary\n25 %",
    S.CANARY_50: "canary\n50 %",
    S.PRODUCTION: "live\n100 %",
    S.ROLLED_BACK: "rolled\nback",
    S.SUPERSEDED: "super-\nseded",
}
MARKERS: dict[Outcome, tuple[str, str]] = {
    Outcome.PASS: ("o", GREEN),
    Outcome.INCONCLUSIVE: ("D", "white"),
    Outcome.FAIL: ("X", RED),
    Outcome.INVALID: ("v", "white"),
}


@dataclass(frozen=True)
class Segment:
    """One state of the release, from `left` to `right` of the picture's width (0 to 1)."""

    step: Transition
    start: datetime
    seconds: float
    exposure: int
    left: float
    right: float


def rollout_png(view: ReleaseView, looks: Sequence[ToldLook]) -> bytes:
    """The rollout of `view` as PNG: its states, exposure in percent of devices, looks, and harm if it was rolled back.

    Args:
        view: a release with at least one transition; of very many the last 20 are shown.
        looks: the looks of all its stages, oldest first.
    """
    from matplotlib.figure import Figure

    segments = segments_of(view, looks)
    shown = [look for look in looks if look.seq > segments[0].step.seq]
    harm = harm_at_rollback(view)
    heights = [0.5, 1.6, *([1.5] if shown else []), *([0.45 + 0.22 * len(harm)] if harm else [])]
    figure = Figure(figsize=(WIDTH_IN, 0.95 + sum(heights)), dpi=DPI, layout="constrained")
    panels = list(figure.subplots(len(heights), height_ratios=heights))
    earlier = len(view.transitions) - len(segments)
    after = f" (the last {len(segments)} of {len(view.transitions)} steps)" if earlier else ""
    figure.suptitle(f"Rollout of {view.release_id}{after}", fontsize=9, parse_math=False)
    _states(panels[0], segments)
    _exposure(panels[1], segments, shown, ended=view.ended)
    if shown:
        _differences(panels[2], segments, shown)
    if harm:
        _harm(panels[-1], harm)
    _times(panels[2] if shown else panels[1], segments)
    return _fewer_colours(as_png(figure))


def alt_text(view: ReleaseView, looks: Sequence[ToldLook]) -> str:
    """The picture in one sentence, for who cannot see it."""
    steps = [f"{_words(step.to_state)} from {_at(step):%Y-%m-%d %H:%M}" for step in view.transitions[-MOST_STEPS:]]
    counts = {outcome: sum(look.outcome is outcome for look in looks) for outcome in Outcome}
    tests = ", ".join(f"{count} {outcome.value}" for outcome, count in counts.items() if count) or "none yet"
    harmful = [name for name, test in harm_at_rollback(view).items() if test.harmful]
    harm = f"; harm in {', '.join(harmful)}" if harmful else ""
    return f"Rollout of {view.release_id}, times in UTC: {'; '.join(steps)}. Looks: {tests}{harm}."


def harm_at_rollback(view: ReleaseView) -> dict[str, Harm]:
    """The harm tests upon which the release was rolled back last; empty where it was not, or a person did it."""
    last = next((step for step in reversed(view.transitions) if step.to_state is S.ROLLED_BACK), None)
    return told_harm(last.evidence) if last else {}


def segments_of(view: ReleaseView, looks: Sequence[ToldLook]) -> list[Segment]:
    """The states that are drawn, in order, side by side from 0 to 1."""
    steps = view.transitions[-MOST_STEPS:]
    starts = [_at(step) for step in steps]
    newest = max([look.at for look in looks if look.seq > steps[-1].seq], default=starts[-1])
    ends = [*starts[1:], newest]
    seconds = [max((end - start).total_seconds(), 0.0) for start, end in zip(starts, ends, strict=True)]
    widths = _widths(seconds)
    rights = list(accumulate(widths))
    return [
        Segment(step, start, length, _exposure_after(view, step), right - width, right)
        for step, start, length, width, right in zip(steps, starts, seconds, widths, rights, strict=True)
    ]


def _widths(seconds: Sequence[float]) -> list[float]:
    """Shares of the picture's width: in proportion to the durations, but none unreadably narrow or all-consuming."""
    narrowest = min(NARROWEST, 0.7 / len(seconds))
    shares = np.asarray(seconds) / (sum(seconds) or 1.0)
    clipped = np.clip(shares, narrowest, max(WIDEST, narrowest))
    return [float(width) for width in clipped / clipped.sum()]


def _exposure_after(view: ReleaseView, step: Transition) -> int:
    """Percent of devices after `step`; held keeps what the stage before it had."""
    state = step.from_state if step.to_state is S.HELD and step.from_state else step.to_state
    return EXPOSURE_PERCENT.get(state, 0)


def _states(axis: Axes, segments: Sequence[Segment]) -> None:
    turned = len(segments) > 11
    for segment in segments:
        state = segment.step.to_state
        ended = state in ENDED
        axis.axvspan(
            segment.left,
            segment.right,
            facecolor="0.25" if ended else (0.0, 0.447, 0.698, 0.08 + 0.4 * segment.exposure / 100),
            edgecolor="white",
            hatch="////" if state is S.HELD else None,
            linewidth=1.5,
        )
        name = _words(state) if turned else NAMES.get(state, state.value)
        axis.text(
            (segment.left + segment.right) / 2,
            0.5,
            name,
            ha="center",
            va="center",
            fontsize=5.5 if turned else 7,
            rotation=90 if turned else 0,
            color="white" if ended else "black",
            backgroundcolor=(1, 1, 1, 0.8) if state is S.HELD and not turned else (1, 1, 1, 0),
        )
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.axis("off")


def _exposure(axis: Axes, segments: Sequence[Segment], looks: Sequence[ToldLook], ended: bool) -> None:
    edges = [segment.left for segment in segments] + [1.0]
    levels = [segment.exposure for segment in segments] + [segments[-1].exposure]
    axis.step(edges, levels, where="post", color=BLUE, linewidth=2)
    axis.fill_between(edges, levels, step="post", color=BLUE, alpha=0.15)
    if not ended:
        axis.plot(1.0, levels[-1], marker=">", color=BLUE, markersize=7, clip_on=False)
    for outcome in Outcome:
        of_kind = [look for look in looks if look.outcome is outcome]
        marker, face = MARKERS[outcome]
        if of_kind:
            places = [_place(segments, look) for look in of_kind]
            axis.plot(
                [x for x, _ in places],
                [segment.exposure for _, segment in places],
                marker,
                label=f"look: {outcome.value}",
                markerfacecolor=face,
                markeredgecolor="black",
                markersize=7,
                clip_on=False,
                zorder=5,
            )
    axis.set_yscale("function", functions=(lambda y: np.sqrt(np.maximum(y, 0)), np.square))
    axis.set_yticks([0, 5, 25, 50, 100])
    axis.set_ylim(0, 112)
    axis.set_ylabel("exposure,\n% of devices", fontsize=8)
    if looks:
        axis.legend(fontsize=7, loc="upper left", ncols=4, framealpha=0.9)
    _frame(axis, segments)


def _differences(axis: Axes, segments: Sequence[Segment], looks: Sequence[ToldLook]) -> None:
    finite = [0.0]
    for look in looks:
        finite += [100 * v for v in (look.correction_rate.difference, look.correction_rate.margin) if v is not None]
        finite += [100 * v for v in (look.correction_rate.lower, look.correction_rate.upper) if v is not None]
    low, high = min(finite), max(finite)
    pad = 0.12 * max(high - low, 1.0)
    low, high = low - pad, high + 1.6 * pad
    for look in looks:
        x, segment = _place(segments, look)
        test = look.correction_rate
        if test.margin is not None:
            axis.hlines(100 * test.margin, segment.left, segment.right, color=ORANGE, linestyle="--", linewidth=1.5)
            said = f"margin +{100 * test.margin:g}"
            axis.annotate(said, (segment.left, 100 * test.margin), (2, 2), textcoords="offset points", fontsize=6.5)
        if test.difference is None:
            continue
        ends = (low if test.lower is None else 100 * test.lower, high if test.upper is None else 100 * test.upper)
        axis.plot([x, x], ends, color="black", linewidth=1.2, marker="_", markersize=7)
        marker, face = MARKERS[look.outcome]
        axis.plot(x, 100 * test.difference, marker, markerfacecolor=face, markeredgecolor="black", markersize=6)
    axis.axhline(0, color=GREY, linewidth=0.8)
    axis.set_ylim(low, high)
    axis.set_ylabel("correction rate,\ncandidate - live,\npercentage points", fontsize=7.5)
    _frame(axis, segments)


def _harm(axis: Axes, tests: dict[str, Harm]) -> None:
    """One row a measure: harmful where what the candidate adds for certain reached the margin."""
    for row, test in enumerate(tests.values()):
        axis.plot([0, 100 * test.margin], [row, row], color="0.8", linewidth=7, solid_capstyle="butt")
        axis.plot(100 * test.margin, row, "|", color=ORANGE, markersize=13, markeredgewidth=2.5)
        axis.plot(100 * test.lower, row, ">", color=RED if test.harmful else BLUE, markersize=7)
    names = [f"HARM {_plain(name)}" if test.harmful else _plain(name) for name, test in tests.items()]
    axis.set_yticks(range(len(names)), labels=names, fontsize=7, parse_math=False)
    for label, test in zip(axis.get_yticklabels(), tests.values(), strict=True):
        label.set_fontweight("bold" if test.harmful else "normal")
    for row, test in enumerate(tests.values()):
        if test.harmful:
            right = test.lower < 0.62
            axis.annotate(
                f"more than {test.margin:+.1%}",
                (100 * test.lower, row),
                (8, 0) if right else (-8, 0),
                textcoords="offset points",
                ha="left" if right else "right",
                va="center",
                fontsize=7,
            )
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlim(-1, 101)
    axis.set_xlabel("harm, points by device:  ▶ candidate minus live model, at least;  | margin", fontsize=7.5)
    axis.tick_params(axis="x", labelsize=6.5)
    axis.grid(axis="x", alpha=0.3)


def _frame(axis: Axes, segments: Sequence[Segment]) -> None:
    axis.set_xlim(0, 1)
    axis.set_xticks([segment.left for segment in segments], labels=[])
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3)


def _times(axis: Axes, segments: Sequence[Segment]) -> None:
    """The times of the steps below the lowest panel that runs in time; the day where it changes."""
    days = [segment.start.astimezone(UTC).date() for segment in segments]
    new_day = [i == 0 or days[i] != days[i - 1] for i in range(len(days))]
    labels = [_clock(segment.start, fresh) for segment, fresh in zip(segments, new_day, strict=True)]
    turned = len(segments) > 11
    axis.set_xticks([segment.left for segment in segments], labels=labels, fontsize=6.5, rotation=90 if turned else 0)
    axis.set_xlabel(f"time of each step, UTC, {days[0].year} (widths of states are not to scale)", fontsize=7.5)


def _place(segments: Sequence[Segment], look: ToldLook) -> tuple[float, Segment]:
    """Where a look stands: in the state that the ledger had when it was made, as far along as its time says."""
    segment = next(part for part in reversed(segments) if part.step.seq < look.seq)
    passed = (look.at - segment.start).total_seconds() / segment.seconds if segment.seconds else 1.0
    along = 0.08 + 0.84 * min(max(passed, 0.0), 1.0)  # never on the border, where it would seem to be the next state's
    return segment.left + along * (segment.right - segment.left), segment


def _fewer_colours(png: bytes) -> bytes:
    """The picture in 128 colours: a third of the size, for an event log that keeps one a step."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _at(step: Transition) -> datetime:
    return datetime.fromisoformat(step.at).astimezone(UTC)


def _clock(at: datetime, with_day: bool = False) -> str:
    return f"{at:%H:%M}\n{at.day} {at:%b}" if with_day else f"{at:%H:%M}"


def _words(state: S) -> str:
    return state.value.replace("_", " ")


def _plain(name: str) -> str:
    return name.replace("_", " ")
