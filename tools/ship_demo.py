"""Put a trained run into the package: `python tools/ship_demo.py RUN TOWN UNSEEN_TOWN`.

Writes src/occloom/weights/baseline-town: the averaged weights with their recipe, the voxel prior of the same training
labels, and all frames of a small unseen town for machines that cannot cast rays.
"""

import sys
import zipfile
from dataclasses import replace
from pathlib import Path

from occloom.cli.demo import MODEL, SHIPPED_FRAMES
from occloom.data.semantickitti import SemanticKittiConfig
from occloom.engine.checkpoint import export, find
from occloom.inference import SHIPPED
from occloom.interfaces import Needs
from occloom.metrics.naive import fit_voxel_prior, save_voxel_prior
from occloom.recipes import resolve

FRAME_FILES = ("calib.txt", "poses.txt", "times.txt", "image_2/*", "image_3/*", "voxels/*")


def main(run: Path, town: Path, unseen: Path) -> None:
    """Export the best step of `run`, fit the prior to the training split of `town`, pack frames of `unseen`."""
    recipe = resolve(MODEL)
    assert isinstance(recipe.data, SemanticKittiConfig), "the shipped model reads SemanticKITTI's layout"
    export(find(run), SHIPPED / MODEL, base=recipe)
    training = replace(recipe.data, root=town).build("train", Needs(images=False))
    save_voxel_prior(SHIPPED / MODEL / "voxel_prior.npz", fit_voxel_prior(training))
    with zipfile.ZipFile(SHIPPED_FRAMES, "w", zipfile.ZIP_LZMA) as archive:
        for sequence in sorted((unseen / "sequences").iterdir()):
            for pattern in FRAME_FILES:
                for path in sorted(sequence.glob(pattern)):
                    archive.write(path, path.relative_to(unseen))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]))
