"""Which decision means something in which state of a release, and what to do where one does not."""

from __future__ import annotations

from voice_pipeline.release.rollback import BESIDE
from voice_pipeline.schema.release import Decision
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import STAGES
from voice_pipeline.store.releases import ROLLING_OUT, ReleaseView

FITS: dict[Decision, frozenset[S]] = {
    Decision.APPROVE: frozenset({S.AWAITING_SIGN_OFF}),
    Decision.REJECT: frozenset({S.CANDIDATE, S.GATED, S.AWAITING_SIGN_OFF}),
    Decision.HOLD: ROLLING_OUT - {S.HELD},
    Decision.RESUME: frozenset({S.HELD}),
    Decision.ROLLBACK: ROLLING_OUT | {S.PRODUCTION},
    Decision.OVERRIDE: ROLLING_OUT | {S.CANDIDATE, S.GATED, S.AWAITING_SIGN_OFF, S.REJECTED},
    Decision.READMIT: frozenset({S.REJECTED, S.ROLLED_BACK}),
}
"""In which states a decision means something."""

QUEUED = frozenset({Decision.APPROVE, Decision.REJECT, Decision.RESUME})
"""What waits for the sensor."""

MOVING = (Decision.APPROVE, Decision.REJECT, Decision.RESUME, Decision.HOLD, Decision.ROLLBACK)
"""What moves a release, or stops it."""

UNASKED = {
    S.CANDIDATE: "its gates judge it first",
    S.GATED: "rollout_sensor begins its rollout, no sign-off is needed",
    **dict.fromkeys(STAGES, "it goes on by its figures"),
}
"""What happens where nobody decides anything."""


def may_come_back(view: ReleaseView) -> bool:
    """Whether it ended by a person's word, or only because the live model beside it fell."""
    last = view.transitions[-1]
    return view.state in FITS[Decision.READMIT] and bool({"decision_id", BESIDE} & last.evidence.keys())


def instead(view: ReleaseView) -> str:
    """What becomes of a release as it is now, and with which commands people change that."""
    command = "`voice-pipeline release {} " + view.release_id
    if may_come_back(view):
        return f"{command.format('readmit')}` lets it come back"
    another = "ask for another model: `voice-pipeline training request REASON ACTOR`"
    if view.state is S.REJECTED:
        return f"its gates ended it: {command.format('override')} --gate GATE` where the policy lets, or {another}"
    if view.state is S.ROLLED_BACK:
        return f"harm ended it, and it does not come back; {another}"
    if view.state is S.SUPERSEDED:
        return "the model before the live one is live again after `voice-pipeline release rollback live`"
    fit = [f"{command.format(decision)}`" for decision in MOVING if view.state in FITS[decision]]
    return "; ".join([*([UNASKED[view.state]] if view.state in UNASKED else []), f"now: {', '.join(fit)}"])
