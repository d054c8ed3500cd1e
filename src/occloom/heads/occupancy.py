"""Class scores of every voxel, at the volume's own resolution (reference drocc 2.4)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from occloom.ops.winograd_conv3d import Conv3x3x3


class OccupancyHead(nn.Module):
    """3x3x3 convolution and ReLU, then two linear layers with a softplus between them: the head of BEVDet4D-Occ."""

    def __init__(self, channels: int, num_classes: int, *, hidden: int = 64) -> None:
        """Make the head.

        Args:
            channels: Of the volume.
            num_classes: K.
            hidden: Features between the linear layers.
        """
        super().__init__()
        self.conv = Conv3x3x3(channels, channels, bias=True)
        self.hidden = nn.Linear(channels, hidden)
        self.classify = nn.Linear(hidden, num_classes)

    def forward(self, volume: Float[Tensor, "B C X Y Z"]) -> Float[Tensor, "B K X Y Z"]:
        """Logits of all classes, in float32 also within mixed precision: the loss sums over all voxels."""
        voxels = F.relu(self.conv(volume), inplace=True).permute(0, 2, 3, 4, 1)
        logits = self.classify(F.softplus(self.hidden(voxels)))
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).permute(0, 4, 1, 2, 3)
