"""Dictation by the edge, for a person who agreed to it under the notice that this app showed them.

The request carries the sound and the notice's version, no device id and no pseudonym. Nobody asks here before the
person agreed: `DeviceClient.remote_allowed` is what the app sets when they do, and takes back when they change their
mind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from voice_pipeline.device.errors import EdgeUnavailableError
from voice_pipeline.device.exchange import Deadline, post
from voice_pipeline.schema.inference import NOTICE_HEADER, Transcription
from voice_pipeline.speech.wav import write_wav

if TYPE_CHECKING:
    import httpx
    import numpy as np
    from numpy.typing import NDArray

NOTICE = "remote-1"
"""Version of the privacy notice on remote processing that ships with this client."""
REMOTE_SECONDS = 8.0
"""For one dictation: the longest clip (960 kB) is up in that time at 1 Mbit/s, and with the local model after it the
person has a text within the ten seconds for which attention lasts (Nielsen, Usability Engineering, 1993, ch. 5)."""


def transcribe_remotely(http: httpx.Client, edge_url: str, samples: NDArray[np.float32]) -> Transcription:
    """What the edge hears in float32 mono samples in [-1, 1] at 16 kHz.

    Raises:
        EdgeUnavailableError: it gave no usable answer: away, busy, slow, without a live model, or it does not take this
            clip or notice. The message holds nothing of what was said.
    """
    reply = post(
        http,
        Deadline(REMOTE_SECONDS),
        f"{edge_url}/v1/transcriptions",
        content=write_wav(samples),
        headers={"content-type": "audio/wav", NOTICE_HEADER: NOTICE},
    )
    if not reply.success:
        raise EdgeUnavailableError(f"edge does not transcribe: it answered {reply.status}")
    try:
        return Transcription.model_validate_json(reply.content)
    except ValueError:
        raise EdgeUnavailableError("edge does not transcribe: its answer is no transcription") from None
