"""occloom: 3D semantic occupancy prediction.

The names below are all of the public interface that stands at the top; they are imported when first used, so that
`import occloom` and `occloom --help` do not wait for PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from occloom.errors import InputError
    from occloom.grid import LabelSpace, VoxelGrid
    from occloom.inference import load_model
    from occloom.interfaces import Needs, OccupancyModel
    from occloom.scene import Cameras, Points, Sample, Scene, Target, collate, scene_from_image

__all__ = [
    "Cameras",
    "InputError",
    "LabelSpace",
    "Needs",
    "OccupancyModel",
    "Points",
    "Sample",
    "Scene",
    "Target",
    "VoxelGrid",
    "collate",
    "load_model",
    "scene_from_image",
]

_HOMES = {
    "occloom.errors": ("InputError",),
    "occloom.grid": ("LabelSpace", "VoxelGrid"),
    "occloom.inference": ("load_model",),
    "occloom.interfaces": ("Needs", "OccupancyModel"),
    "occloom.scene": ("Cameras", "Points", "Sample", "Scene", "Target", "collate", "scene_from_image"),
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home when it is first asked for."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'occloom' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return __all__
