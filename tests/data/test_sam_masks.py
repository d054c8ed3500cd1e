"""Prompts, choice and suppression on a stand-in with known boxes, and the package's own model."""

import itertools
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from occloom.data.kitti_files import write_image
from occloom.data.mask_cache import UNCOVERED, MaskPicture
from occloom.data.sam_masks import (
    SamConfig,
    SamMasks,
    boxes_of,
    grid_points,
    painted,
    segments,
    steadiness,
    suppressed,
)
from occloom.errors import InputError

SIDE = 64
BOXES = [(2, 2, 60, 30), (10, 8, 26, 20), (12, 10, 18, 16)]
"""Left, top, right and bottom in a picture of 64x32 pixels: one within the other."""


class TinySam(nn.Module):
    """Answers a prompt with the three boxes, the smallest around it first; boxes without it are poor."""

    def __init__(self, vague: bool = False) -> None:
        super().__init__()
        self.bias, self.vague, self.asked = nn.Parameter(torch.zeros(1)), vague, 0
        self.config = types.SimpleNamespace(vision_config=types.SimpleNamespace(image_size=SIDE))

    def get_image_embeddings(self, pixels):
        assert pixels.shape == (1, 3, SIDE, SIDE)
        assert not pixels[:, :, 32:].any(), "zeros fill the square"
        return pixels[:, :1, ::16, ::16]

    def forward(self, image_embeddings, input_points, multimask_output):
        assert multimask_output
        assert image_embeddings.shape == (1, 1, 4, 4)
        points = input_points[0, :, 0]
        self.asked += len(points)
        y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
        inside = torch.stack([(x >= a) & (x < c) & (y >= b) & (y < d) for a, b, c, d in BOXES])
        logits = torch.where(inside, 8.0, -8.0)
        if self.vague:
            logits = logits / 16
        hit = torch.stack([inside[:, int(v), int(u)] for u, v in points])
        scores = torch.where(hit, torch.tensor([0.9, 0.93, 0.96]), 0.5)
        return types.SimpleNamespace(pred_masks=logits.expand(1, len(points), 3, SIDE, SIDE), iou_scores=scores[None])


def config_of(folder: Path, **changes) -> SamConfig:
    (folder / "model.safetensors").write_bytes(b"weights")
    return SamConfig(folder, **changes)


def test_small_boxes_lie_over_large_ones_and_the_rest_is_uncovered(tmp_path: Path):
    model = TinySam()
    masks = segments(model, torch.rand(3, 32, 64), config_of(tmp_path, points=8, chunk=5))
    assert model.asked == 64
    expected = np.full((32, 64), UNCOVERED)
    order = {0: 2, 1: 1, 2: 0}  # the best first: the scores of the stand-in
    for box, (left, top, right, bottom) in enumerate(BOXES):
        expected[top:bottom, left:right] = order[box]
    # Only the outlines are soft, where the model's map is brought to the picture's size.
    assert (masks == expected).mean() > 0.99
    assert set(np.unique(masks)) == {0, 1, 2, UNCOVERED}


def test_a_larger_picture_has_the_same_segments(tmp_path: Path):
    small = segments(TinySam(), torch.zeros(3, 32, 64), config_of(tmp_path, points=8))
    large = segments(TinySam(), torch.zeros(3, 96, 192), config_of(tmp_path, points=8))
    assert large.shape == (96, 192)
    assert (large[1::3, 1::3] == small).mean() > 0.97


def test_poor_and_vague_masks_are_dropped(tmp_path: Path):
    for model, changes in ((TinySam(), {"quality": 0.99}), (TinySam(vague=True), {})):
        masks = segments(model, torch.zeros(3, 32, 64), config_of(tmp_path, points=4, **changes))
        assert (masks == UNCOVERED).all()


def test_prompts_lie_in_the_middles_of_equal_parts():
    points = grid_points(4, (32, 64))
    assert points[:2].tolist() == [[8.0, 4.0], [24.0, 4.0]]
    assert points.mean(0).tolist() == [32.0, 16.0]


