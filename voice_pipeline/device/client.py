"""The life of a device: ask which model to run, fetch it, verify it, swap to it, recognise, report.

Promises: nothing is run that `load_bundle` has not verified in this process; whatever fails on the way, a full disk
included, the device keeps the model it has; if that one no longer verifies it takes the other slot's, then the one
that came with the app; nothing that was said goes to the edge unless the person allowed it; what the device reports
waits in the outbox until the edge has it.

Needs onnxruntime, tuf with securesystemslib[crypto], httpx, numpy and pydantic, and nothing else of this project's
dependencies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from voice_pipeline.device.assignment import AssignmentFile, DeviceAssignment
from voice_pipeline.device.clock import Clock
from voice_pipeline.device.dictation import Dictation, first_answer, locally, order, remotely
from voice_pipeline.device.errors import DeviceError, NoModelError, StorageError, UpdateRefusedError
from voice_pipeline.device.files import sweep
from voice_pipeline.device.flags import ask_flags
from voice_pipeline.device.outbox import LIMITS, Kind, Letter, Outbox
from voice_pipeline.device.recogniser import DeviceRecogniser, load_bundle
from voice_pipeline.device.remote import transcribe_remotely
from voice_pipeline.device.sending import Delivery, deliver_captures, deliver_telemetry
from voice_pipeline.device.shipped import ShippedBundles, copy_bundle
from voice_pipeline.device.slots import InstalledBundle, Slots
from voice_pipeline.device.updater import BundleUpdater
from voice_pipeline.schema.clip import CaptureEvent, DeviceContext
from voice_pipeline.schema.inference import InferenceMode
from voice_pipeline.schema.telemetry import TelemetryEvent
from voice_pipeline.speech.errors import EmptyAudioError
from voice_pipeline.trust import TrustError

if TYPE_CHECKING:
    import httpx
    import numpy as np
    from numpy.typing import NDArray


UNUSABLE = (TrustError, DeviceError, OSError)
"""Why an installed bundle may not run: it does not verify, or cannot be read."""


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
        shipped: folder of bundles that came with the app (`device.shipped`), if any did.
        remote_allowed: whether the person agreed, under the notice of `device.remote`, to be transcribed by the edge;
            the attribute of that name may change at any time and counts from the next dictation on.
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
        shipped: Path | None = None,
        remote_allowed: bool = False,
    ) -> None:
        self.device_id = device_id
        self.context = context
        self.remote_allowed = remote_allowed
        sweep(home)
        self.slots = Slots(home / "slots")
        self.outbox = Outbox(home / "outbox.db")
        self._lease = AssignmentFile(home / "assignment.json")
        self._updater = BundleUpdater(home, edge_url, http, trusted_root, clock)
        self._shipped = ShippedBundles(shipped)
        self._edge_url = edge_url.rstrip("/")
        self._http = http
        self._clock = clock
        self._recogniser: DeviceRecogniser | None = None
        self._shadow: DeviceRecogniser | None = None

    # --- what to run --------------------------------------------------------------------------------------------------

    def poll(self) -> DeviceAssignment:
        """Ask the edge what to do and keep the answer as a lease.

        Raises:
            EdgeUnavailableError: no usable answer; the lease in force stays.
            StorageError: the answer cannot be kept; the lease in force stays.
        """
        with _storage("the time"):
            self._updater.look_at_the_clock()
        flags = ask_flags(self._http, self._edge_url, self.device_id, self.context, self._lease.latest())
        with _storage("its assignment"):
            self._lease.keep(flags, self._clock.now())
        return flags.assignment

    def assignment(self) -> DeviceAssignment | None:
        """What is in force now, lapsed leases considered; None if the edge was never reached."""
        flags = self._lease.effective(self._clock.now())
        return flags.assignment if flags else None

    def mode(self) -> InferenceMode:
        """Where the edge wants dictations to be turned into text, by the lease in force; `local` without one."""
        flags = self._lease.effective(self._clock.now())
        return flags.mode if flags else InferenceMode.LOCAL

    # --- getting it ---------------------------------------------------------------------------------------------------

    def update(self) -> Update:
        """Bring the slots to what the assignment says: the model active, a shadow in the other slot.

        A model that is installed already, or came with the app, is verified and swapped to without a download.

        Raises:
            UpdateRefusedError: something on offer did not verify; the device runs on as before.
            UpdateUnavailableError: it could not be fetched; the device runs on as before.
            StorageError: it could not be written; the device runs on as before.
            IncompatibleBundleError, GoldenMismatchError: it is not for this app or this device.
        """
        wanted = self.assignment()
        if wanted is None or wanted.model_version is None:
            self._shadow = None
            return Update(self._active_version(), None, activated=False, downloaded=())
        downloaded: list[str] = []
        with _storage(f"model {wanted.model_version}"):
            activated = self._activate(wanted.model_version, wanted.bundle_digest, downloaded)
            self._shadow = self._obtain_shadow(wanted, downloaded)
        shadow = wanted.shadow_model_version
        return Update(wanted.model_version, shadow, activated, tuple(downloaded))

    def _activate(self, model_version: str, bundle_digest: str | None, downloaded: list[str]) -> bool:
        """Run that model from now on; False where it is the active one already."""
        loaded = self._recogniser is not None and _is(self._recogniser, model_version, bundle_digest)
        if loaded and self._active_version() == model_version:
            return False
        bundle, recogniser = self._obtain(model_version, bundle_digest, downloaded)
        swapped = bundle != self.slots.active()
        if swapped:
            self.slots.activate(bundle)
        self._recogniser = recogniser
        return swapped

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
        """The verified bundle from a slot, or into the idle slot from the app or the repository."""
        installed = self.slots.installed(model_version)
        if installed is not None:
            try:
                return installed, self._load(installed.folder, bundle_digest)
            except (TrustError, OSError):
                pass  # damaged on this disk, or another bundle of that name: take it anew
        shipped = self._shipped.find(model_version)
        if shipped is not None:
            try:
                return self._install(shipped, bundle_digest)
            except TrustError:
                pass  # not the one that is meant, or it cannot be read: fetch it
        with self.slots.staging() as staging:
            folder = self._updater.fetch(model_version, staging)
            try:
                recogniser = self._load(folder, bundle_digest)
            except TrustError as error:
                raise UpdateRefusedError(f"{error}; keeping the installed model") from error
            downloaded.append(model_version)
            return self.slots.install(staging), recogniser

    def _install(
        self, shipped: InstalledBundle, bundle_digest: str | None = None
    ) -> tuple[InstalledBundle, DeviceRecogniser]:
        """Copy a bundle that came with the app into the idle slot; the copy is what is verified."""
        with self.slots.staging() as staging:
            recogniser = self._load(copy_bundle(shipped, staging), bundle_digest)
            return self.slots.install(staging), recogniser

    def _load(self, folder: Path, bundle_digest: str | None = None) -> DeviceRecogniser:
        return load_bundle(folder, self._updater.signing_key(), bundle_digest, self.context.app_version)

    def _active_version(self) -> str | None:
        active = self.slots.active()
        return active.model_version if active else None

    # --- using it -----------------------------------------------------------------------------------------------------

    @property
    def recogniser(self) -> DeviceRecogniser:
        """The model in use: the active slot's; if that no longer verifies, the other slot's; then the app's own.

        Raises:
            NoModelError: none of them verifies.
        """
        if self._recogniser is None:
            problems: list[str] = []
            found = self._from_slots(problems) or self._from_the_app(problems)
            if found is None:
                why = "; ".join(problems) or "nothing is installed"
                raise NoModelError(f"device {self.device_id} has no model to run ({why}); poll and update")
            self._recogniser = found
        return self._recogniser

    def _from_slots(self, problems: list[str]) -> DeviceRecogniser | None:
        for bundle in (self.slots.active(), self.slots.standby()):
            try:
                if bundle is not None:
                    return self._load(bundle.folder)
            except UNUSABLE as error:
                problems.append(str(error))
        return None

    def _from_the_app(self, problems: list[str]) -> DeviceRecogniser | None:
        """Install what came with the app; run it where it lies if there is no room for a copy."""
        for shipped in self._shipped.all():
            try:
                with _storage(f"model {shipped.model_version}"):
                    bundle, recogniser = self._install(shipped)
                    self.slots.activate(bundle)
                    return recogniser
            except UNUSABLE as error:
                problems.append(str(error))
            try:
                return self._load(shipped.folder)
            except UNUSABLE as error:
                problems.append(str(error))
        return None

    @property
    def shadow(self) -> DeviceRecogniser | None:
        """The model that is to be run silently beside the live one, if any."""
        return self._shadow

    def transcribe(self, samples: NDArray[np.float32]) -> Dictation:
        """Turn float32 mono samples in [-1, 1] at 16 kHz into text, here or at the edge (`device.dictation`).

        Raises:
            NoModelError: nobody who may be asked could answer; says why of each.
            EmptyAudioError: no samples.
        """
        if samples.size == 0:
            raise EmptyAudioError("recording has no samples; nothing to transcribe")
        ways = {
            InferenceMode.LOCAL: lambda: locally(self.recogniser, samples),
            InferenceMode.REMOTE: lambda: remotely(lambda: transcribe_remotely(self._http, self._edge_url, samples)),
        }
        return first_answer(self.device_id, [ways[one] for one in order(self.mode(), self.remote_allowed)])

    # --- telling ------------------------------------------------------------------------------------------------------

    def report(self, events: Iterable[TelemetryEvent]) -> bool:
        """Keep telemetry for the edge; on disk when this returns True. False: the disk is full, they count as lost."""
        return self.outbox.add("telemetry", [Letter(event.event_id, event.model_dump_json()) for event in events])

    def offer(self, event: CaptureEvent, audio: bytes) -> bool:
        """Keep a consented clip for the edge; on disk when this returns True. False: the disk is full, it is lost.

        `event.posteriors` are `speech.confidence.scalars` of the answer, so that triage comes to the same confidence.
        """
        return self.outbox.add("capture", [Letter(event.event_id, event.model_dump_json(), audio)])

    def flush(self) -> Delivery:
        """Send what waits; what the edge does not acknowledge goes on waiting.

        Raises:
            EdgeUnavailableError: the edge did not answer; nothing is lost.
        """
        telemetry = deliver_telemetry(self.outbox, self._http, self._edge_url)
        return telemetry + deliver_captures(self.outbox, self._http, self._edge_url)

    def waiting(self) -> dict[Kind, int]:
        """How many reports and clips the edge has not acknowledged yet."""
        return {kind: self.outbox.waiting(kind) for kind in LIMITS}

    def lost(self) -> dict[Kind, int]:
        """How many reports and clips were dropped unsent on this device: the oldest beyond what the outbox keeps, those
        that the edge refused for good, those that a full disk cost since the start.
        """
        return {kind: self.outbox.lost(kind) for kind in LIMITS}

    def close(self) -> None:
        self.outbox.close()


def _is(recogniser: DeviceRecogniser, model_version: str, bundle_digest: str | None) -> bool:
    return recogniser.model_version == model_version and bundle_digest in (None, recogniser.bundle_digest)


@contextmanager
def _storage(what: str) -> Iterator[None]:
    """A disk that is full or fails is a device's error, with a line of its own."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{what} cannot be written ({error.strerror or error}); the device goes on as before"
        ) from error
