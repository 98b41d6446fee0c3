"""Log-mel features computed inside the acoustic model, so that training and device cannot differ.

The windowed discrete Fourier transform is a 1-D convolution with fixed kernels: exact, exportable everywhere and an
order of magnitude faster in ONNX Runtime than its STFT operator. Mel scale after O'Shaughnessy (1987), triangular
filters of unit peak; per-utterance mean and variance normalisation of every bin (Viikki and Laurila, 1998).

Shapes: B batch, N samples, T frames (one every 10 ms, T = N // 160), M mel bins, K Fourier bins.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from voice_pipeline.speech.audio import SAMPLE_RATE, Samples

WINDOW = 400
HOP = 160
FFT = 512
LOW_HZ = 20.0
HIGH_HZ = 7600.0
POWER_FLOOR = 1e-6
DEVIATION_FLOOR = 1e-2

Warp = tuple[float, ...]
"""How the mel axis is warped: the k-th value, in mel, weighs sin(π k u) at the place u, 0 at its lower end and 1 at its
upper one. Empty leaves it straight.
"""


class LogMel(nn.Module):
    """Args:
    mels: number of mel bins M.
    """

    dft: Tensor
    mel: Tensor

    def __init__(self, mels: int = 80) -> None:
        super().__init__()
        window = np.hanning(WINDOW + 1)[:WINDOW]
        phase = 2 * np.pi * np.arange(FFT // 2 + 1)[:, None] * np.arange(WINDOW)[None, :] / FFT
        kernels = np.concatenate([np.cos(phase) * window, -np.sin(phase) * window])
        self.register_buffer("dft", torch.tensor(kernels[:, None, :], dtype=torch.float32), persistent=False)
        self.register_buffer("mel", torch.tensor(_mel_filters(mels, ())), persistent=False)

    def forward(self, waveform_BN: Tensor) -> Tensor:  # noqa: N803
        """Normalised log-mel features (B, T, M) of whole utterances: no padding behind the last sample."""
        padding = (WINDOW - HOP) // 2
        spectrum = nn.functional.conv1d(waveform_BN.unsqueeze(1), self.dft, stride=HOP, padding=padding)
        real, imaginary = spectrum.chunk(2, dim=1)
        power_BTM = (real * real + imaginary * imaginary).transpose(1, 2) @ self.mel  # noqa: N806
        return normalise(torch.log(power_BTM + POWER_FLOOR))


@lru_cache(maxsize=4)
def _tables(mels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Window (WINDOW,) and filters (K, M)."""
    return np.hanning(WINDOW + 1)[:WINDOW].astype(np.float32), _mel_filters(mels, ())


def mel_power(samples: Samples, mels: int, warp: Warp = (), hop: int = HOP) -> NDArray[np.float32]:
    """(T, M) mel power of one utterance in numpy: the trainer's path, which may warp the mel axis, and step by another
    `hop` (samples) so that the same sounds come at another tempo.

    `features(mel_power(x))` equals `LogMel.forward(x)` within 1e-3, which `test_network.py` holds it to. It uses no
    thread pool, which small arrays on a busy machine pay dearly for.
    """
    from scipy.fft import rfft

    window, filters = _tables(mels)
    if warp:
        filters = _mel_filters(mels, warp)
    padded = np.pad(samples, (WINDOW - hop) // 2)
    spectrum = rfft(np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::hop] * window, FFT, axis=1)
    power: NDArray[np.float32] = (np.square(spectrum.real) + np.square(spectrum.imag)) @ filters
    return power


def features(power_TM: NDArray[np.float32]) -> NDArray[np.float32]:  # noqa: N803
    """Normalised log-mel features (T, M) of one utterance's mel power, in numpy."""
    levels = np.log(power_TM + np.float32(POWER_FLOOR))
    levels -= levels.mean(axis=0)
    levels /= np.sqrt(np.square(levels).mean(axis=0) + np.float32(DEVIATION_FLOOR**2))
    return levels


def normalise(features_BTM: Tensor) -> Tensor:  # noqa: N803
    """Zero mean and unit variance over time, for each utterance and bin."""
    centred = features_BTM - features_BTM.mean(dim=1, keepdim=True)
    deviation = torch.sqrt((centred * centred).mean(dim=1, keepdim=True) + DEVIATION_FLOOR**2)
    return centred / deviation


def frames_of(samples: int, hop: int = HOP) -> int:
    """Frames T of `samples` samples."""
    return samples // hop


def _mel_filters(mels: int, warp: Warp) -> NDArray[np.float32]:
    """(K, M) triangular filters between LOW_HZ and HIGH_HZ, equally spaced in mel as `warp` leaves it."""

    def to_mel(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
        return 2595 * np.log10(1 + hertz / 700)

    low, high = to_mel(np.array([LOW_HZ, HIGH_HZ]))
    places = np.linspace(0, 1, mels + 2)
    warped = sum((weight * np.sin(np.pi * k * places) for k, weight in enumerate(warp, 1)), start=np.zeros_like(places))
    edges = 700 * (10 ** ((low + (high - low) * places + warped) / 2595) - 1)
    frequencies = np.fft.rfftfreq(FFT, 1 / SAMPLE_RATE)[:, None]
    rising = (frequencies - edges[:-2]) / np.maximum(edges[1:-1] - edges[:-2], SAMPLE_RATE / FFT)
    falling = (edges[2:] - frequencies) / np.maximum(edges[2:] - edges[1:-1], SAMPLE_RATE / FFT)
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