def naive_suppression(boxes, scores, overlap):
    """Non-maximum suppression by areas of pixels."""
    masks = torch.zeros(len(boxes), 20, 20, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    alive, kept = scores.argsort(descending=True).tolist(), []
    while alive:
        best, *rest = alive
        kept.append(best)
        alive = [o for o in rest if (masks[best] & masks[o]).sum() / (masks[best] | masks[o]).sum() <= overlap]
    return kept


def test_suppression_equals_the_naive_twin():
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(0, 12, (40, 2), generator=generator)
    boxes = torch.cat([corners, corners + torch.randint(3, 9, (40, 2), generator=generator)], dim=1).float()
    scores = torch.rand(40, generator=generator)
    kept = suppressed(boxes, scores, 0.39).tolist()
    assert kept == naive_suppression(boxes, scores, 0.39)
    assert 5 < len(kept) < 40
    assert suppressed(boxes[:0], scores[:0], 0.4).tolist() == []


def test_boxes_are_the_outermost_pixels():
    masks = torch.zeros(3, 9, 11, dtype=torch.bool)
    boxes = [(2, 1, 5, 8), (0, 0, 11, 9), (10, 8, 11, 9)]
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top, left:right] = mask[bottom - 1, left:right] = True
        mask[top:bottom, left] = mask[top:bottom, right - 1] = True
    assert boxes_of(masks).int().tolist() == [list(box) for box in boxes]


def test_a_pixel_is_of_the_smallest_mask_that_covers_it():
    masks = torch.rand(5, 6, 7, generator=torch.Generator().manual_seed(0)) < 0.4
    sizes, found = masks.flatten(1).sum(1), painted(masks)
    for row, column in itertools.product(range(6), range(7)):
        covering = masks[:, row, column].nonzero()[:, 0].tolist()
        assert found[row, column] == (min(covering, key=lambda s: (sizes[s], -s)) if covering else -1)


def test_steadiness_tells_sharp_outlines_from_vague_ones():
    sharp = torch.where(torch.arange(10) < 4, 9.0, -9.0).expand(3, 10)
    assert steadiness(sharp, 1.0) == 1
    assert steadiness(torch.linspace(-4, 4, 9)[None], 1.0) == pytest.approx(3 / 5)


def test_weights_and_package_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match="no weights of Segment Anything"):
        SamMasks(SamConfig(tmp_path))
    source = SamMasks(config_of(tmp_path))
    assert source.origin.key != SamMasks(config_of(tmp_path, points=16)).origin.key
    write_image(tmp_path / "one.png", np.zeros((32, 64, 3), np.uint8))
    picture = MaskPicture(tmp_path, "a/b", "c", tmp_path / "one.png")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match="needs the package transformers"):
        source.masks(picture)
    package = types.ModuleType("transformers")
    package.SamModel = types.SimpleNamespace(from_pretrained=lambda folder, local_files_only: TinySam())
    monkeypatch.setitem(sys.modules, "transformers", package)
    assert set(np.unique(source.masks(picture))) == {0, 1, 2, UNCOVERED}


def test_the_packages_own_model_answers(tmp_path: Path):
    """Random weights, all thresholds open: what is under test is the call and the shapes."""
    from transformers import SamConfig as ModelConfig  # slow to import
    from transformers import SamModel

    vision = {
        "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64,
        "patch_size": 16, "window_size": 2, "global_attn_indexes": [1], "mlp_dim": 16, "num_pos_feats": 8,
    }  # fmt: skip
    decoder = {"hidden_size": 16, "num_attention_heads": 2, "mlp_dim": 16, "iou_head_hidden_dim": 16}
    prompts = {"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
    torch.manual_seed(0)
    model = SamModel(ModelConfig(vision_config=vision, mask_decoder_config=decoder, prompt_encoder_config=prompts))
    model.save_pretrained(tmp_path)
    write_image(tmp_path / "one.png", np.random.default_rng(0).integers(0, 256, (48, 80, 3)).astype(np.uint8))
    source = SamMasks(SamConfig(tmp_path, points=3, quality=-100.0, stability=-1.0, chunk=4))
    masks = source.masks(MaskPicture(tmp_path, "a/b", "c", tmp_path / "one.png"))
    assert masks.shape == (48, 80)
    assert masks.dtype == np.uint16
