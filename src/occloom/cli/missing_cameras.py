"""What a command says of frames in which some cameras have no picture."""

from collections import Counter
from collections.abc import Mapping

from occloom.data.occ3d import Occ3d
from occloom.interfaces import SceneDataset


def incomplete_frames(samples: SceneDataset) -> Mapping[str, tuple[str, ...]]:
    """Cameras without a present picture, by the frame's token; other layouts than nuScenes' tell none."""
    return samples.incomplete if isinstance(samples, Occ3d) else {}


def missing_cameras(samples: SceneDataset) -> list[str]:
    """One line that counts the frames that cameras are missing in, where there are any."""
    frames = incomplete_frames(samples)
    if not frames:
        return []
    counts = Counter(channel for channels in frames.values() for channel in channels)
    parts = ", ".join(f"{channel} in {number}" for channel, number in counts.items())
    return [f"no picture of {parts} of {len(samples)} frames: the model ran with the cameras that are there"]
