"""Geometry stays in full precision, also within mixed precision."""

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device_type: str) -> AbstractContextManager[object]:
    """Mixed precision off: half precision would move points by whole voxels and pixels.

    Args:
        device_type: Such as "cpu" or "cuda". The meta device has no such switch and needs none.
    """
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()
