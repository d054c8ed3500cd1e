"""Batch normalisation that keeps what its weights came with: for trunks fitted to one picture at a time."""

from torch import nn


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Normalises by its own averages, also in training; its scales and shifts are not trained (mmdetection's habit)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> "FrozenBatchNorm2d":  # noqa: ARG002
        """Stay in evaluation mode."""
        return super().train(False)
