from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree

from occloom.cli.main import run
from occloom.data.occ3d import Occ3dConfig
from occloom.data.prior_sources import TOWN_DEPTH
from occloom.geometry.rigid import invert
from occloom.interfaces import Needs
from occloom.scene import Sample, collate


def opened(root: Path, prior: str, *, features: bool = False, index: int = 0) -> Sample:
    config = Occ3dConfig(root=root, image_size=(24, 64), keyframes=(0,), prior=Path(prior))
    return config.build("train", Needs(prior_depth=True, prior_features=features)).sample(index)


def test_lidars_prior_is_prepared_once_and_read_by_the_data_set(own_nuscenes: Path, capsys: pytest.CaptureFixture[str]):
    command = ["prepare", "depth-prior", "--root", str(own_nuscenes), "--source", "lidar", "--size", "36", "64"]
    assert run(command) == 0
    assert "Depth priors of 36 pictures" in capsys.readouterr().out
    files = sorted((own_nuscenes / "prior" / "lidar").rglob("*.npz"))
    assert len(files) == 36
    written = [file.stat().st_mtime_ns for file in files]
    assert run(command) == 0
    assert [file.stat().st_mtime_ns for file in files] == written
    sample = opened(own_nuscenes, "lidar")
    prior, cameras = sample.scene.prior, sample.scene.cameras
    assert prior is not None
    assert prior.depth.shape == (1, 6, 36, 64)
    assert prior.features is None
    # Pictures of 72x128 became 36x64 here, and 24x64 by cutting rows off there: columns agree.
    np.testing.assert_allclose(prior.intrinsics[..., 0, :], cameras.intrinsics[:, 0, :, 0, :], atol=1e-12)
    both = collate([sample, opened(own_nuscenes, "lidar", index=1)]).scene.prior
    assert both is not None
    assert both.depth.shape == (2, 6, 36, 64)


def test_the_towns_depth_and_features_of_files_are_prepared(own_nuscenes: Path, tmp_path: Path):
    for path in (own_nuscenes / "samples").glob("CAM_*/*.png"):
        exact = own_nuscenes / TOWN_DEPTH / path.parent.name / f"{path.stem}.npy"
        exact.parent.mkdir(parents=True, exist_ok=True)
        np.save(exact, np.full((72, 128), 8, np.float16))
    root = ["--root", str(own_nuscenes), "--scenes", "scene-0001"]
    noise = ["--noise.scale", "0.2", "--noise.seed", "3"]
    assert run(["prepare", "depth-prior", *root, "--source", "town-exact", *noise]) == 0
    prior = opened(own_nuscenes, "town-exact").scene.prior
    assert prior is not None
    assert prior.depth.shape == (1, 6, 72, 128)
    scales = prior.depth.mean(dim=(0, 2, 3)) / 8
    assert 0.05 < scales.std() < 0.5
    for entry in (own_nuscenes / "prior" / "town-exact").rglob("*.npz"):
        other = tmp_path / "made" / entry.relative_to(own_nuscenes / "prior" / "town-exact")
        other.parent.mkdir(parents=True, exist_ok=True)
        np.save(other.with_suffix(".npy"), np.full((18, 32), 5, np.float32))
        np.save(other.with_name(f"{other.stem}.features.npy"), np.ones((4, 2, 3), np.float32))
    assert run(["prepare", "depth-prior", *root, "--source", "file", "--files", str(tmp_path / "made")]) == 0
    prior = opened(own_nuscenes, "file", features=True).scene.prior
    assert prior is not None
    assert prior.features is not None
    assert prior.features.shape == (1, 6, 4, 2, 3)


@pytest.mark.real_data
def test_a_real_keyframes_prior_lies_on_the_points_of_its_sweep(real_data: Path, tmp_path: Path):
    root, folder = real_data / "nuscenes_scene0523", tmp_path / "prior"
    command = ["prepare", "depth-prior", "--root", str(root), "--version", "v1.0-mini", "--out", str(folder)]
    assert run([*command, "--source", "lidar"]) == 0
    config = Occ3dConfig(root=root, version="v1.0-mini", train=("scene-0523",), val=(), prior=folder)
    dataset = config.build("train", Needs(images=False, points=True, prior_depth=True))
    scene = dataset.sample(2).scene
    assert scene.prior is not None
    assert scene.points is not None
    depth = scene.prior.depth[0].double()
    assert depth.shape == (6, 225, 400)
    # Of 90,000 pixels a sweep of 32 beams hits some thousands in each picture.
    assert ((depth > 0).sum(dim=(1, 2)) > 2000).all()
    sweep = KDTree(scene.points.positions[scene.points.time == 0].numpy())
    for n in range(6):
        rows, columns = torch.nonzero(depth[n], as_tuple=True)
        z = depth[n, rows, columns]
        pixels = torch.stack([columns, rows, torch.ones_like(rows)]).double()
        seen = torch.linalg.inv(scene.prior.intrinsics[0, n]) @ pixels * z
        ego = invert(scene.cameras.camera_from_ego[0, 0, n]) @ torch.cat([seen, torch.ones(1, len(z))])
        distance, _ = sweep.query(ego[:3].T.numpy())
        # Half a pixel of the prior along both axes, and float16 in depth.
        off_centre = z.numpy() * 2**-0.5 / scene.prior.intrinsics[0, n, 0, 0].item()
        assert (distance < off_centre + z.numpy() * 2**-10 + 1e-3).all()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--source", "moge"], "--weights"),
        (["--source", "moge", "--weights", "{root}/no.pt"], "huggingface.co/Ruicheng/moge-2-vits-normal"),
        (["--source", "file"], "--files"),
        (["--source", "file", "--files", "{root}"], "no such file"),
        (["--source", "town-exact"], "no such file"),
        (["--source", "town-exact", "--noise.scale", "-1"], "scale is -1"),
        (["--source", "lidar", "--scenes", "scene-9999"], "no scene scene-9999"),
        (["--source", "lidar", "--size", "0", "4"], "--size is 0 4"),
        (["--source", "lidar", "--version", "v1.0-mini"], "no such table"),
        (["--source", "lidar", "--out", "{root}"], "not empty"),
    ],
)
def test_mistakes_give_one_line_and_code_2(own_nuscenes, capsys, arguments, named):
    given = [argument.format(root=own_nuscenes) for argument in arguments]
    assert run(["prepare", "depth-prior", "--root", str(own_nuscenes), *given]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_a_data_set_without_a_prior_says_what_to_run(own_nuscenes: Path):
    with pytest.raises(ValueError, match="occloom prepare depth-prior"):
        Occ3dConfig(root=own_nuscenes).build("train", Needs(prior_depth=True))
