import io
import json
from pathlib import Path

import numpy as np
import pytest
from made_nuscenes import VERSION, YAWS
from scipy.spatial.transform import Rotation

from occloom.data import nuscenes_files
from occloom.data.nuscenes_files import Tables, read_lidar, read_tables, rotation_matrix, scene_names, write_lidar
from occloom.errors import InputError

ALL = ("scene-0001", "scene-0002", "scene-0003")


def read(root: Path, channels: tuple[str, ...] = tuple(YAWS)) -> Tables:
    return read_tables(root, VERSION, scenes=ALL, channels=channels)


def change(root: Path, table: str, row: int, **fields) -> None:
    """Replace fields of a table's row; those that are None are left out."""
    path = root / VERSION / f"{table}.json"
    rows = json.loads(path.read_text())
    rows[row] = {name: value for name, value in {**rows[row], **fields}.items() if value is not None}
    path.write_text(json.dumps(rows))


def test_scenes_and_keyframes_stand_in_the_order_of_time(made_nuscenes: Path):
    assert scene_names(made_nuscenes, VERSION) == ALL
    tables = read(made_nuscenes)
    assert [len(tables.scenes[name]) for name in ALL] == [3, 2, 1]
    first, second, third = tables.scenes["scene-0001"]
    assert first.timestamp < second.timestamp < third.timestamp
    assert (tables.before(third), tables.before(second), tables.before(first)) == (second, first, None)
    assert tables.before(tables.scenes["scene-0002"][0]) is None
    assert third.token == f"scene-0001/{third.sample}"


def test_only_what_is_asked_for_is_kept(made_nuscenes: Path):
    tables = read_tables(made_nuscenes, VERSION, scenes=["scene-0002"], channels=["CAM_BACK"])
    assert list(tables.scenes) == ["scene-0002"]
    assert {channel for k in tables.keyframes.values() for channel in k.recordings} == {"CAM_BACK", "LIDAR_TOP"}


def test_poses_are_those_of_scipy(made_nuscenes: Path):
    rows = {row["token"]: row for row in json.loads((made_nuscenes / VERSION / "ego_pose.json").read_text())}
    keyframe = read(made_nuscenes).scenes["scene-0001"][2]
    for channel, recording in keyframe.recordings.items():
        row = rows[f"pose {channel} {keyframe.sample}"]
        expected = Rotation.from_quat(row["rotation"], scalar_first=True).as_matrix()
        np.testing.assert_allclose(recording.global_from_ego[:3, :3], expected, atol=1e-12)
        assert recording.global_from_ego[:3, 3].tolist() == row["translation"]
    recording = keyframe.recordings["CAM_FRONT"]
    assert not np.allclose(recording.global_from_ego, keyframe.lidar.global_from_ego, atol=0.1)
    product = recording.global_from_ego @ recording.ego_from_sensor
    np.testing.assert_array_equal(recording.global_from_sensor, product)


def test_quaternions_need_not_be_of_length_one():
    quaternions = np.random.default_rng(0).normal(size=(20, 4))
    for quaternion in quaternions:
        expected = Rotation.from_quat(quaternion, scalar_first=True).as_matrix()
        np.testing.assert_allclose(rotation_matrix(quaternion), expected, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 7, 64])
@pytest.mark.parametrize("indent", [None, 0, 2])
def test_rows_are_those_of_json_however_the_file_is_cut(
    monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None
):
    monkeypatch.setattr(nuscenes_files, "CHUNK", chunk)
    rows = [{"token": "a]},[{", "n": [1, 2.5, {"x": '\\"'}]}, {}, {"é": None, "t": True}]
    assert list(nuscenes_files._objects(io.StringIO("\n" + json.dumps(rows, indent=indent) + "\n"))) == rows
    assert list(nuscenes_files._objects(io.StringIO(" [ ] "))) == []


@pytest.mark.parametrize("text", ["", "{}", "[", '[{"a": 1}', '[{"a": 1', "[1]", '[{"a": 1} x]', "nonsense"])
def test_a_damaged_table_is_named(own_nuscenes: Path, text: str):
    path = own_nuscenes / VERSION / "sample.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"sample\.json: (the table cannot be read|scene_token of row)"):
        read(own_nuscenes)


def test_a_row_without_end_is_not_read_into_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nuscenes_files, "CHUNK", 10)
    monkeypatch.setattr(nuscenes_files, "LONGEST_ROW", 100)
    file = io.StringIO('[{"a": "' + "x" * 10_000)
    with pytest.raises(ValueError, match="Unterminated"):
        list(nuscenes_files._objects(file))
    assert file.tell() < 200


@pytest.mark.parametrize("table", ["scene", "sample", "sample_data", "ego_pose", "calibrated_sensor", "sensor"])
def test_a_missing_table_is_named(own_nuscenes: Path, table: str):
    (own_nuscenes / VERSION / f"{table}.json").unlink()
    with pytest.raises(InputError, match=rf"{table}\.json: no such table; scene, sample, .*check root and version"):
        read(own_nuscenes)


