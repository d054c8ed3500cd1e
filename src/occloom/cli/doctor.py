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
    print(f"{'data':<18} {root if root.is_dir() else f'not found at {root}: name a folder by --data'}")
    for folder in sorted(path for path in root.glob("*") if path.is_dir()):
        print(f"{'':<18} {_describe(folder)}")
    print(f"{'town':<18} {_describe(Path('town'))}")


def _version(distribution: str) -> str:
    """The installed version, or what to do."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        if distribution == "embreex" and (platform.system(), platform.machine()) == ("Linux", "aarch64"):
            return "none for Linux on Arm: towns cannot be made here, the demo uses shipped frames"
        return f"MISSING: pip install {distribution}"


def _gpu() -> str:
    """Names of the GPUs PyTorch can use."""
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(names) or "none that PyTorch can use"


def _describe(folder: Path) -> str:
    """What lies in a data set's folder, counted where it has the KITTI layout."""
    if not folder.is_dir():
        return f"not found at {folder}"
    sequences = [path for path in (folder / "sequences").glob("*") if path.is_dir()]
    labelled = sum(1 for _ in folder.glob("sequences/*/voxels/*.label"))
    return f"{folder}: {len(sequences)} sequences, {labelled} labelled frames" if sequences else str(folder)
