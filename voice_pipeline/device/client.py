"""The life of a device: ask which model to run, fetch it, verify it, swap to it, recognise, report.

Promises: nothing is run that `load_bundle` has not verified in this process; whatever fails on the way, the device
keeps the model it has; if that one no longer verifies it takes the other slot's; what it reports waits in the outbox
until the edge has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from voice_pipeline.device.assignment import AssignmentFile, DeviceAssignment, parse_flag
from voice_pipeline.device.clock import Clock
from voice_pipeline.device.errors import DeviceError, EdgeUnavailableError, NoModelError, UpdateRefusedError
from voice_pipeline.device.outbox import Letter, Outbox
from voice_pipeline.device.recogniser import DeviceRecogniser, load_bundle
from voice_pipeline.device.sending import Delivery, deliver_captures, deliver_telemetry
from voice_pipeline.device.slots import InstalledBundle, Slots
from voice_pipeline.device.updater import BundleUpdater
from voice_pipeline.schema.clip import CaptureEvent, DeviceContext
from voice_pipeline.schema.telemetry import TelemetryEvent
from voice_pipeline.trust import TrustError

if TYPE_CHECKING:
    import httpx
    import numpy as np
    from numpy.typing import NDArray

    from voice_pipeline.speech.recogniser import Recognition

FLAG = "dictation-model"


@dataclass(frozen=True)
class Update:
    """What an update did. `downloaded` names the model versions that were fetched."""

    model_version: str | None
    shadow_model_version: str | None
    activated: bool
    downloaded: tuple[str, ...]


class DeviceClient:
    """One device. One process at a time works on a `home`.

    Args:
        home: everything this device keeps.
        edge_url: where the edge answers, without a path.
        http: used for every request; its timeouts hold.
        device_id: targeting key of flags and id in telemetry.
        context: technical cohort; its `app_version` decides which bundles fit.
        trusted_root: bytes of the update repository's first root, shipped with the app.
        clock: judges leases and expiry.
    """

    def __init__(
        self,
        home: Path,
        edge_url: str,
        http: httpx.Client,
        device_id: str,
        context: DeviceContext,
        trusted_root: bytes,
        clock: Clock,
    ) -> None:
        self.device_id = device_id
        self.context = context
        self.slots = Slots(home / "slots")
        self.outbox = Outbox(home / "outbox.db")
        self._lease = AssignmentFile(home / "assignment.json")
        self._updater = BundleUpdater(home, edge_url, http, trusted_root, clock)
        self._edge_url = edge_url.rstrip("/")
        self._http = http
        self._clock = clock
        self._recogniser: DeviceRecogniser | None = None
        self._shadow: DeviceRecogniser | None = None

    # --- what to run --------------------------------------------------------------------------------------------------

    def poll(self) -> DeviceAssignment:
        """Ask the edge which model to run and keep the answer as a lease.

        Raises:
            EdgeUnavailableError: no usable answer; the lease in force stays.
        """
        import httpx

        context = {"targetingKey": self.device_id, **self.context.model_dump(mode="json")}
        try:
            response = self._http.post(f"{self._edge_url}/ofrep/v1/evaluate/flags/{FLAG}", json={"context": context})
            response.raise_for_status()
            assignment = parse_flag(response.content)
        except (httpx.HTTPError, ValueError) as error:
            raise EdgeUnavailableError(f"edge did not assign a model to {self.device_id}: {error}") from error
        self._lease.keep(assignment, self._clock.now())
        return assignment

    def assignment(self) -> DeviceAssignment | None:
        """What is in force now, lapsed leases considered; None if the edge was never reached."""
        return self._lease.effective(self._clock.now())

    # --- getting it ---------------------------------------------------------------------------------------------------

    def update(self) -> Update:
        """Bring the slots to what the assignment says: the model active, a shadow in the other slot.

        A model that is installed already is verified and swapped to without a download.

        Raises:
            UpdateRefusedError: something on offer did not verify; the device runs on as before.
            UpdateUnavailableError: it could not be fetched; the device runs on as before.
            IncompatibleBundleError, GoldenMismatchError: it is not for this app or this device.
        """
        wanted = self.assignment()
        if wanted is None or wanted.model_version is None:
            self._shadow = None
            return Update(self._active_version(), None, activated=False, downloaded=())
        downloaded: list[str] = []
        activated = False
        if self._recogniser is None or not _is(self._recogniser, wanted.model_version, wanted.bundle_digest):
            bundle, recogniser = self._obtain(wanted.model_version, wanted.bundle_digest, downloaded)
            if bundle != self.slots.active():
                self.slots.activate(bundle)
                activated = True
            self._recogniser = recogniser
        self._shadow = self._obtain_shadow(wanted, downloaded)
        shadow = wanted.shadow_model_version
        return Update(wanted.model_version, shadow, activated, tuple(downloaded))

    def _obtain_shadow(self, wanted: DeviceAssignment, downloaded: list[str]) -> DeviceRecogniser | None:
        version = wanted.shadow_model_version
        if version is None or version == wanted.model_version:
            return None
        if self._shadow is not None and _is(self._shadow, version, wanted.shadow_bundle_digest):
            return self._shadow
        return self._obtain(version, wanted.shadow_bundle_digest, downloaded)[1]

    def _obtain(
        self, model_version: str, bundle_digest: str | None, downloaded: list[str]
    ) -> tuple[InstalledBundle, DeviceRecogniser]:
        """The verified bundle from a slot, or from the repository into the idle slot."""
        installed = self.slots.installed(model_version)
        if installed is not None:
            try:
                return installed, self._load(installed.folder, bundle_digest)
            except TrustError:
                pass  # damaged on this disk, or another bundle of that name: fetch it again
        with self.slots.staging() as staging:
            folder = self._updater.fetch(model_version, staging)
            try:
                recogniser = self._load(folder, bundle_digest)
            except TrustError as error:
                raise UpdateRefusedError(f"{error}; keeping the installed model") from error
            downloaded.append(model_version)
            return self.slots.install(staging), recogniser

    def _load(self, folder: Path, bundle_digest: str | None = None) -> DeviceRecogniser:
        return load_bundle(folder, self._updater.signing_key(), bundle_digest, self.context.app_version)

    def _active_version(self) -> str | None:
        active = self.slots.active()
        return active.model_version if active else None

    # --- using it -----------------------------------------------------------------------------------------------------

    @property
    def recogniser(self) -> DeviceRecogniser:
        """The model in use: the active slot's, or the other one's if that no longer verifies.

        Raises:
            NoModelError: neither verifies.
        """
        if self._recogniser is None:
            problems = []
            for bundle in (self.slots.active(), self.slots.standby()):
                try:
                    if bundle is not None:
                        self._recogniser = self._load(bundle.folder)
                        return self._recogniser
                except (TrustError, DeviceError) as error:
                    problems.append(str(error))
            why = "; ".join(problems) or "nothing is installed"
            raise NoModelError(f"device {self.device_id} has no model to run ({why}); poll and update")
        return self._recogniser

    @property
    def shadow(self) -> DeviceRecogniser | None:
        """The model that is to be run silently beside the live one, if any."""
        return self._shadow

    def transcribe(self, samples: NDArray[np.float32]) -> Recognition:
        """Recognise float32 mono samples in [-1, 1] at 16 kHz. Raises `NoModelError`, `EmptyAudioError`."""
        return self.recogniser.transcribe(samples)

    # --- telling ------------------------------------------------------------------------------------------------------

    def report(self, events: Iterable[TelemetryEvent]) -> None:
        """Keep telemetry for the edge; on disk when this returns."""
        self.outbox.add("telemetry", [Letter(event.event_id, event.model_dump_json()) for event in events])

    def offer(self, event: CaptureEvent, audio: bytes) -> None:
        """Keep a consented clip for the edge; on disk when this returns.

        `event.posteriors` are `speech.confidence.scalars` of the answer, so that triage comes to the same confidence.
        """
        self.outbox.add("capture", [Letter(event.event_id, event.model_dump_json(), audio)])

    def flush(self) -> Delivery:
        """Send what waits; what the edge does not acknowledge goes on waiting.

        Raises:
            EdgeUnavailableError: the edge did not answer; nothing is lost.
        """
        telemetry = deliver_telemetry(self.outbox, self._http, self._edge_url)
        return telemetry + deliver_captures(self.outbox, self._http, self._edge_url)

    def close(self) -> None:
        self.outbox.close()


def _is(recogniser: DeviceRecogniser, model_version: str, bundle_digest: str | None) -> bool:
    return recogniser.model_version == model_version and bundle_digest in (None, recogniser.bundle_digest)
