"""Where dictations are turned into text: `policy/inference.yaml` applied to one device.

The file is read for every question. One that is not valid sends nobody's voice anywhere: flags tell an error, which
devices take for `local`, and the edge transcribes nothing until it is mended.
"""

from __future__ import annotations

from voice_pipeline.schema.inference import InferenceMode
from voice_pipeline.schema.inference_policy import InferencePolicy, inference_policy
from voice_pipeline.store.releases import live
from voice_pipeline.store.store import Store


class InferenceModes:
    """The policy of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def policy(self) -> InferencePolicy:
        """Raises:
        PolicyError: it is not valid.
        """
        return inference_policy(self._store.settings.policy_dir)

    def of(self, device_class: str, fits: bool) -> tuple[InferenceMode, str]:
        """Mode of a device and the OFREP reason.

        Args:
            device_class: as the device says; one that nobody knows gets the default.
            fits: whether some released model runs on the device's app.

        Raises:
            PolicyError: as `policy`.
        """
        policy = self.policy()
        if not policy.remote_allowed:
            return InferenceMode.LOCAL, "DISABLED"
        if not fits and policy.where_no_model_fits is not policy.default and live(self._store) is not None:
            return policy.where_no_model_fits, "TARGETING_MATCH"
        named = {one.value: mode for one, mode in policy.by_device_class.items()}
        if device_class in named:
            return named[device_class], "TARGETING_MATCH"
        return policy.default, "DEFAULT"
