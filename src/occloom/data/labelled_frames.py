"""Voxel labels of any benchmark, without pictures, tables or splits: what statistics are made of."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from occloom.data.kitti360 import Kitti360Config
from occloom.data.occ3d_files import Mask, read_labels
from occloom.data.occ3d_labels import OCC3D, OCC3D_GRID
from occloom.data.sample_parts import target_of
from occloom.data.semantickitti import SemanticKittiConfig
from occloom.errors import InputError
from occloom.grid import LabelSpace, VoxelGrid
from occloom.interfaces import Needs
from occloom.scene import Target


@runtime_checkable
class LabelledFrames(Protocol):
    """Frames whose truth can be had without their pictures."""

    grid: VoxelGrid
    label_space: LabelSpace

    def __len__(self) -> int:
        """Number of frames."""
        ...

    def target(self, index: int) -> Target | None:
        """What is true of a frame; None where the files hold no labels."""
        ...


class Occ3dFrames:
    """The `labels.npz` of Occ3D below `gts`, in the order of their names; scenes need no table."""

    def __init__(self, root: Path, scenes: tuple[str, ...], mask: Mask) -> None:
        """List the files.

        Args:
            root: Holds `gts`.
            scenes: Folders below `gts`; none means all.
            mask: Which voxels count.

        Raises:
            InputError: If a scene has no labels.
        """
        self.grid, self.label_space = OCC3D_GRID, OCC3D
        self._mask: Mask = mask
        self._paths: list[Path] = []
        for folder in [root / "gts" / scene for scene in scenes] or [root / "gts"]:
            found = sorted(folder.rglob("labels.npz"))
            if not found:
                raise InputError(
                    "no labels.npz below",
                    where=folder,
                    rule="Occ3D's labels lie in gts/SCENE/SAMPLE_TOKEN/labels.npz",
                    remedy="check --root, or name scenes that are there",
                )
            self._paths += found

    def __len__(self) -> int:
        """Number of label files."""
        return len(self._paths)

    def target(self, index: int) -> Target:
        """The labels of a file.

        Raises:
            InputError: If it is damaged.
        """
        labels = read_labels(self._paths[index]).counted(self._mask)
        return target_of(labels, self.label_space, scale=1, reduction="majority")


def labelled_frames(root: Path, parts: tuple[str, ...], mask: Mask) -> LabelledFrames:
    """All labels below a folder, in whichever layout it has.

    Args:
        root: Holds `gts` (Occ3D-nuScenes), `data_2d_raw` (SSCBench-KITTI-360) or `sequences` (SemanticKITTI).
        parts: Scenes, drives or sequences; none means all that are there.
        mask: Which voxels of Occ3D count; the other layouts have one mask of their own.

    Raises:
        InputError: If the folder has none of the layouts, or a part is not there.
    """
    if (root / "gts").is_dir():
        return Occ3dFrames(root, parts, mask)
    needs = Needs(images=False)
    if (root / "data_2d_raw").is_dir():
        drives = parts or _with_voxels(root / "data_2d_raw")
        return Kitti360Config(root=root, test=drives).build("test", needs)
    if (root / "sequences").is_dir():
        sequences = parts or _with_voxels(root / "sequences")
        return SemanticKittiConfig(root=root, test=sequences).build("test", needs)
    raise InputError(
        "no layout that is known",
        where=root,
        rule="root holds gts (Occ3D), data_2d_raw (KITTI-360) or sequences (SemanticKITTI)",
        remedy="check --root",
    )


def _with_voxels(folder: Path) -> tuple[str, ...]:
    """Names of the sequences in a folder that have voxels, or accumulated ones.

    Raises:
        InputError: If there is none.
    """
    names = tuple(sorted({path.parent.name for path in folder.glob("*/voxels*")}))
    if not names:
        raise InputError("no sequence has voxels", where=folder, rule="labels lie in SEQUENCE/voxels")
    return names
