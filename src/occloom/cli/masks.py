"""`occloom prepare masks`: segments of the pictures, which ProtoOcc's prototypes are told apart by in training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt16

from occloom.cache import CacheOrigin, create_cache
from occloom.data.depth_cache import frames_to_prepare
from occloom.data.mask_cache import MaskPicture, MaskSource, fill_mask_cache, numbered
from occloom.data.mask_sources import SeedsMasks
from occloom.data.nuscenes_files import read_tables, scene_names
from occloom.data.occ3d import CAMERAS, mask_pictures
from occloom.data.sam_masks import SamConfig, SamMasks
from occloom.engine.logs import progress_bar
from occloom.errors import InputError
from occloom.town.exact_segments import exact_segments

SourceName = Literal["seeds", "sam", "town-exact"]


@dataclass(frozen=True)
class TownMasks:
    """The town's exact segments: a thing each, and what is no thing as one a class; the sky is none."""

    @property
    def origin(self) -> CacheOrigin:
        """No settings: the pictures are the town's own."""
        return CacheOrigin(source="town-exact", settings={}, code_version=1)

    def masks(self, picture: MaskPicture) -> UInt16[np.ndarray, "H W"]:
        """The segments of a picture."""
        return numbered(exact_segments(picture.root, picture.path))


def masks(
    *,
    root: Path,
    source: SourceName,
    out: Path | None = None,
    scenes: tuple[str, ...] = (),
    superpixels: int = 350,
    weights: Path | None = None,
    points: int = 32,
    version: str = "v1.0-trainval",
) -> None:
    """Prepare pseudo masks of pictures, one 16-bit PNG a picture; an interrupted run goes on.

    Of nuScenes' layout all cameras' keyframes are prepared, of SemanticKITTI's the frames of image_2 with voxels.

    Args:
        root: Folder of nuScenes or SemanticKITTI, or of a town in either layout.
        source: `seeds` makes superpixels, `sam` runs Segment Anything, `town-exact` casts the town's rays again.
        out: Folder to write; <root>/masks/<source> unless given.
        scenes: Names such as scene-0061, or sequences such as 00; all that are there unless given.
        superpixels: With `seeds`: how many are asked for; 350 gives 299 on nuScenes' pictures.
        weights: With `sam`: folder of the model as `transformers` keeps it, such as a copy of facebook/sam-vit-huge.
        points: With `sam`: prompts along each side of a picture.
        version: Name of the tables' folder of nuScenes' layout.
    """
    maker = _source(source, superpixels, weights, points)
    pictures = _surround_pictures(root, version, scenes) if (root / version).is_dir() else _front_pictures(root, scenes)
    folder = out or root / "masks" / source
    cache = create_cache(folder, maker.origin)
    with progress_bar() as bar:
        task = bar.add_task("masks", total=len(pictures))
        for _ in fill_mask_cache(cache, maker, pictures):
            bar.advance(task)
    print(f"Masks of {len(pictures)} pictures lie in {folder}")


def _surround_pictures(root: Path, version: str, scenes: tuple[str, ...]) -> list[MaskPicture]:
    """All pictures of the keyframes of some scenes that are there."""
    names = scene_names(root, version)
    for scene in scenes:
        if scene not in names:
            raise InputError(f"no scene {scene}", where=root / version, rule="scene.json lists them")
    tables = read_tables(root, version, scenes=scenes or names, channels=CAMERAS)
    keyframes = [keyframe for scene in tables.scenes.values() for keyframe in scene]
    found = [picture for keyframe in keyframes for picture in mask_pictures(root, keyframe, CAMERAS) if picture]
    if not found:
        raise InputError("no picture to prepare", where=root / "samples", remedy="complete the download")
    return found


def _front_pictures(root: Path, sequences: tuple[str, ...]) -> list[MaskPicture]:
    """The left pictures of the frames of some sequences that have voxels."""
    frames = frames_to_prepare(root, sequences, "voxels")
    return [MaskPicture(root, frame.token, frame.left.parent.name, frame.left) for frame in frames]


def _source(name: SourceName, superpixels: int, weights: Path | None, points: int) -> MaskSource:
    """The source of a name."""
    if name == "seeds":
        return SeedsMasks(superpixels)
    if name == "town-exact":
        return TownMasks()
    if weights is None:
        raise InputError(
            "--source sam needs --weights",
            rule="it names the folder of a Segment Anything model",
            remedy="download https://huggingface.co/facebook/sam-vit-huge (config.json and model.safetensors)",
        )
    return SamMasks(SamConfig(weights, points=points))
