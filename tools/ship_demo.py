"""Put what the demo needs into the package: `python tools/ship_demo.py TOWN UNSEEN_TOWN RUN...`.

Writes into src/occloom/weights, for each run, a folder named after its recipe with the averaged weights of its best
step; and `town`: the voxel prior of the training labels of TOWN, and all frames of a small unseen town for machines
that cannot cast rays.
"""

import sys
import zipfile
from dataclasses import replace
from pathlib import Path

from occloom.cli.demo import MODEL, SHIPPED_FRAMES, VOXEL_PRIOR
from occloom.data.semantickitti import SemanticKittiConfig
from occloom.engine.checkpoint import export, find
from occloom.inference import SHIPPED, load_recipe
from occloom.interfaces import Needs
from occloom.metrics.naive import fit_voxel_prior, save_voxel_prior
from occloom.recipes import resolve

FRAME_FILES = ("calib.txt", "poses.txt", "times.txt", "image_2/*", "image_3/*", "voxels/*")


def main(town: Path, unseen: Path, runs: list[Path]) -> None:
    """Export the best step of each run, fit the prior to the training split of `town`, pack frames of `unseen`."""
    for run in runs:
        name = load_recipe(run).name
        export(find(run), SHIPPED / name, base=resolve(name))
    data = resolve(MODEL).data
    assert isinstance(data, SemanticKittiConfig), "the shipped models read SemanticKITTI's layout"
    training = replace(data, root=town).build("train", Needs(images=False))
    save_voxel_prior(VOXEL_PRIOR, fit_voxel_prior(training))
    with zipfile.ZipFile(SHIPPED_FRAMES, "w", zipfile.ZIP_LZMA) as archive:
        for sequence in sorted((unseen / "sequences").iterdir()):
            for pattern in FRAME_FILES:
                for path in sorted(sequence.glob(pattern)):
                    archive.write(path, path.relative_to(unseen))


if __name__ == "__main__":
    town, unseen, *runs = (Path(argument) for argument in sys.argv[1:])
    main(town, unseen, runs)
