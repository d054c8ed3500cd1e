"""Draw what ProtoOcc makes of pictures: `draw_prototypes_figure.py RUN BASELINE ROOT VERSION SCENE OUT [N]`.

RUN is of ProtoOcc, BASELINE of PanoOcc; the first keyframe of a scene is drawn, or its N-th. Of each camera, left to
right: the picture with the borders of its superpixels, the clusters of its features (a cell has the mean colour of
those that resemble the same prototype most), where the queries of the last layer look in ProtoOcc and in PanoOcc (the
paper's Fig. 4). A second picture, OUT with "-voxels", shows the volumes of both from above (Fig. 5): the three
directions in which their features differ most, as red, green and blue; x is up, y is left, as from behind the car.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from occloom.data.mask_cache import MaskPicture
from occloom.data.mask_sources import SeedsMasks
from occloom.data.occ3d import CAMERAS, Occ3dConfig
from occloom.inference import load_model, load_recipe
from occloom.lifting.cross_attention import AttentionMaps, DeformableCrossAttention
from occloom.models.panoocc import PanoOcc
from occloom.models.protoocc import PrototypeRecord, Prototypes
from occloom.models.protoocc_optimisation import pixel_features
from occloom.models.view_layers import Pictures, ViewLayer
from occloom.scene import Scene, collate

WIDTH = 400
"""Of a panel, in pixels."""
CELL = 12
"""Pixels along an edge of a column of queries."""
SUPERPIXELS = 350
"""Asked for, of a picture of 1600x900."""


def main(run: Path, baseline: Path, root: Path, version: str, scene: str, out: Path, number: int) -> None:
    """Draw a keyframe of a scene that needs no labels."""
    ours, plain = load_model(run), load_model(baseline)
    assert isinstance(ours, PanoOcc), "RUN is of ProtoOcc"
    assert isinstance(plain, PanoOcc), "BASELINE is of PanoOcc"
    data = load_recipe(run).data
    assert isinstance(data, Occ3dConfig), "RUN reads surround pictures"
    samples = replace(data, root=root, version=version, test=(scene,), masks=None).build("test", ours.needs)
    sample = collate([samples.sample(number)])
    with torch.inference_mode():
        (pictures, prototypes, looks, volume), (_, _, plain_looks, plain_volume) = (
            look(model, sample.scene) for model in (ours, plain)
        )
    assert prototypes is not None, "RUN has a mapping"
    rows = []
    for camera, picture in enumerate(samples.prior_pictures(number)):
        if picture is None:
            continue
        where = MaskPicture(root, sample.tokens[0], CAMERAS[camera], picture.path)
        features = pictures.levels[prototypes.level][0, camera]
        photo = np.asarray(Image.open(picture.path).convert("RGB"))
        panels = [outlined(photo, SeedsMasks(SUPERPIXELS).masks(where))]
        small = shown(sample.scene, camera)
        panels.append(clustered(small, features, prototypes.features.unflatten(0, (1, -1))[0, camera]))
        panels += [overlaid(small, each[camera]) for each in (looks, plain_looks)]
        rows.append(np.concatenate([resized(panel, photo.shape) for panel in panels], axis=1))
    Image.fromarray(np.concatenate(rows)).save(out)
    gap = np.full((plain_volume.shape[2] * CELL, CELL, 3), 255, np.uint8)
    above = [from_above(each[0]) for each in (volume, plain_volume)]
    Image.fromarray(np.concatenate([above[0], gap, above[1]], axis=1)).save(out.with_stem(f"{out.stem}-voxels"))
    print(f"{sample.tokens[0]}: {out}")


def look(model: PanoOcc, scene: Scene) -> tuple[Pictures, Prototypes | None, Tensor, Tensor]:
    """The maps, the prototypes if there are any, how much each cell is looked at "N h w", and the volume of a frame."""
    last = model.view_transformation.layers[-1]
    assert isinstance(last, ViewLayer), "layers of attention"
    attention, asked = last.cross_attention, []
    assert isinstance(attention, DeformableCrossAttention), "PanoOcc's, or ProtoOcc's"
    hook = attention.register_forward_pre_hook(lambda _, inputs: asked.append(inputs))
    encoded = model.encode(scene, 0)
    hook.remove()
    queries, references, pictures, prototypes = asked[0]
    if isinstance(encoded.record, PrototypeRecord):
        maps = encoded.record.maps
    else:
        _, maps = attention.with_maps(queries, references, pictures.values)
    return pictures, prototypes, saliency(maps, pictures), encoded.volume


def saliency(maps: AttentionMaps, pictures: Pictures) -> Tensor:
    """How much the cells of the finest level are looked at through all levels, 1 for a picture's most: "N h w"."""
    (cameras, _, *size), nothing = pictures.levels[0].shape[1:], maps.weights.new_zeros(len(maps.query), 1)
    # Locations are fractions of the picture, so the points of all levels count alike on the finest.
    joined = replace(
        maps, locations=maps.locations.flatten(2, 3)[:, :, None], weights=maps.weights.flatten(2, 3)[:, :, None]
    )
    return pixel_features(joined, nothing, level=0, cameras=cameras, images=cameras, size=(size[0], size[1])).saliency


