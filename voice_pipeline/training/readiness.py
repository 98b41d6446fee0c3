"""The gate before an expensive run: what a machine showed of a spec, kept in the ledger, and asked for again.

A blocking check stops only the next asset of the same run. So the findings become a line of kind `preflight` in the
ledger, bound to spec, machine, code and lock file, and `worker` trains nothing without a line that passed; what is
cheap (data, consents, disk, memory) is looked at again at that moment.

The looking is done by `python -m voice_pipeline.training.readiness MODEL_VERSION`, a process of its own: the caller's
threads and memory stay as they are, and one that hangs or is killed is a failed finding. One JSON line a finding.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

from sqlalchemy import select

from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.policy_file import PolicyError, load_policy
from voice_pipeline.schema.retrain_policy import Preflight, RetrainPolicy
from voice_pipeline.schema.training import TrainingSpec
from voice_pipeline.settings import PROJECT_ROOT, Settings, load_settings
from voice_pipeline.store.errors import StoreError
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import models
from voice_pipeline.training.errors import PreflightError, TrainingError, UnknownModelError
from voice_pipeline.training.preflight import Finding, check_data, check_machine, check_network
from voice_pipeline.training.provenance import code_commit, lock_digest

PREFLIGHT = "preflight"


@dataclass(frozen=True)
class Verdict:
    """What was found about one spec, on one machine, by one state of the code."""

    model_version: str
    binding: dict[str, str]
    findings: tuple[Finding, ...]
    seconds: float
    at: datetime

    @property
    def passed(self) -> bool:
        return bool(self.findings) and all(finding.passed for finding in self.findings)


def binding_of(spec: TrainingSpec) -> dict[str, str]:
    """What a verdict is about; one about anything else counts for nothing."""
    return {
        "spec_digest": spec.digest,
        "machine": machine(),
        "code_commit": code_commit(),
        "lock_digest": lock_digest(),
    }


def machine() -> str:
    """A digest that tells this machine, and the accelerator it was given, from others; it names nobody."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    told = [platform.node(), platform.machine(), os.cpu_count(), memory, os.environ.get("CUDA_VISIBLE_DEVICES", "")]
    return digest(told)[:12]


def judge(store: Store, model_version: str) -> Verdict:
    """Look at everything in a process of its own, and keep what was found in the ledger.

    Raises:
        UnknownModelError: it was never planned.
        PolicyError: policy/retrain.yaml cannot be read.
    """
    spec, limits = planned_spec(store, model_version), _limits(store)
    started = time.perf_counter()
    findings = tuple(_look_elsewhere(store, model_version, limits))
    verdict = Verdict(model_version, binding_of(spec), findings, time.perf_counter() - started, store.now())
    payload: dict[str, Any] = {
        **verdict.binding,
        "passed": verdict.passed,
        "seconds": round(verdict.seconds, 2),
        "findings": [asdict(finding) for finding in findings],
    }
    store.ledger.append(PREFLIGHT, model_version, payload, actor="preflight")
    return verdict


def newest(store: Store, model_version: str) -> Verdict | None:
    """The newest verdict about exactly this spec on this machine with this code and lock file, or None."""
    wanted = binding_of(planned_spec(store, model_version))
    for line in reversed(store.ledger.lines(kind=PREFLIGHT, subject=model_version)):
        if {name: line.payload.get(name) for name in wanted} == wanted:
            findings = tuple(Finding(**found) for found in line.payload["findings"])
            return Verdict(model_version, wanted, findings, line.payload["seconds"], datetime.fromisoformat(line.at))
    return None


def ensure(store: Store, model_version: str) -> Verdict:
    """A verdict that passed and is fresh: the stored one, else one made now.

    Raises:
        PreflightError: it did not pass; every failed finding is named.
        UnknownModelError: it was never planned.
    """
    try:
        limits = _limits(store)
        found = newest(store, model_version)
        if found is None or not found.passed or not _fresh(found, store.now(), limits):
            found = judge(store, model_version)
    except PolicyError as error:
        raise PreflightError(f"{model_version} is not trained: {error}") from error
    _refuse(model_version, [finding for finding in found.findings if not finding.passed])
    return found


