"""The line above a picture: a frame's name and its own scores."""

from jaxtyping import Int64
from torch import Tensor

from occloom.metrics.protocols import ScoringProtocol


def frame_title(name: str, counts: Int64[Tensor, "K K"], protocol: ScoringProtocol) -> str:
    """The frame's name and its own IoU and mIoU, in percent.

    A benchmark pools frames and counts absent classes as 0; for one frame the mean is taken over the classes that occur
    in prediction or truth.

    Args:
        name: Of the frame.
        counts: Of this frame alone, rows truth, columns prediction.
        protocol: How counts become the IoU of a class.
    """
    scores = protocol.scores(counts)
    occurs = (counts.sum(0) + counts.sum(1)) > 0
    present = [iou for index, iou in enumerate(scores.per_class) if occurs[index] and index != protocol.empty]
    miou = sum(present) / max(len(present), 1)
    mask = f", {protocol.mask_in_use}" if protocol.mask_in_use else ""
    return f"{name}    IoU {100 * scores.iou:.1f}    mIoU {100 * miou:.1f} over {len(present)} classes present{mask}"
