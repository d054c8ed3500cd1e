import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from occloom.data.occ3d_labels import OCC3D, OCC3D_GRID
from occloom.town.exact_labels import exact_labels
from occloom.town.mesh import World
from occloom.town.nuscenes_rig import CAMERAS, rotation_of
from occloom.town.nuscenes_tables import write_tables
from occloom.town.nuscenes_writer import SurroundSettings, scene_name, write_scene
from occloom.town.occ3d_ids import to_occ3d_ids
from occloom.town.scene_rays import WorldRays

SIZE = (45, 80)


def settings(**changed: Any) -> SurroundSettings:
    return SurroundSettings(
        **{
            "seed": 3,
            "frames": 2,
            "image_size": SIZE,
            "labels": "scans",
            "label_seconds": 1.0,
            "sweeps": "none",
            **changed,
        }
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, plain_world: World) -> Path:
    """Two keyframes of the hand-made world, with all sweeps between them."""
    folder, done = tmp_path_factory.mktemp("scene"), []
    write_scene(folder, 5, plain_world, settings(sweeps="all"), split="val", after_frame=lambda: done.append(None))
    assert len(done) == 2
    write_tables(folder)
    return folder


@pytest.fixture(scope="module")
def rows(root: Path) -> list[dict[str, Any]]:
    """sample_data, each row with its matrices."""
    names = ("sample_data", "ego_pose", "calibrated_sensor")
    tables = {
        name: {row["token"]: row for row in json.loads((root / "v1.0-trainval" / f"{name}.json").read_text())}
        for name in names
    }

    def matrix(row: dict[str, Any]) -> np.ndarray:
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation_of(np.array(row["rotation"])), row["translation"]
        return pose

    found = []
    for row in tables["sample_data"].values():
        sensor = tables["calibrated_sensor"][row["calibrated_sensor_token"]]
        world_from_ego = matrix(tables["ego_pose"][row["ego_pose_token"]])
        found.append(
            {**row, "world_from_ego": world_from_ego, "world_from_sensor": world_from_ego @ matrix(sensor)}
            | {"intrinsics": np.array(sensor["camera_intrinsic"]), "channel": row["filename"].split("/")[1]}
        )
    return found


