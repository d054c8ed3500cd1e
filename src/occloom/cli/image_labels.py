"""`occloom prepare image-labels`: classes of pictures' pixels from labelled scans, computed once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from occloom.cache import Cache, create_cache
from occloom.cli.frame_picture import draw_labels
from occloom.data.depth_cache import frames_to_prepare
from occloom.data.image_label_cache import (
    fill_image_labels,
    image_label_entry,
    image_label_origin,
    load_image_labels,
)
from occloom.data.kitti_files import KittiFrame, read_image
from occloom.data.label_spaces import SEMANTIC_KITTI
from occloom.data.pictures import PictureFit
from occloom.engine.logs import progress_bar
from occloom.errors import InputError


def image_labels(
    *,
    root: Path,
    sweeps: tuple[int, ...] = (0,),
    cameras: tuple[Literal["image_2", "image_3"], ...] = ("image_2",),
    out: Path | None = None,
    sequences: tuple[str, ...] = (),
    pictures: bool = False,
) -> None:
    """Prepare the classes of pixels that labelled points fall on, one `.npz` a picture; an interrupted run goes on.

    Args:
        root: Folder that holds `sequences`, in SemanticKITTI's layout with point labels.
        sweeps: Scans to project into each picture, relative to it: 0 first, then others, as in 0 -1 -2 -3 -4. Those
            that are not there are left out, and of all but the present one points of moving things.
        cameras: Whose pictures.
        out: Folder to write; <root>/image_labels/sweeps-<their number> unless given.
        sequences: Names such as 00 08; all that are there unless given.
        pictures: Draw the labels on each picture too, into `pictures` beside the entries.
    """
    origin = image_label_origin(sweeps)
    if (root / "data_2d_raw").is_dir():
        raise InputError(
            "SSCBench-KITTI-360 has no point labels", where=root, rule="image labels are those of labelled scans"
        )
    found = [frame for frame in frames_to_prepare(root, sequences, "pictures") if isinstance(frame, KittiFrame)]
    frames = [frame for frame in found if frame.scan.is_file() and frame.file("labels", ".label").is_file()]
    frames = [frame for frame in frames if all(frame.file(camera, ".png").is_file() for camera in cameras)]
    if not frames:
        raise InputError(
            "no picture has a labelled scan",
            where=root / "sequences",
            rule="frames need files in velodyne and labels",
            remedy="complete the download, or choose other --sequences",
        )
    folder = out or root / "image_labels" / f"sweeps-{len(sweeps)}"
    cache = create_cache(folder, origin)
    with progress_bar() as bar:
        task = bar.add_task("image labels", total=len(frames))
        for frame in fill_image_labels(cache, frames, cameras, sweeps):
            if pictures:
                _draw(cache, frame, cameras)
            bar.advance(task)
    size = cache.path(image_label_entry(frames[-1], cameras[0])).stat().st_size
    print(f"Image labels of {len(frames)} frames, {size:,} bytes the last picture, lie in {folder}")


def _draw(cache: Cache, frame: KittiFrame, cameras: Sequence[str]) -> None:
    """Write a frame's pictures with their labels on them, as large as on disk."""
    for camera in cameras:
        picture = read_image(frame.file(camera, ".png"))
        size = (picture.shape[0], picture.shape[1])
        labels = load_image_labels(cache, frame, camera, PictureFit(source=size, target=size, how="resize"))
        path = cache.path(f"pictures/{frame.sequence}_{camera}_{frame.name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_labels(picture, labels.numpy(), SEMANTIC_KITTI).save(path)
