import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from occloom.town.nuscenes_rig import rotation_of
from occloom.town.nuscenes_tables import sample_token, token

TABLES = {
    "attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "map", "sample", "sample_annotation",
    "sample_data", "scene", "sensor", "visibility",
}  # fmt: skip
REFERENCES = {
    "scene": {"log_token": "log", "first_sample_token": "sample", "last_sample_token": "sample"},
    "sample": {"scene_token": "scene", "prev": "sample", "next": "sample"},
    "sample_data": {
        "sample_token": "sample",
        "ego_pose_token": "ego_pose",
        "calibrated_sensor_token": "calibrated_sensor",
        "prev": "sample_data",
        "next": "sample_data",
    },
    "calibrated_sensor": {"sensor_token": "sensor"},
}

Tables = dict[str, dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def tables(tiny_surround_town: Path) -> Tables:
    """Rows by token, by table."""
    folder = tiny_surround_town / "v1.0-trainval"
    found = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    assert all(len({row["token"] for row in rows}) == len(rows) for rows in found.values())
    return {name: {row["token"]: row for row in rows} for name, rows in found.items()}


@pytest.fixture(scope="module")
def annotations(tiny_surround_town: Path) -> dict[str, Any]:
    return json.loads((tiny_surround_town / "annotations.json").read_text())


def test_all_tables_are_there_and_every_token_resolves(tables: Tables) -> None:
    assert set(tables) == TABLES
    for table, fields in REFERENCES.items():
        for row in tables[table].values():
            for field, target in fields.items():
                assert row[field] in tables[target] or (field in ("prev", "next") and not row[field])
    (town_map,) = tables["map"].values()
    assert set(town_map["log_tokens"]) == set(tables["log"])


def test_samples_and_files_are_chained_in_time(tables: Tables) -> None:
    for scene in tables["scene"].values():
        chain = [tables["sample"][scene["first_sample_token"]]]
        while chain[-1]["next"]:
            chain.append(tables["sample"][chain[-1]["next"]])
        assert chain[-1]["token"] == scene["last_sample_token"]
        assert len(chain) == scene["nbr_samples"] == 2
        assert all(after["prev"] == before["token"] for before, after in pairwise(chain))
        assert [b["timestamp"] - a["timestamp"] for a, b in pairwise(chain)] == [500_000]
    for row in tables["sample_data"].values():
        if row["next"]:
            after = tables["sample_data"][row["next"]]
            assert after["prev"] == row["token"]
            assert after["timestamp"] > row["timestamp"]
            assert after["calibrated_sensor_token"] == row["calibrated_sensor_token"]


def test_each_sample_has_seven_sensors_and_a_camera_its_own_moment(tables: Tables) -> None:
    for sample in tables["sample"].values():
        rows = [r for r in tables["sample_data"].values() if r["sample_token"] == sample["token"] and r["is_key_frame"]]
        sensors = [tables["calibrated_sensor"][row["calibrated_sensor_token"]]["sensor_token"] for row in rows]
        assert {tables["sensor"][name]["channel"] for name in sensors} == {
            "CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT",
            "LIDAR_TOP",
        }  # fmt: skip
        assert len(rows) == 7
        delays = sorted(row["timestamp"] - sample["timestamp"] for row in rows)
        assert delays[0] > -50_000
        assert delays[-2] < delays[-1] == 0
        places = [tables["ego_pose"][row["ego_pose_token"]]["translation"] for row in rows]
        assert len(np.unique(np.round(places, 6), axis=0)) == 7
        assert all(tables["ego_pose"][row["ego_pose_token"]]["timestamp"] == row["timestamp"] for row in rows)


def test_every_file_is_there(tables: Tables, annotations: dict[str, Any], tiny_surround_town: Path) -> None:
    for row in tables["sample_data"].values():
        assert (tiny_surround_town / row["filename"]).is_file()
    for infos in annotations["scene_infos"].values():
        for info in infos.values():
            assert (tiny_surround_town / info["gt_path"]).is_file()


def test_annotations_say_what_the_tables_say(tables: Tables, annotations: dict[str, Any]) -> None:
    assert annotations["train_split"] == ["scene-0000"]
    assert annotations["val_split"] == ["scene-0001"]
    for scene, infos in annotations["scene_infos"].items():
        for name, info in infos.items():
            sample = tables["sample"][name]
            assert (info["timestamp"], info["prev"], info["next"]) == tuple(
                sample[key] for key in ("timestamp", "prev", "next")
            )
            assert info["gt_path"] == f"gts/{scene}/{name}/labels.npz"
            assert len(info["camera_sensor"]) == 6
            for key, camera in info["camera_sensor"].items():
                row = tables["sample_data"][key]
                sensor = tables["calibrated_sensor"][row["calibrated_sensor_token"]]
                assert camera["img_path"] == row["filename"]
                assert camera["intrinsic"] == sensor["camera_intrinsic"]
                assert camera["extrinsic"] == {k: sensor[k] for k in ("translation", "rotation")}
                pose = tables["ego_pose"][row["ego_pose_token"]]
                assert camera["ego_pose"] == {k: pose[k] for k in ("translation", "rotation")}


def test_the_car_drives_forward(tables: Tables) -> None:
    for scene in tables["scene"].values():
        poses = []
        for sample in ("first_sample_token", "last_sample_token"):
            (row,) = (
                row
                for row in tables["sample_data"].values()
                if row["sample_token"] == scene[sample] and row["fileformat"] == "pcd"
            )
            pose = tables["ego_pose"][row["ego_pose_token"]]
            poses.append((np.array(pose["translation"]), rotation_of(np.array(pose["rotation"]))))
        forward = poses[0][1].T @ (poses[1][0] - poses[0][0])
        assert 2 < forward[0] < 8
        assert abs(forward[1]) < 0.5


def test_tokens_depend_on_their_parts_alone() -> None:
    assert sample_token(7, "scene-0000", 1) == sample_token(7, "scene-0000", 1)
    tokens = {sample_token(seed, f"scene-{n:04d}", k) for seed in range(3) for n in range(5) for k in range(4)}
    assert len(tokens) == 60
    assert len(token("a")) == 32
    assert int(token("a"), 16) >= 0
