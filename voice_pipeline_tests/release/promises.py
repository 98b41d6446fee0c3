"""The engine's promises, read from the ledger and from what devices are told: an account of its own, which imports
nothing that decides in `release`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from voice_pipeline.schema.release_policy import ReleasePolicy
from voice_pipeline.store.ledger import LedgerLine

EVERY_GATE = {
    *("bundle_integrity", "noisy_wer_improvement", "slice_margins", "int8_delta", "latency", "size", "download"),
    *("wake_words", "coverage"),
}
A_PERSON_SETTLES = {"slice_margins", "wake_words", "coverage"}
AGAINST_THE_LIVE_MODEL = {"noisy_wer_improvement", "slice_margins"}
SHARE = {"canary_5": 5, "canary_25": 25, "canary_50": 50}
EXPOSING = {"shadow", *SHARE, "production"}
STAGES = {"shadow", *SHARE}


class Account:
    """What the ledger's lines come to, one after the other, and where they break a promise (`broken`).

    Args:
        policies: every policy that was ever in force, by digest.
    """

    def __init__(self, lines: Sequence[LedgerLine], policies: Mapping[str, ReleasePolicy]) -> None:
        self.broken: list[str] = []
        self.state: dict[str, str] = {}
        self._policies = policies
        self._past: list[LedgerLine] = []
        self._entry: dict[str, int] = {}
        self._held_in: dict[str, str] = {}
        self._bundle: dict[str, str] = {}
        self._displaced = (0, "")
        for line in lines:
            if line.kind == "transition":
                self._step(line)
            self._past.append(line)

    def live(self) -> list[str]:
        return [release for release, state in self.state.items() if state == "production"]

    def share(self) -> dict[str, int]:
        """Percent of devices that each release which is rolling out may answer on."""
        stage = {r: self._held_in[r] if s == "held" else s for r, s in self.state.items()}
        return {r: SHARE.get(s, 0) for r, s in stage.items() if s in STAGES}

    def _step(self, line: LedgerLine) -> None:
        payload, release = line.payload, line.subject
        before, to = payload["from"], payload["to"]
        if before != self.state.get(release):
            self._breaks(line, f"leaves {before}, but it is {self.state.get(release)}")
        if before is None:
            self._comes_back(line)
        if to in EXPOSING and before not in ("held", "superseded"):
            self._evidence(line)
        if before == "held" and to != "rolled_back" and to != self._held_in[release]:
            self._breaks(line, f"resumes in {to}, it was held in {self._held_in[release]}")
        if to == "held":
            self._held_in[release] = before
        if before == "production":
            self._displaced = (line.seq, self._bundle[release])
        self.state[release], self._entry[release], self._bundle[release] = to, line.seq, payload["bundle_digest"]
        if len(self.live()) > 1:
            self._breaks(line, f"leaves {self.live()} live")
        if len(self.share()) > 1:
            self._breaks(line, f"leaves {sorted(self.share())} rolling out at once")

    def _comes_back(self, line: LedgerLine) -> None:
        """A bundle that devices had, or that people turned away, is released again by a person's word only, and never
        where its own figures took it back.
        """
        steps = [
            past for past in self._past if past.kind == "transition" and self._bundle_of(past) == self._bundle_of(line)
        ]
        if not steps or self._turned_away_by_gates(steps[-1]):
            return
        end = steps[-1]
        if (
            end.payload["to"] not in ("rejected", "rolled_back")
            or not {"decision_id", "beside"} & end.payload["evidence"].keys()
        ):
            self._breaks(line, f"though the bundle was {end.payload['to']}: {end.payload['reason']}")
        said = [past for past in self._past if past.seq > end.seq and past.subject == end.subject]
        if not any(self._said(past, line, "readmit") and past.actor == "demo" for past in said):
            self._breaks(line, "though nobody readmitted it")

    @staticmethod
    def _bundle_of(line: LedgerLine) -> str:
        return str(line.payload["bundle_digest"])

    @staticmethod
    def _turned_away_by_gates(line: LedgerLine) -> bool:
        return line.payload["to"] == "rejected" and "verdicts" in line.payload["evidence"]

    def _evidence(self, line: LedgerLine) -> None:
        """Complete, fresh verdicts about this very bundle under the rules of the step, each settled; and a look."""
        policy, bundle = self._policies[line.payload["policy_digest"]], line.payload["bundle_digest"]
        newest = {
            past.payload["gate"]: past
            for past in self._past
            if past.kind == "verdict" and past.payload["policy_digest"] == policy.digest and past.subject == bundle
        }
        if newest.keys() != EVERY_GATE:
            self._breaks(line, f"without verdicts of {sorted(EVERY_GATE - newest.keys())}")
        for gate, verdict in newest.items():
            self._verdict(line, policy, gate, verdict)
        if line.payload["from"] in STAGES:
            self._look(line, policy)

    def _verdict(self, line: LedgerLine, policy: ReleasePolicy, gate: str, verdict: LedgerLine) -> None:
        told = verdict.payload
        if told["bundle_digest"] != line.payload["bundle_digest"]:
            self._breaks(line, f"by a verdict of {gate} about another bundle")
        if _age(line, told["at"]) > timedelta(days=policy.gates.max_age_days):
            self._breaks(line, f"by a verdict of {gate} from {told['at']}")
        if gate in AGAINST_THE_LIVE_MODEL and f"champion={self._champion(line)}&" not in told["evidence"]:
            self._breaks(line, f"by a verdict of {gate} against another model than the live one")
        asked = gate in A_PERSON_SETTLES and told["outcome"] == "inconclusive" and self._signed_off(line)
        if told["outcome"] != "pass" and not asked and not self._overridden(line, policy, gate):
            self._breaks(line, f"though gate {gate} is {told['outcome']}")

    def _champion(self, line: LedgerLine) -> str:
        at, displaced = self._displaced
        if at == line.seq - 1:
            return displaced
        return next((self._bundle[release] for release in self.live()), "")

    def _signed_off(self, line: LedgerLine) -> bool:
        return any(self._said(past, line, "approve") for past in self._past)

    def _overridden(self, line: LedgerLine, policy: ReleasePolicy, gate: str) -> bool:
        for past in self._past:
            if self._said(past, line, "override") and _signed(past)["gate"] == gate:
                fresh = _age(line, past.at) <= timedelta(days=policy.gates.max_age_days)
                same_rules = _signed(past)["policy_digest"] == policy.digest
                if fresh and same_rules and past.actor in policy.overrides[gate]:
                    return True
        return False

    def _said(self, past: LedgerLine, line: LedgerLine, decision: str) -> bool:
        """Whether a line of the past holds this decision about the bundle of `line`."""
        if past.kind != "decision" or _signed(past)["decision"] != decision:
            return False
        return bool(_signed(past)["bundle_digest"] == line.payload["bundle_digest"])

    def _look(self, line: LedgerLine, policy: ReleasePolicy) -> None:
        looks = [past for past in self._past if past.kind == "analysis" and past.subject == line.subject]
        told: dict[str, Any] = looks[-1].payload if looks else {}
        bound = (told.get("bundle_digest"), told.get("policy_digest"), told.get("stage_seq"))
        if bound != (line.payload["bundle_digest"], policy.digest, self._entry[line.subject]):
            self._breaks(line, f"by no look at {line.payload['from']} of this bundle under this policy")
        elif told["outcome"] != "pass":
            self._breaks(line, f"though its last look is {told['outcome']}")
        elif _age(line, looks[-1].at) > timedelta(minutes=policy.telemetry.stale_minutes):
            self._breaks(line, f"by a look from {looks[-1].at}")

    def _breaks(self, line: LedgerLine, what: str) -> None:
        self.broken.append(f"ledger line {line.seq}: {line.subject} to {line.payload['to']} {what}")


def _age(line: LedgerLine, at: str) -> timedelta:
    return datetime.fromisoformat(line.at) - datetime.fromisoformat(at)


def _signed(line: LedgerLine) -> dict[str, Any]:
    """The statement in a decision's envelope (DSSE), which is what the person signed."""
    statement: dict[str, Any] = json.loads(base64.b64decode(line.payload["envelope"]["payload"]))
    return statement