def shown(scene: Scene, camera: int) -> np.ndarray:
    """The picture that the model sees."""
    assert scene.images is not None
    return (255 * scene.images[0, 0, camera].movedim(0, -1)).byte().numpy()


def outlined(photo: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """A picture with the borders of its superpixels in yellow."""
    border = np.zeros(masks.shape, bool)
    border[1:] |= masks[1:] != masks[:-1]
    border[:, 1:] |= masks[:, 1:] != masks[:, :-1]
    border[2:] |= border[:-2]
    border[:, 2:] |= border[:, :-2]
    return np.where(border[..., None], np.array((255, 230, 0), np.uint8), photo)


def clustered(picture: np.ndarray, features: Tensor, prototypes: Tensor) -> np.ndarray:
    """Each cell in the mean colour of the cells that resemble the same prototype most."""
    height, width = features.shape[1:]
    cosines = F.normalize(features.flatten(1).T, dim=-1) @ F.normalize(prototypes, dim=-1).T
    cells = cosines.argmax(dim=1).numpy()
    colours = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX)).reshape(-1, 3)
    means = np.stack([np.bincount(cells, colours[:, i], len(prototypes)) for i in range(3)], axis=-1)
    means /= np.bincount(cells, minlength=len(prototypes)).clip(min=1)[:, None]
    return means[cells].reshape(height, width, 3).astype(np.uint8)


def overlaid(picture: np.ndarray, weights: Tensor) -> np.ndarray:
    """A darkened picture, red where the queries look most."""
    height, width = picture.shape[:2]
    heat = F.interpolate(weights[None, None], size=(height, width), mode="bilinear")[0, 0].sqrt().numpy()[..., None]
    return (0.5 * picture * (1 - heat) + np.array((255, 60, 0)) * heat).astype(np.uint8)


def resized(panel: np.ndarray, like: tuple[int, ...]) -> np.ndarray:
    """A panel of the width and shape of all."""
    size = (WIDTH, round(WIDTH * like[0] / like[1]))
    nearest = panel.shape[1] < 0.5 * WIDTH
    return np.asarray(Image.fromarray(panel).resize(size, Image.Resampling.NEAREST if nearest else None))


def from_above(volume: Tensor) -> np.ndarray:
    """A volume "C X Y Z", mean over height, the three main directions of its features as colours."""
    columns = volume.mean(dim=-1)
    rows = columns.flatten(1).T - columns.flatten(1).mean(dim=1)
    main = rows @ torch.linalg.svd(rows, full_matrices=False).Vh[:3].T
    low, high = main.quantile(0.02, dim=0), main.quantile(0.98, dim=0)
    shades = ((main - low) / (high - low)).clamp(0, 1).view(*columns.shape[1:], 3)
    return np.kron((255 * shades).byte().numpy()[::-1, ::-1], np.ones((CELL, CELL, 1), np.uint8))


if __name__ == "__main__":
    one, two, place, tables, name, to, *rest = sys.argv[1:]
    main(Path(one), Path(two), Path(place), tables, name, Path(to), int(rest[0]) if rest else 0)
