"""Log-mel features computed inside the acoustic model, so that training and device cannot differ.

The windowed discrete Fourier transform is a 1-D convolution with fixed kernels: exact, exportable everywhere and an
order of magnitude faster in ONNX Runtime than its STFT operator. Mel scale after O'Shaughnessy (1987), triangular
filters of unit peak; per-utterance mean and variance normalisation of every bin (Viikki and Laurila, 1998).

Shapes: B batch, N samples, T frames (one every 10 ms, T = N // 160), M mel bins, K Fourier bins.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from voice_pipeline.speech.audio import SAMPLE_RATE

WINDOW = 400
HOP = 160
FFT = 512
LOW_HZ = 20.0
HIGH_HZ = 7600.0
POWER_FLOOR = 1e-6
DEVIATION_FLOOR = 1e-2


class LogMel(nn.Module):
    """Args:
    mels: number of mel bins M.
    """

    dft: Tensor
    window: Tensor
    mel: Tensor

    def __init__(self, mels: int = 80) -> None:
        super().__init__()
        window = np.hanning(WINDOW + 1)[:WINDOW]
        phase = 2 * np.pi * np.arange(FFT // 2 + 1)[:, None] * np.arange(WINDOW)[None, :] / FFT
        kernels = np.concatenate([np.cos(phase) * window, -np.sin(phase) * window])
        self.register_buffer("dft", torch.tensor(kernels[:, None, :], dtype=torch.float32), persistent=False)
        self.register_buffer("window", torch.tensor(window, dtype=torch.float32), persistent=False)
        self.register_buffer("mel", torch.tensor(_mel_filters(mels), dtype=torch.float32), persistent=False)

    def forward(self, waveform_BN: Tensor) -> Tensor:  # noqa: N803
        """Normalised log-mel features (B, T, M) of whole utterances: no padding behind the last sample."""
        padding = (WINDOW - HOP) // 2
        spectrum = nn.functional.conv1d(waveform_BN.unsqueeze(1), self.dft, stride=HOP, padding=padding)
        real, imaginary = spectrum.chunk(2, dim=1)
        return normalise(self._log_mel((real * real + imaginary * imaginary).transpose(1, 2)))

    def fast(self, waveform_N: Tensor) -> Tensor:  # noqa: N803
        """What `forward` gives for one utterance, (T, M), by fast Fourier transform: the trainer's path.

        Equal to `forward` within 1e-3 (the test of this promise is `test_frontend.py`).
        """
        padding = (WINDOW - HOP) // 2
        frames = nn.functional.pad(waveform_N, (padding, padding)).unfold(0, WINDOW, HOP) * self.window
        spectrum = torch.view_as_real(torch.fft.rfft(frames, n=FFT)).square().sum(-1)
        return normalise(self._log_mel(spectrum).unsqueeze(0)).squeeze(0)

    def _log_mel(self, power: Tensor) -> Tensor:
        """(…, K) power → (…, M) log mel energies."""
        return torch.log(power @ self.mel + POWER_FLOOR)


def normalise(features_BTM: Tensor) -> Tensor:  # noqa: N803
    """Zero mean and unit variance over time, for each utterance and bin."""
    centred = features_BTM - features_BTM.mean(dim=1, keepdim=True)
    deviation = torch.sqrt((centred * centred).mean(dim=1, keepdim=True) + DEVIATION_FLOOR**2)
    return centred / deviation


def frames_of(samples: int) -> int:
    """Frames T of `samples` samples."""
    return samples // HOP


def _mel_filters(mels: int) -> NDArray[np.float64]:
    """(K, M) triangular filters, equally spaced in mel between LOW_HZ and HIGH_HZ."""

    def to_mel(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
        return 2595 * np.log10(1 + hertz / 700)

    low, high = to_mel(np.array([LOW_HZ, HIGH_HZ]))
    edges = 700 * (10 ** (np.linspace(low, high, mels + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(FFT, 1 / SAMPLE_RATE)[:, None]
    rising = (frequencies - edges[:-2]) / np.maximum(edges[1:-1] - edges[:-2], SAMPLE_RATE / FFT)
    falling = (edges[2:] - frequencies) / np.maximum(edges[2:] - edges[1:-1], SAMPLE_RATE / FFT)
    return np.maximum(0, np.minimum(rising, falling))
