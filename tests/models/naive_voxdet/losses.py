"""Losses and labels, 255 = ignored."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def run_lengths(labels: Tensor) -> Tensor:
    """Voxels to the end of the run of equal labels, itself included: B 6 X Y Z, x+, x-, y+, y-, z+, z-."""
    lengths = torch.ones(labels.shape[0], 6, *labels.shape[1:], dtype=torch.int64)
    for axis in range(3):
        n = labels.shape[axis + 1]
        along = labels.movedim(axis + 1, 0)
        forward, backward = (lengths[:, 2 * axis + k].movedim(axis + 1, 0) for k in (0, 1))
        for i in range(n - 2, -1, -1):
            forward[i] = torch.where(along[i] == along[i + 1], forward[i + 1] + 1, 1)
        for i in range(1, n):
            backward[i] = torch.where(along[i] == along[i - 1], backward[i - 1] + 1, 1)
    return lengths


def refined(labels: Tensor, lengths: Tensor, *, class_id: int = 1, longest: int = 30) -> Tensor:
    """Labels with overlong runs of a class ignored."""
    out = labels.clone()
    for axis in range(3):
        length = lengths[:, 2 * axis] + lengths[:, 2 * axis + 1]
        out[(labels == class_id) & (length > longest)] = 255
    return out


def cross_entropy(logits: Tensor, labels: Tensor, frequencies: list[float]) -> Tensor:
    """Weighted by 1 / ln(frequency + 0.001), mean over what is not ignored."""
    weights = torch.tensor([1 / math.log(f + 0.001) for f in frequencies])
    return F.cross_entropy(logits, labels, weight=weights, ignore_index=255)


def affinity_losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Semantic and geometric, class 0 being empty."""
    counts = labels != 255
    probability = logits.softmax(1).movedim(1, -1)[counts]
    truth = labels[counts]
    per_class = []
    for k in range(logits.shape[1]):
        true = (truth == k).float()
        if true.sum() == 0:
            continue
        p = probability[:, k]
        hit = (p * true).sum()
        loss = -torch.log(hit / p.sum()) - torch.log(hit / true.sum())
        if (1 - true).sum() > 0:
            loss = loss - torch.log(((1 - p) * (1 - true)).sum() / (1 - true).sum())
        per_class.append(loss)
    p, true = 1 - probability[:, 0], (truth != 0).float()
    hit = (p * true).sum()
    geometric = -torch.log(hit / (p.sum() + 1e-5)) - torch.log(hit / (true.sum() + 1e-5))
    geometric = geometric - torch.log(((1 - p) * (1 - true)).sum() / ((1 - true).sum() + 1e-5))
    return torch.stack(per_class).mean(), geometric


def regression_loss(predicted: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
    """As released: every voxel of the offset field counts, over twice the number of those not ignored.

    `predicted` is B 6 at half the volume's resolution; every n-th voxel of the labels (B X Y Z), the first included, is
    its target. `lengths` come from the labels before refinement.
    """
    step = labels.shape[1] // predicted.shape[2]
    target = lengths.float()
    for axis in range(3):
        target[:, 2 * axis : 2 * axis + 2] /= labels.shape[axis + 1]
    target = target[:, :, ::step, ::step, ::step]
    valid = (labels[:, ::step, ::step, ::step] != 255).sum()
    return (predicted - target).abs().sum() / (2 * valid)
