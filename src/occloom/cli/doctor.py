"""`occloom doctor`: what is here and what is missing."""

import importlib.util
import os
import platform
from importlib import metadata
from pathlib import Path

import torch

from occloom.engine.provenance import commit, version
from occloom.inference import shipped_models

CORE = ("torch", "numpy", "pillow", "safetensors", "tyro", "rich", "jaxtyping", "lightning-fabric", "embreex")
EXTRAS = {
    "cv2": "stereo depth and superpixels: pip install occloom[stereo]",
    "tensorboard": "TensorBoard logs: pip install occloom[tensorboard]",
    "beartype": "shape checks in the tests: pip install occloom[dev]",
    "pytest": "the tests: pip install occloom[dev]",
}
DATA = ("semantickitti", "kitti", "nuscenes", "town")


def doctor(*, data: Path | None = None) -> None:
    """Check versions, hardware, extras and data.

    Args:
        data: Folder that holds data sets; OCCLOOM_REAL_DATA, else ../shared/data, unless given.
    """
    print(f"{'occloom':<18} {version()}, commit {commit()}")
    print(f"{'python':<18} {platform.python_version()} on {platform.platform()}")
    for name in CORE:
        print(f"{name:<18} {_version(name)}")
    threads = f"{torch.get_num_threads()} threads for PyTorch, {os.cpu_count()} cores"
    print(
        f"{'cpu':<18} {platform.machine()}, {threads}, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}"
    )
    print(f"{'gpu':<18} {_gpu()}")
    for module, purpose in EXTRAS.items():
        found = "found" if importlib.util.find_spec(module) else "missing"
        print(f"{module:<18} {found} ({purpose})")
    print(f"{'shipped models':<18} {', '.join(shipped_models()) or 'none'}")
    root = data or Path(os.environ.get("OCCLOOM_REAL_DATA", Path("..") / "shared" / "data"))
    for name in DATA:
        print(f"{'data: ' + name:<18} {_describe(root / name)}")
    for name in ("town",):
        print(f"{'here: ' + name:<18} {_describe(Path(name))}")


def _version(distribution: str) -> str:
    """The installed version, or what to do."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "MISSING: pip install occloom"


def _gpu() -> str:
    """Names of the GPUs PyTorch can use."""
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(names) or "none that PyTorch can use"


def _describe(folder: Path) -> str:
    """What lies in a folder of the KITTI layout."""
    if not folder.is_dir():
        return f"not found at {folder}"
    sequences = sorted(path.name for path in (folder / "sequences").glob("*") if path.is_dir())
    labelled = sum(1 for _ in folder.glob("sequences/*/voxels/*.label"))
    return f"{folder}: {len(sequences)} sequences, {labelled} labelled frames" if sequences else f"{folder}"
