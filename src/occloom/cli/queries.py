"""`occloom prepare pseudo-voxels` and `occloom prepare queries`: where VoxFormer's kind of lifting begins."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from occloom.cache import Setting, create_cache
from occloom.cli.arguments import require_at_least
from occloom.data.depth_cache import frames_to_prepare, open_depth_cache, require_prepared
from occloom.data.kitti_files import KittiFrame
from occloom.data.packed_volumes import PSEUDO_VOXELS, QUERIES, open_volumes
from occloom.data.pseudo_voxels import SCANS, PseudoVoxels, fill_pseudo_voxels
from occloom.data.queries import QueryMaker, RawQueries, fill_queries, queries_origin
from occloom.engine.logs import progress_bar
from occloom.errors import InputError
from occloom.inference import load_model
from occloom.models.lmscnet import LmscNet


def pseudo_voxels(
    *,
    root: Path,
    depth: Path = Path("stereo-sgbm"),
    scans: int = SCANS,
    out: Path | None = None,
    sequences: tuple[str, ...] = (),
    workers: int = 2,
) -> None:
    """Prepare the voxels in which depth of the present and of earlier scans lies, one bit each; resumes.

    Args:
        root: Folder that holds `sequences`, in SemanticKITTI's layout.
        depth: Prepared depth: a name under <root>/depth, or a folder that holds `sequences`.
        scans: The present scan and those before it; of these, scans without prepared depth are left out.
        out: Folder to write; <root>/pseudo_voxels/<name of the depth> unless given.
        sequences: Names such as 00 08; all that are there unless given.
        workers: Processes.
    """
    require_at_least("workers", workers, 1)
    require_at_least("scans", scans, 1)
    frames = _kitti_frames(root, sequences)
    depth_folder = root / "depth" / depth if len(depth.parts) == 1 else depth
    depth_cache = open_depth_cache(depth_folder)
    if depth_cache is not None:
        first = {frame.sequence: frame for frame in reversed(frames)}
        require_prepared(depth_cache, frames, list(first.values()))
    source = PseudoVoxels(root, depth_folder, scans)
    folder = out or root / PSEUDO_VOXELS.folder / depth_folder.name
    cache = create_cache(folder, source.origin)
    with progress_bar() as bar:
        task = bar.add_task("pseudo voxels", total=len(frames))
        for _ in fill_pseudo_voxels(cache, source, frames, workers=workers):
            bar.advance(task)
    print(f"Pseudo voxels of {len(frames)} frames lie in {folder}")


def queries(
    *,
    root: Path,
    pseudo_voxels: Path = Path("stereo-sgbm"),
    network: Path | None = None,
    out: Path | None = None,
    sequences: tuple[str, ...] = (),
) -> None:
    """Prepare queries of pseudo voxels, raw or corrected by a network, one bit each; resumes.

    Args:
        root: Folder of the data.
        pseudo_voxels: Prepared ones: a name under <root>/pseudo_voxels, or a folder, also of VoxFormer's authors.
        network: Run or checkpoint of a query network (`occloom train voxformer-queries-...`, or `occloom convert`);
            without one, the coarse voxels that hold a pseudo voxel are the queries.
        out: Folder to write; <root>/queries/raw-<name> or corrected-<name> unless given, <name> being that of the
            pseudo voxels.
        sequences: Names such as 00 08; all that have pseudo voxels unless given.
    """
    maker: QueryMaker = RawQueries() if network is None else _network(network)
    pseudo = open_volumes(PSEUDO_VOXELS, root, pseudo_voxels)
    frames = pseudo.frames(root, sequences)
    pseudo.require(frames)
    folder = out or root / QUERIES.folder / f"{maker.name}-{pseudo.folder.name}"
    cache = create_cache(folder, queries_origin(root, pseudo, maker))
    with progress_bar() as bar:
        task = bar.add_task("queries", total=len(frames))
        for _ in fill_queries(cache, pseudo, maker, frames):
            bar.advance(task)
    print(f"Queries of {len(frames)} frames lie in {folder}")


@dataclass(frozen=True)
class CorrectedQueries:
    """What a query network takes for occupied: where its logit of occupied is the larger one."""

    network: LmscNet
    """In evaluation mode."""

    name = "corrected"

    @property
    def settings(self) -> dict[str, Setting]:
        """The contents of the weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return {"weights": digest.hexdigest()}

    @torch.no_grad()
    def queries(self, pseudo_voxels: Bool[Tensor, "1 X Y Z"]) -> Bool[Tensor, "1 x y z"]:
        """The occupied voxels."""
        device = next(self.network.parameters()).device
        return self.network.correct(pseudo_voxels.to(device)).argmax(dim=1) == 1


def _network(path: Path) -> CorrectedQueries:
    """The query network of a run or checkpoint."""
    model = load_model(path, "cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(model, LmscNet):
        raise InputError(
            f"holds a {type(model).__name__}",
            where=path,
            rule="queries are corrected by a query network",
            remedy="name a run of voxformer-queries-semantickitti or another query recipe",
        )
    return CorrectedQueries(model)


def _kitti_frames(root: Path, sequences: tuple[str, ...]) -> list[KittiFrame]:
    """The frames that have voxels and a left picture."""
    frames = frames_to_prepare(root, sequences, "voxels")
    kitti = [frame for frame in frames if isinstance(frame, KittiFrame)]
    if len(kitti) != len(frames):
        raise InputError(
            "not SemanticKITTI's layout",
            where=root,
            rule="pseudo voxels are made with the poses of sequences/NN/poses.txt",
            remedy="name a folder that holds `sequences`",
        )
    return kitti
