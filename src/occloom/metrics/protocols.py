"""Scoring protocols: from one confusion matrix over a whole set to the numbers papers print.

A protocol is a record of the few choices in which evaluators differ; docs/metrics.md compares them. All scores are
fractions; papers print percent.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Int64
from torch import Tensor


@dataclass(frozen=True)
class OccupancyScores:
    """Scores of one confusion matrix, as fractions; NaN where a protocol leaves a score undefined."""

    iou: float
    """Of occupied against empty, whatever the class (geometric completion)."""
    precision: float
    """Of occupied against empty."""
    recall: float
    """Of occupied against empty."""
    miou: float
    """Mean over all classes but the empty one; those whose IoU is NaN are left out."""
    per_class: tuple[float, ...]
    """IoU of all K classes, the empty one included."""


@dataclass(frozen=True)
class ScoringProtocol:
    """How confusion counts become scores, and the words that say so."""

    name: str
    source: str
    """The evaluator whose numbers are reproduced."""
    labels: str
    """Card: which labels are compared, and where."""
    mask: str
    """Card: which voxels count."""
    averaged: str
    """Card: the classes mIoU averages."""
    absent: str
    """Card: what happens to a class in neither truth nor prediction."""
    undefined: str
    """Card: completion where nothing is occupied."""
    empty: int
    """Id of the empty class."""
    class_epsilon: float
    """Added to the denominator of each class's IoU; 0 leaves that of an absent class NaN."""
    completion_epsilon: float
    """Added to the denominators of precision and recall."""
    nothing_occupied: float
    """Completion IoU where neither truth nor prediction holds an occupied voxel."""
    mask_in_use: str = ""
    """The mask in two words, for the line of a score, where a benchmark has several."""

    @property
    def title(self) -> str:
        """The name, and the mask in use where there are several."""
        return f"{self.name}, {self.mask_in_use}" if self.mask_in_use else self.name

    def scores(self, counts: Int64[Tensor, "K K"]) -> OccupancyScores:
        """Score pooled counts.

        Args:
            counts: Rows truth, columns prediction, summed over all frames of the set.
        """
        counts = counts.cpu()
        hits = counts.diagonal()
        union = counts.sum(0) + counts.sum(1) - hits
        per_class = hits.double() / (union.double() + self.class_epsilon)
        averaged = torch.arange(len(counts)) != self.empty
        # Completion: an occupied voxel of the wrong class is a hit.
        both = int(counts[averaged][:, averaged].sum())
        true, predicted = int(counts[averaged].sum()), int(counts[:, averaged].sum())
        either = true + predicted - both
        return OccupancyScores(
            iou=both / either if either else self.nothing_occupied,
            precision=both / (predicted + self.completion_epsilon) if both else 0.0,
            recall=both / (true + self.completion_epsilon) if both else 0.0,
            miou=float(per_class[averaged].nanmean()),
            per_class=tuple(per_class.tolist()),
        )

    def choices(self) -> dict[str, str]:
        """The choices behind the numbers, by name."""
        return {
            "protocol": f"{self.name} ({self.source})",
            "labels": self.labels,
            "mask": self.mask,
            "averaged": self.averaged,
            "absent": self.absent,
            "undefined": self.undefined,
            "pooling": "one confusion matrix over all frames, not a mean of per-frame scores",
        }

    def card(self) -> str:
        """The choices as text, a line each."""
        return "\n".join(f"{name:<10} {text}" for name, text in self.choices().items())


SEMANTICKITTI = ScoringProtocol(
    name="semantickitti",
    source="evaluate_completion.py of semantic-kitti-api",
    labels="training ids 0..19 on the full 256x256x32 grid; raw 1, 52, 99 and ids unknown to the table are ignored",
    mask="voxels whose label is not ignored and whose .invalid bit is 0",
    averaged="all classes but empty (19), whether they occur or not",
    absent="scores 0 and still divides",
    undefined="completion IoU is NaN where neither truth nor prediction is occupied; precision and recall are 0",
    empty=0,
    class_epsilon=1e-15,
    completion_epsilon=float(torch.finfo(torch.float32).eps),
    nothing_occupied=math.nan,
)