def scan_of(root: Path, row: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Points in the world and the raw columns of a scan."""
    raw = np.fromfile(root / row["filename"], np.float32).reshape(-1, 5)
    pose = row["world_from_sensor"]
    return raw[:, :3] @ pose[:3, :3].T + pose[:3, 3], raw


def of(rows: list[dict[str, Any]], channel: str, *, keyframe: bool) -> list[dict[str, Any]]:
    found = [row for row in rows if row["channel"] == channel and row["is_key_frame"] is keyframe]
    return sorted(found, key=lambda row: row["timestamp"])


def test_sweeps_come_at_the_rates_of_the_sensors(rows: list[dict[str, Any]]) -> None:
    scans = sorted(row["timestamp"] for row in rows if row["channel"] == "LIDAR_TOP")
    assert set(np.diff(scans)) == {50_000}
    assert len(scans) == 11
    for camera in CAMERAS:
        times = sorted(row["timestamp"] for row in rows if row["channel"] == camera.channel)
        np.testing.assert_allclose(np.diff(times), 1e6 / 12, atol=1)
        assert len(times) == 7
        assert {row["filename"].split("/")[0] for row in of(rows, camera.channel, keyframe=False)} == {"sweeps"}
    last = of(rows, "LIDAR_TOP", keyframe=True)[-1]["sample_token"]
    assert all(row["sample_token"] == last for row in rows if not row["is_key_frame"])


def test_points_lie_on_the_wall_and_the_road_wherever_the_car_is(root: Path, rows: list[dict[str, Any]]) -> None:
    for row in of(rows, "LIDAR_TOP", keyframe=True):
        points, raw = scan_of(root, row)
        assert raw.shape[1] == 5
        assert set(np.unique(raw[:, 4])) <= set(range(32))
        assert raw[raw[:, 4] == 0, 2].max() < -0.5  # ring 0 is the lowest
        assert 0 <= raw[:, 3].min() <= raw[:, 3].max() <= 255
        assert raw[:, 3].max() > 20
        wall = points[(points[:, 1] > 7.5)]
        road = points[(np.abs(points[:, 1]) < 2.5) & (points[:, 0] < 5)]
        np.testing.assert_allclose(wall[:, 1].mean(), 8.05, atol=0.01)
        np.testing.assert_allclose(np.abs(road[:, 2]), 0, atol=0.08)


@pytest.mark.parametrize("camera", [camera.channel for camera in CAMERAS])
def test_the_depth_beside_a_picture_is_that_of_the_points(root: Path, rows: list[dict[str, Any]], camera: str) -> None:
    (row, _), (scan, _) = of(rows, camera, keyframe=True), of(rows, "LIDAR_TOP", keyframe=True)
    depth = np.load(root / "depth" / "town-exact" / camera / f"{Path(row['filename']).stem}.npy")
    assert depth.shape == SIZE
    assert depth.dtype == np.float16
    points, _ = scan_of(root, scan)
    camera_from_world = np.linalg.inv(row["world_from_sensor"])
    seen = (points @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]) @ row["intrinsics"].T
    u, v = np.round(seen[:, :2] / np.maximum(seen[:, 2:], 0.1)).astype(int).T
    inside = (seen[:, 2] > 0.5) & (u >= 0) & (u < SIZE[1]) & (v >= 0) & (v < SIZE[0])
    error = np.abs(depth[v[inside], u[inside]] - seen[inside, 2]) / seen[inside, 2]
    assert inside.sum() > 300
    assert np.median(error) < 0.03  # a pixel is 2 % of a metre wide at 1 m, and the ground is seen at a slant
    assert (error < 0.15).mean() > 0.85


def test_pictures_show_the_sky_where_the_depth_has_none(root: Path, rows: list[dict[str, Any]]) -> None:
    compared = 0
    for camera in CAMERAS:
        for row in of(rows, camera.channel, keyframe=True):
            picture = np.asarray(Image.open(root / row["filename"])).astype(float)
            assert picture.shape == (*SIZE, 3)
            assert (row["height"], row["width"]) == SIZE
            depth = np.load(root / "depth" / "town-exact" / camera.channel / f"{Path(row['filename']).stem}.npy")
            blueness, sky = picture[..., 2] - picture[..., 0], depth == 0
            compared += bool(sky.any())
            assert not sky.any() or blueness[sky].mean() > blueness[~sky].mean() + 5
    assert compared > 6  # some cameras look at the wall alone


def test_masks_hold_one_another_and_labels_are_those_of_the_surfaces(
    root: Path, rows: list[dict[str, Any]], plain_world: World
) -> None:
    rays = WorldRays(plain_world)
    for frame, row in enumerate(of(rows, "LIDAR_TOP", keyframe=True)):
        with np.load(root / "gts" / scene_name(5) / row["sample_token"] / "labels.npz") as file:
            semantics, lidar, camera = (file[name] for name in ("semantics", "mask_lidar", "mask_camera"))
        for array in (semantics, lidar, camera):
            assert array.shape == OCC3D_GRID.shape
            assert array.dtype == np.uint8
        filled = semantics != OCC3D.empty
        assert set(np.unique(camera)) == {0, 1}
        assert lidar[filled].all()
        assert lidar[camera == 1].all()
        assert 0.05 < camera[filled].mean() < 0.95
        time = 1.0 + 0.5 * frame
        exact = exact_labels(rays.mesh(time), np.linalg.inv(plain_world.ego.pose(time)), OCC3D_GRID)
        assert (semantics == to_occ3d_ids(exact))[filled].mean() > 0.95
        # Behind the wall, 8.05 m to the left, nothing is observed.
        assert not lidar[:, 124:].any()


def test_the_same_settings_give_the_same_bytes_and_exact_labels_other_ones(tmp_path: Path, plain_world: World) -> None:
    for name, labels in (("one", "scans"), ("two", "scans"), ("three", "exact")):
        chosen = settings(frames=1, image_size=(9, 16), labels=labels, label_seconds=0.1)
        write_scene(tmp_path / name, 0, plain_world, chosen, split="train", after_frame=lambda: None)
    one, two, three = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("one", "two", "three")
    )
    assert one == two
    assert [path for path in one if one[path] != three[path]] == [path for path in one if path.suffix == ".npz"]