def demand(store: Store, model_version: str) -> None:
    """The worker's own look, however it was started: this machine has shown that it can, and what is cheap still holds.

    What was never shown is shown now. Its age does not count here: the caller's clock, which need not be the machine's,
    has judged it.

    Raises:
        PreflightError: the pre-flight of this spec, machine and code does not pass, or a finding fails now.
    """
    try:
        limits = _limits(store)
        found = newest(store, model_version)
        if found is None or not found.passed:
            found = judge(store, model_version)
    except PolicyError as error:
        raise PreflightError(f"{model_version} is not trained: {error}") from error
    spec = planned_spec(store, model_version)
    findings = [*found.findings, *check_data(store, spec), *check_machine(store, spec, limits)]
    _refuse(model_version, [finding for finding in findings if not finding.passed])


def look(store: Store, model_version: str) -> Iterator[Finding]:
    """Everything, cheapest first; the network is not tried on data that may not be used."""
    spec, limits = planned_spec(store, model_version), _limits(store)
    sound = True
    for finding in chain(check_data(store, spec), check_machine(store, spec, limits)):
        sound &= finding.passed
        yield finding
    if sound:
        yield from check_network(store, spec, limits)


def _refuse(model_version: str, failed: list[Finding]) -> None:
    if failed:
        why = "; ".join(f"{finding.name}: {finding.detail}" for finding in failed)
        raise PreflightError(f"{model_version} is not trained: {why}")


def _fresh(verdict: Verdict, now: datetime, limits: Preflight) -> bool:
    return timedelta(0) <= now - verdict.at <= timedelta(hours=limits.valid_hours)


def _look_elsewhere(store: Store, model_version: str, limits: Preflight) -> Iterator[Finding]:
    """Findings of the process, and one more if it ended otherwise than it should."""
    command = [sys.executable, "-m", "voice_pipeline.training.readiness", model_version]
    environment = {**os.environ, **home_environment(store.settings), "OMP_NUM_THREADS": "1"}  # a second thread waits
    with subprocess.Popen(
        command, env=environment, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            told, errors = process.communicate(timeout=limits.seconds)
            ended = "" if process.returncode == 0 else (errors.strip().splitlines() or [f"{process.returncode}"])[-1]
        except subprocess.TimeoutExpired:
            process.kill()
            told, errors = process.communicate()
            ended = f"not done after {limits.seconds:.0f} s; choose a smaller preset, or free this machine"
        except BaseException:
            process.kill()
            raise
    for line in told.splitlines(keepends=True):
        if line.startswith("{") and line.endswith("}\n"):  # else a library printed it, or a kill cut it off
            yield Finding(**json.loads(line))
    if ended:
        yield Finding("pre-flight", False, ended)


def home_environment(settings: Settings) -> dict[str, str]:
    """The variables by which a process of its own opens the same home under the same policy and as many processes."""
    return {
        "VOICE_PIPELINE_HOME": str(settings.root),
        "VOICE_PIPELINE_DATABASE_URL": settings.database_url,
        "VOICE_PIPELINE_VAULT_URL": settings.vault_url,
        "VOICE_PIPELINE_BLOB_URL": settings.blob_url,
        "VOICE_PIPELINE_POLICY_DIR": str(settings.policy_dir.resolve()),
        "VOICE_PIPELINE_TRAINING_PROCESSES": str(settings.training_processes),
    }


def planned_spec(store: Store, model_version: str) -> TrainingSpec:
    """The spec of a planned model. Raises `UnknownModelError`."""
    row = store.database.row(select(models.c.spec).where(models.c.model_version == model_version))
    if row is None:
        raise UnknownModelError(f"model {model_version} was never planned; materialise training_plan for it first")
    return TrainingSpec.model_validate(row["spec"])


def _limits(store: Store) -> Preflight:
    return load_policy(store.settings.policy_dir / "retrain.yaml", RetrainPolicy).preflight


def main(arguments: list[str]) -> int:
    """Exit code of the process: 0 everything was looked at, 1 it could not be, 2 called wrongly."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m voice_pipeline.training.readiness MODEL_VERSION\n")
        return 2
    try:
        for finding in look(Store.open(load_settings()), arguments[0]):
            sys.stdout.write(json.dumps(asdict(finding)) + "\n")
            sys.stdout.flush()
    except (TrainingError, StoreError, PolicyError, OSError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