MONOSCENE = ScoringProtocol(
    name="monoscene",
    source="SSCMetrics of MonoScene, also used by VoxFormer, MonoOcc and VoxDet",
    labels="training ids on the full 256x256x32 grid; ignored labels are 255 in the files of those projects",
    mask="voxels whose target is not 255: neither ignored nor .invalid",
    averaged="all classes but empty (19), whether they occur or not",
    absent="scores 0 and still divides",
    undefined="completion IoU, precision and recall are 0 where no occupied voxel is hit",
    empty=0,
    class_epsilon=1e-5,
    completion_epsilon=0.0,
    nothing_occupied=0.0,
)

SSCBENCH = replace(
    MONOSCENE,
    name="sscbench",
    source="SSCMetrics of SSCBench, the same class as MonoScene's",
    labels="training ids 0..18 of KITTI-360 on the full 256x256x32 grid; raw 1, 31, 32, 71, 253, 255 are ignored",
    mask="voxels whose target is not 255: neither ignored nor empty and .invalid; a labelled voxel counts even if "
    ".invalid",
    averaged="all classes but empty (18), whether they occur or not",
)

QUERIES = replace(
    MONOSCENE,
    name="queries",
    source="SSCMetrics of VoxFormer's query network, the same class as MonoScene's",
    labels="empty and occupied on 128x128x16 voxels of 0.4 m, reduced by MonoScene's rule",
    averaged="occupied alone, so that mIoU is its IoU",
)

OCC3D = ScoringProtocol(
    name="occ3d",
    source="Metric_mIoU of the CVPR 2023 occupancy challenge; IoU, precision and recall from its histogram",
    labels="ids 0..17 of Occ3D-nuScenes, 17 = free, in the ego frame at LiDAR time; ids above 17 are ignored",
    mask="camera: voxels whose mask_camera is 1; scores without this mask are lower and do not compare",
    averaged="all classes but free (17) that occur in truth or prediction",
    absent="is left out of the mean; one that is only predicted scores 0",
    undefined="IoU is NaN where neither truth nor prediction is occupied; precision and recall are 0",
    empty=17,
    class_epsilon=0.0,
    completion_epsilon=0.0,
    nothing_occupied=math.nan,
    mask_in_use="camera mask",
)

OCC3D_LIDAR_MASK = replace(
    OCC3D,
    name="occ3d-lidar-mask",
    mask="lidar: voxels whose mask_lidar is 1; the benchmark's mask is the camera's",
    mask_in_use="LiDAR mask",
)

OCC3D_NO_MASK = replace(
    OCC3D,
    name="occ3d-no-mask",
    mask="none: all voxels; the benchmark's mask is the camera's",
    mask_in_use="no mask",
)

PICTURES = ScoringProtocol(
    name="pictures",
    source="semantic segmentation as Cityscapes scores it",
    labels="classes of pixels; a picture is a volume one voxel thick",
    mask="pixels that have a class in the 19 (or 124) of the label space, at the size the model sees",
    averaged="all classes but 0 (unlabelled) that occur in truth or prediction",
    absent="is left out of the mean; one that is only predicted scores 0",
    undefined="completion says nothing of pictures: every pixel that counts has a class",
    empty=0,
    class_epsilon=0.0,
    completion_epsilon=0.0,
    nothing_occupied=math.nan,
)

OCC3D_BY_MASK: dict[Literal["camera", "lidar", "none"], ScoringProtocol] = {
    "camera": OCC3D,
    "lidar": OCC3D_LIDAR_MASK,
    "none": OCC3D_NO_MASK,
}
"""By the mask that says which voxels count."""

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (SEMANTICKITTI, MONOSCENE, SSCBENCH, QUERIES, OCC3D, OCC3D_LIDAR_MASK, OCC3D_NO_MASK)
}
"""By the name that options know them by."""
