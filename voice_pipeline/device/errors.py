"""Errors of the device. Each says what happened, to which model, and what the device does now."""

from __future__ import annotations


class DeviceError(Exception):
    """Any failure on a device."""


class UpdateRefusedError(DeviceError):
    """What the repository offered did not verify. The device keeps the model it runs."""


class UpdateUnavailableError(DeviceError):
    """The repository cannot be reached, or does not offer that model. The device keeps the model it runs."""


class IncompatibleBundleError(DeviceError):
    """The bundle needs a newer app than the one installed."""


class GoldenMismatchError(DeviceError):
    """On this device the model does not compute what it computed when it was packaged."""


class StorageError(DeviceError):
    """The device's disk is full or fails. What was installed and what waits is as it was."""


class NoModelError(DeviceError):
    """No installed model verifies; the device has nothing to recognise with until its next update."""


class EdgeUnavailableError(DeviceError):
    """The edge did not answer, or not with anything usable. What waits in the outbox stays there."""
