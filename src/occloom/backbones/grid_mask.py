"""A lattice of squares that pictures lose in training (Chen et al., "GridMask Data Augmentation", 2020)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class GridMask(nn.Module):
    """Hides squares of all pictures alike, with period and place drawn anew for every call; nothing in evaluation."""

    def __init__(self, *, probability: float = 0.7, ratio: float = 0.5) -> None:
        """Make the mask; the defaults are PanoOcc's (reference protoocc 1.1).

        Args:
            probability: That a call hides anything.
            ratio: Of a period that stays, along each axis.
        """
        super().__init__()
        self.probability, self.ratio = probability, ratio

    def forward(self, images: Float[Tensor, "M 3 H W"], fill: Float[Tensor, "3 1 1"]) -> Float[Tensor, "M 3 H W"]:
        """The pictures with `fill` in the hidden squares; the period is 2 pixels to the height of the picture."""
        if not self.training or float(torch.rand(())) >= self.probability:
            return images
        height, width = images.shape[-2:]
        period = int(torch.randint(2, max(3, height), ()))
        hidden = period - min(max(round(period * self.ratio), 1), period - 1)
        shift = torch.randint(period, (2,)).tolist()
        rows, columns = (
            (torch.arange(n, device=images.device) + by) % period < hidden
            for n, by in zip((height, width), shift, strict=True)
        )
        return torch.where(rows[:, None] & columns, fill, images)