@pytest.mark.parametrize(
    ("table", "field"),
    [
        ("sample_data", "calibrated_sensor_token"),
        ("sample_data", "ego_pose_token"),
        ("calibrated_sensor", "sensor_token"),
    ],
)
def test_a_token_that_another_table_lacks_is_named(own_nuscenes: Path, table: str, field: str):
    change(own_nuscenes, table, 0, **{field: "nowhere"})
    with pytest.raises(InputError, match=rf"{table}\.json: unknown token nowhere"):
        read(own_nuscenes)


def test_an_unknown_previous_keyframe_is_named(own_nuscenes: Path):
    change(own_nuscenes, "sample", 1, prev="nowhere")
    tables = read(own_nuscenes)
    with pytest.raises(InputError, match=r"sample\.json: unknown token nowhere"):
        tables.before(tables.scenes["scene-0001"][1])


@pytest.mark.parametrize(
    ("table", "row", "fields", "message"),
    [
        ("scene", 0, {"name": None}, "name of row token of scene-0001 is missing; it is text"),
        ("sample", 0, {"timestamp": "soon"}, "timestamp of row .* is 'soon'; it is a whole number"),
        ("ego_pose", 0, {"translation": [1, 2]}, "translation of row .*; it is 3 finite numbers"),
        ("ego_pose", 0, {"rotation": [0, 0, 0, 0]}, "a quaternion w, x, y, z of length 1"),
        ("calibrated_sensor", 0, {"camera_intrinsic": [[1, 2], [3]]}, "it is 3x3 finite numbers"),
        ("sample_data", 0, {"filename": "../../secret"}, "filename is '../../secret'; files lie below root"),
        ("sample_data", 0, {"filename": "/etc/passwd"}, "filename is '/etc/passwd'"),
        ("sample_data", 12, {"is_key_frame": False}, "has no recording of LIDAR_TOP"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(own_nuscenes: Path, table: str, row: int, fields: dict, message: str):
    change(own_nuscenes, table, row, **fields)
    with pytest.raises(InputError, match=message):
        read(own_nuscenes)


def test_lidar_files_come_back(tmp_path: Path):
    points = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    write_lidar(tmp_path / "a" / "sweep.pcd.bin", points)
    np.testing.assert_array_equal(read_lidar(tmp_path / "a" / "sweep.pcd.bin"), points)
    with pytest.raises(InputError, match=r"no\.bin: no such LiDAR sweep"):
        read_lidar(tmp_path / "no.bin")
    (tmp_path / "cut.bin").write_bytes(points.tobytes()[:-3])
    with pytest.raises(InputError, match=r"cut\.bin: the sweep has 137 bytes; a sweep has 20 bytes a point"):
        read_lidar(tmp_path / "cut.bin")


@pytest.mark.real_data
def test_real_tables_say_what_the_flashocc_info_says_of_another_drive_of_the_same_car(real_data: Path):
    """The LiDAR is mounted alike in both; intrinsics belong to the car too."""
    info = json.loads((real_data / "nuscenes_flashocc_sample0" / "info.json").read_text())
    tables = read_tables(
        real_data / "nuscenes_scene0061", "v1.0-test", scenes=["scene-0061"], channels=tuple(info["cams"])
    )
    (keyframe,) = tables.keyframes.values()
    expected = Rotation.from_quat(info["lidar2ego_rotation"], scalar_first=True).as_matrix()
    np.testing.assert_allclose(keyframe.lidar.ego_from_sensor[:3, :3], expected, atol=1e-9)
    assert keyframe.lidar.ego_from_sensor[:3, 3].tolist() == info["lidar2ego_translation"]
    for channel, camera in info["cams"].items():
        recording = keyframe.recordings[channel]
        assert recording.intrinsics.tolist() == camera["cam_intrinsic"]
        lidar_from_camera = np.linalg.inv(keyframe.lidar.ego_from_sensor) @ recording.ego_from_sensor
        # Both drive at most a metre within the 50 ms between camera and LiDAR.
        np.testing.assert_allclose(lidar_from_camera[:3, :3], camera["sensor2lidar_rotation"], atol=0.02)
        assert np.abs(lidar_from_camera[:3, 3] - camera["sensor2lidar_translation"]).max() < 1


@pytest.mark.real_data
def test_a_real_lidar_file_has_the_rings_of_32_beams(real_data: Path):
    points = read_lidar(real_data / "nuscenes_flashocc_sample0" / "lidar_0.bin")
    assert points.shape == (34720, 5)
    assert np.unique(points[:, 4]).tolist() == list(range(32))
    assert points[:, 3].min() >= 0
    assert points[:, 3].max() <= 255
