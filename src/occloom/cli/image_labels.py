"""`occloom prepare image-labels`: classes of pictures' pixels from labelled scans, computed once."""

from pathlib import Path
from typing import Literal

from occloom.cache import create_cache
from occloom.data.depth_cache import frames_to_prepare
from occloom.data.image_label_cache import fill_image_labels, image_label_entry, image_label_origin
from occloom.data.kitti_files import KittiFrame
from occloom.engine.logs import progress_bar
from occloom.errors import InputError


def image_labels(
    *,
    root: Path,
    sweeps: tuple[int, ...] = (0,),
    cameras: tuple[Literal["image_2", "image_3"], ...] = ("image_2",),
    out: Path | None = None,
    sequences: tuple[str, ...] = (),
) -> None:
    """Prepare the classes of pixels that labelled points fall on, one `.npz` a picture; an interrupted run goes on.

    Args:
        root: Folder that holds `sequences`, in SemanticKITTI's layout with point labels.
        sweeps: Scans to project into each picture, relative to it: 0 first, then others, as in 0 -1 -2 -3 -4. Those
            that are not there are left out, and of all but the present one points of moving things.
        cameras: Whose pictures.
        out: Folder to write; <root>/image_labels/sweeps-<their number> unless given.
        sequences: Names such as 00 08; all that are there unless given.
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
        for _ in fill_image_labels(cache, frames, cameras, sweeps):
            bar.advance(task)
    size = cache.path(image_label_entry(frames[-1], cameras[0])).stat().st_size
    print(f"Image labels of {len(frames)} frames, {size:,} bytes the last picture, lie in {folder}")
