"""Draw what Dr.Occ's mask does, seen from above: `python tools/draw_mask_figure.py RUN ROOT OUT [TOKEN]`.

After the paper's Fig. 5a, left to right: the occupancy mask (the more layers of a column, the brighter), the size of
the features before and after the refinement (mean over height), and the highest class that counts of each column. x is
up, y is left, as from behind the car.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from occloom.inference import load_model, load_recipe
from occloom.models.drocc_bevdet4d import DrOcc
from occloom.scene import collate
from occloom.viewer.cubes import display_colours

CELL = 6
"""Pixels along an edge of a column."""


def main(run: Path, root: Path, out: Path, token: str | None) -> None:
    """Draw a frame of the validation split, its first unless one is named."""
    model = load_model(run)
    assert isinstance(model, DrOcc), "only Dr.Occ on BEVDet4D has such a mask"
    samples = replace(load_recipe(run).data, root=root).build("val", model.needs)
    sample = collate([samples.sample(0 if token is None else samples.tokens.index(token))])
    volumes: list[Tensor] = []
    model.refinement.register_forward_hook(lambda _, inputs, output: volumes.extend((inputs[1], output)))
    with torch.inference_mode():
        model(sample.scene)
        mask = model.refinement.mask(sample.scene)[0].float().mean(-1)
    before, after = (volume[0].norm(dim=0).mean(-1) for volume in volumes)
    panels = [grey(mask), grey(before), grey(after)]
    if sample.target is not None:
        empty, colours = samples.label_space.empty, display_colours(samples.label_space)
        labels = torch.where(sample.target.observed, sample.target.labels, empty)[0].numpy()
        filled = labels != empty
        highest = labels.shape[2] - 1 - filled[..., ::-1].argmax(-1)
        top = np.take_along_axis(labels, highest[..., None], -1)[..., 0]
        panels.append(np.where(filled.any(-1)[..., None], colours[top], np.uint8(255)))
    gap = np.full((panels[-1].shape[0] * CELL, CELL, 3), 255, np.uint8)
    strips = [strip for panel in panels for strip in (from_behind(panel), gap)][:-1]
    Image.fromarray(np.concatenate(strips, axis=1)).save(out)
    print(f"{sample.tokens[0]}: {out}")


def grey(values: Tensor) -> np.ndarray:
    """Shades from the least value to the largest."""
    low, high = values.min(), values.max()
    shade = (255 * (values - low) / (high - low).clamp(min=1e-9)).byte().numpy()
    return np.repeat(shade[..., None], 3, axis=-1)


def from_behind(panel: np.ndarray) -> np.ndarray:
    """An x y picture with x up and y left, enlarged."""
    return np.kron(panel[::-1, ::-1], np.ones((CELL, CELL, 1), np.uint8))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), sys.argv[4] if len(sys.argv) > 4 else None)
