"""`occloom prepare depth-prior`: what a depth model says of nuScenes' pictures, computed once."""

from pathlib import Path
from typing import Literal

from occloom.cache import create_cache
from occloom.data.depth_noise import NoiseConfig
from occloom.data.kitti_files import read_image_size
from occloom.data.moge_prior import WEIGHTS_REMEDY, MogeConfig, MogePrior
from occloom.data.nuscenes_files import read_tables, scene_names
from occloom.data.occ3d import CAMERAS
from occloom.data.prior_cache import fill_prior_cache, prior_entry, prior_origin, usual_size
from occloom.data.prior_sources import FilePrior, LidarPrior, PriorPicture, PriorSource, TownPrior, keyframe_pictures
from occloom.engine.logs import progress_bar
from occloom.errors import InputError

SourceName = Literal["moge", "town-exact", "lidar", "file"]
USUAL_NOISE = NoiseConfig()


def depth_prior(
    *,
    root: Path,
    source: SourceName,
    version: str = "v1.0-trainval",
    out: Path | None = None,
    scenes: tuple[str, ...] = (),
    size: tuple[int, int] | None = None,
    weights: Path | None = None,
    tokens: int = 1200,
    features: bool = False,
    files: Path | None = None,
    noise: NoiseConfig = USUAL_NOISE,
) -> None:
    """Prepare depth priors of the keyframes' pictures as float16, one `.npz` a picture; an interrupted run goes on.

    Args:
        root: Folder of nuScenes, or of a town in its layout.
        source: `moge` runs MoGe-2, `town-exact` makes the town's exact depth wrong by --noise, `lidar` projects the
            keyframe's sweep, `file` checks and takes over what another program wrote.
        version: Name of the tables' folder.
        out: Folder to write; <root>/prior/<source> unless given.
        scenes: Names such as scene-0061; all of the tables unless given.
        size: Height and width of the depth to keep; the pictures', divided so that at most 225 rows remain, unless
            given.
        weights: With `moge`: the published model.pt.
        tokens: With `moge`: patches it sees of a picture, 1200 to 3600.
        features: With `moge`: keep its encoder's features too, five times the size of the depth.
        files: With `file`: the folder that holds SCENE/SAMPLE_TOKEN/CAMERA.npy.
        noise: With `town-exact`: how wrong.
    """
    maker = _source(source, weights, tokens, features, files, noise)
    pictures = _pictures(root, version, scenes)
    kept = size or usual_size(read_image_size(pictures[0].path))
    if min(kept) < 1:
        raise InputError(f"--size is {kept[0]} {kept[1]}", rule="height and width are at least 1")
    folder = out or root / "prior" / source
    cache = create_cache(folder, prior_origin(maker, kept))
    with progress_bar() as bar:
        task = bar.add_task("depth priors", total=len(pictures))
        for _ in fill_prior_cache(cache, maker, pictures, kept):
            bar.advance(task)
    size_of_one = cache.path(prior_entry(pictures[0])).stat().st_size
    print(f"Depth priors of {len(pictures)} pictures, {size_of_one:,} bytes each, lie in {folder}")


def _pictures(root: Path, version: str, scenes: tuple[str, ...]) -> list[PriorPicture]:
    """All pictures of the keyframes of some scenes that are there."""
    names = scene_names(root, version)
    for scene in scenes:
        if scene not in names:
            raise InputError(f"no scene {scene}", where=root / version, rule="scene.json lists them")
    tables = read_tables(root, version, scenes=scenes or names, channels=CAMERAS)
    keyframes = [keyframe for scene in tables.scenes.values() for keyframe in scene]
    found = [picture for keyframe in keyframes for picture in keyframe_pictures(root, keyframe, CAMERAS) if picture]
    if not found:
        raise InputError("no picture to prepare", where=root / "samples", remedy="complete the download")
    return found


def _source(
    name: SourceName, weights: Path | None, tokens: int, features: bool, files: Path | None, noise: NoiseConfig
) -> PriorSource:
    """The source of a name."""
    if name == "lidar":
        return LidarPrior()
    if name == "town-exact":
        return TownPrior(noise)
    if name == "moge":
        if weights is None:
            raise InputError("--source moge needs --weights", rule="it names MoGe-2's file", remedy=WEIGHTS_REMEDY)
        return MogePrior(MogeConfig(weights, tokens=tokens, features=features))
    if files is None:
        raise InputError("--source file needs --files", rule="it names the folder that holds SCENE/TOKEN/CAMERA.npy")
    return FilePrior(files)
