"""SemanticKITTI's files, read and written: one function a kind, no idea of a data set.

Frames and axes as in docs/conventions.md: the ego frame is the velodyne frame, voxels are X Y Z in C order, bits stand
most significant first. Facts: reference datasets_and_metrics 1.1 and 1.4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, UInt8, UInt16
from PIL import Image

from occloom.errors import InputError
from occloom.grid import Shape

POINT_BYTES = 16
DEPTH_STEPS_PER_METRE = 256.0


@dataclass(frozen=True)
class Calibration:
    """The calib.txt of a sequence."""

    projections: Float64[np.ndarray, "4 3 4"]
    """P0 to P3: pixels of camera i from points of the rectified camera 0."""
    camera0_from_velodyne: Float64[np.ndarray, "4 4"]
    """`Tr`, with the row 0 0 0 1."""

    def intrinsics(self, camera: int) -> Float64[np.ndarray, "3 3"]:
        """Pixels from camera metres, for the picture as it lies on disk."""
        return self.projections[camera, :, :3].copy()

    def camera_from_velodyne(self, camera: int) -> Float64[np.ndarray, "4 4"]:
        """From the velodyne to camera i, the offset in the fourth column of P_i included.

        P_i = K [I | o] with o = K^-1 P_i[:, 3], so the camera sees `Tr x + o`.
        """
        transform = self.camera0_from_velodyne.copy()
        transform[:3, 3] += np.linalg.solve(self.projections[camera, :, :3], self.projections[camera, :, 3])
        return transform


@runtime_checkable
class StereoFrame(Protocol):
    """Where the files of one moment of a stereo rig with a velodyne lie, in whichever layout."""

    @property
    def root(self) -> Path:
        """The data set's folder."""
        ...

    @property
    def token(self) -> str:
        """Sequence and frame, such as "08/000005"."""
        ...

    @property
    def left(self) -> Path:
        """Picture of the left camera, the one whose depth is prepared."""
        ...

    @property
    def right(self) -> Path:
        """Picture of the right camera."""
        ...

    @property
    def scan(self) -> Path:
        """Velodyne file."""
        ...

    @property
    def calibration_files(self) -> tuple[Path, ...]:
        """The files that `calibration` depends on, besides the pictures' size."""
        ...

    def calibration(self) -> Calibration:
        """Camera 2 is the left one and camera 3 the right one, for the pictures as they lie on disk.

        Raises:
            InputError: If a file it needs is missing or malformed.
        """
        ...


@dataclass(frozen=True)
class KittiFrame:
    """Where the files of one scan lie."""

    root: Path
    """Folder that holds `sequences`."""
    sequence: str
    """Two digits, such as "08"."""
    name: str
    """Six digits, such as "000005"."""

    @property
    def token(self) -> str:
        """Such as "08/000005"."""
        return f"{self.sequence}/{self.name}"

    @property
    def folder(self) -> Path:
        """The sequence's folder."""
        return self.root / "sequences" / self.sequence

    def file(self, kind: str, suffix: str) -> Path:
        """The frame's file in one of the sequence's folders, as in `file("voxels", ".bin")`."""
        return self.folder / kind / f"{self.name}{suffix}"

    @property
    def left(self) -> Path:
        """Picture of the left colour camera."""
        return self.file("image_2", ".png")

    @property
    def right(self) -> Path:
        """Picture of the right colour camera."""
        return self.file("image_3", ".png")

    @property
    def scan(self) -> Path:
        """Velodyne file."""
        return self.file("velodyne", ".bin")

    @property
    def calibration_files(self) -> tuple[Path, ...]:
        """The sequence's calib.txt."""
        return (self.folder / "calib.txt",)

    def calibration(self) -> Calibration:
        """What the sequence's calib.txt says.

        Raises:
            InputError: If it is missing or malformed.
        """
        return read_calibration(*self.calibration_files)


def pack_bits(bits: Bool[np.ndarray, "*shape"]) -> UInt8[np.ndarray, " bytes"]:
    """Eight voxels a byte in C order, the first in the most significant bit."""
    return np.packbits(bits)


def unpack_bits(packed: UInt8[np.ndarray, " bytes"], shape: Shape) -> Bool[np.ndarray, "X Y Z"]:
    """The inverse of `pack_bits`, for a grid of `shape`."""
    return np.unpackbits(packed, count=int(np.prod(shape))).reshape(shape).view(np.bool_)


def read_voxel_bits(path: Path, shape: Shape) -> Bool[np.ndarray, "X Y Z"]:
    """A `.bin`, `.invalid` or `.occluded` file.

    Raises:
        InputError: If the file is missing or its size is not that of the grid.
    """
    return unpack_bits(_read_sized(path, np.uint8, -(-int(np.prod(shape)) // 8), f"one bit a voxel of {shape}"), shape)


def read_voxel_mask(path: Path, shape: Shape) -> Bool[np.ndarray, "X Y Z"]:
    """A mask of one bit or of one byte a voxel, told apart by the file's size; SSCBench writes bytes.

    Raises:
        InputError: If the file is missing or its size is that of neither form.
    """
    voxels = int(np.prod(shape))
    if path.is_file() and path.stat().st_size == voxels:
        return (np.fromfile(path, dtype=np.uint8) != 0).reshape(shape)
    rule = f"one bit or one byte a voxel of {shape}"
    return unpack_bits(_read_sized(path, np.uint8, -(-voxels // 8), rule), shape)


def write_voxel_bytes(path: Path, mask: Bool[np.ndarray, "X Y Z"]) -> None:
    """Write a mask with one byte a voxel."""
    _parent(path).write_bytes(mask.astype(np.uint8).tobytes())


def write_voxel_bits(path: Path, bits: Bool[np.ndarray, "X Y Z"]) -> None:
    """Write a `.bin`, `.invalid` or `.occluded` file."""
    _parent(path).write_bytes(pack_bits(bits).tobytes())


def read_voxel_labels(path: Path, shape: Shape) -> UInt16[np.ndarray, "X Y Z"]:
    """A `.label` file of voxels: raw ids.

    Raises:
        InputError: If the file is missing or its size is not that of the grid.
    """
    return _read_sized(path, np.dtype("<u2"), int(np.prod(shape)), f"two bytes a voxel of {shape}").reshape(shape)


def write_voxel_labels(path: Path, raw: UInt16[np.ndarray, "X Y Z"]) -> None:
    """Write a `.label` file of voxels from raw ids."""
    _parent(path).write_bytes(raw.astype("<u2", copy=False).tobytes())


def read_points(path: Path) -> Float32[np.ndarray, "P 4"]:
    """A velodyne `.bin` file: x, y, z in metres and the remission in [0, 1].

    Raises:
        InputError: If the file is missing or does not hold whole points.
    """
    data = _read_bytes(path)
    if len(data) % POINT_BYTES:
        raise InputError(
            f"the scan has {len(data)} bytes",
            where=path,
            rule=f"a scan has {POINT_BYTES} bytes a point",
            remedy="the file is truncated: fetch it again",
        )
    return np.frombuffer(data, dtype="<f4").reshape(-1, 4).copy()


def write_points(path: Path, points: Float[np.ndarray, "P 4"]) -> None:
    """Write a velodyne `.bin` file from x, y, z, remission."""
    _parent(path).write_bytes(points.astype("<f4").tobytes())


def read_point_labels(path: Path) -> tuple[UInt16[np.ndarray, " P"], UInt16[np.ndarray, " P"]]:
    """A point `.label` file: the raw ids and the instance ids.

    Raises:
        InputError: If the file is missing or does not hold whole labels.
    """
    data = _read_bytes(path)
    if len(data) % 4:
        raise InputError(
            f"the label file has {len(data)} bytes",
            where=path,
            rule="point labels have 4 bytes a point",
            remedy="the file is truncated: fetch it again",
        )
    halves = np.frombuffer(data, dtype="<u2").reshape(-1, 2)
    return halves[:, 0].copy(), halves[:, 1].copy()


def write_point_labels(path: Path, raw: UInt16[np.ndarray, " P"], instances: UInt16[np.ndarray, " P"]) -> None:
    """Write a point `.label` file; the instance id stands in the upper 16 bits."""
    _parent(path).write_bytes(np.stack([raw, instances], axis=1).astype("<u2", copy=False).tobytes())


def read_calibration(path: Path) -> Calibration:
    """A calib.txt with P0 to P3 and Tr.

    Raises:
        InputError: If the file or one of its lines is missing or malformed.
    """
    rows: dict[str, np.ndarray] = {}
    for line in _read_lines(path):
        key, _, values = line.partition(":")
        if key in ("P0", "P1", "P2", "P3", "Tr"):
            rows[key] = _numbers(values, 12, path, key).reshape(3, 4)
    missing = [key for key in ("P0", "P1", "P2", "P3", "Tr") if key not in rows]
    if missing:
        raise InputError(
            f"no line {missing[0]}",
            where=path,
            rule="a calib.txt has the lines P0, P1, P2, P3 and Tr",
            remedy="take the file from KITTI's odometry calibration download; the one beside the images lacks Tr",
        )
    return Calibration(
        projections=np.stack([rows[f"P{i}"] for i in range(4)]), camera0_from_velodyne=_with_last_row(rows["Tr"])
    )


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write a calib.txt that reads back to the same float64 numbers."""
    rows = {f"P{i}": matrix for i, matrix in enumerate(calibration.projections)}
    rows["Tr"] = calibration.camera0_from_velodyne[:3]
    _parent(path).write_text("".join(f"{key}: {_line(matrix)}\n" for key, matrix in rows.items()))


def read_poses(path: Path) -> Float64[np.ndarray, "N 4 4"]:
    """A poses.txt: camera 0 of each frame in the frame of the first one's camera 0.

    Raises:
        InputError: If the file is missing or malformed.
    """
    lines = _read_lines(path)
    poses = [_with_last_row(_numbers(row, 12, path, f"row {i}").reshape(3, 4)) for i, row in enumerate(lines)]
    return np.stack(poses) if poses else np.zeros((0, 4, 4))


def write_poses(path: Path, poses: Float64[np.ndarray, "N 4 4"]) -> None:
    """Write a poses.txt that reads back to the same float64 numbers."""
    _parent(path).write_text("".join(f"{_line(pose[:3])}\n" for pose in poses))


def velodyne_poses(poses: Float64[np.ndarray, "N 4 4"], calibration: Calibration) -> Float64[np.ndarray, "N 4 4"]:
    """The velodyne of each frame in the frame of the first one's: T = Tr^-1 P Tr."""
    camera0_from_velodyne = calibration.camera0_from_velodyne
    return np.linalg.inv(camera0_from_velodyne) @ poses @ camera0_from_velodyne


def read_times(path: Path) -> Float64[np.ndarray, " N"]:
    """A times.txt: seconds since the first frame.

    Raises:
        InputError: If the file is missing or malformed.
    """
    lines = _read_lines(path)
    return np.array([_numbers(row, 1, path, f"row {i}")[0] for i, row in enumerate(lines)], dtype=np.float64)


def require_row(rows: Float64[np.ndarray, "N *row"], path: Path, frame: str) -> None:
    """Refuse a poses.txt or times.txt that ends before a frame.

    Args:
        rows: Of the file.
        path: The file.
        frame: Name of the frame, such as "000005".

    Raises:
        InputError: If it has no row for the frame.
    """
    if int(frame) >= len(rows):
        raise InputError(
            f"no row for frame {frame}",
            where=path,
            rule="poses.txt and times.txt have a row a scan",
            remedy="the file is truncated: fetch it again",
        )


def write_times(path: Path, times: Sequence[float] | Float64[np.ndarray, " N"]) -> None:
    """Write a times.txt in seconds, in KITTI's format."""
    _parent(path).write_text("".join(f"{time:.6e}\n" for time in times))


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    _parent(path).write_text(text)


def read_image(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """A colour picture as RGB.

    Raises:
        InputError: If the file is missing or cannot be decoded.
    """
    return np.asarray(open_image(path).convert("RGB"))


def read_image_size(path: Path) -> tuple[int, int]:
    """Height and width of a picture, from its header alone.

    Raises:
        InputError: If the file is missing or no picture.
    """
    if not path.is_file():
        raise _missing(path)
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError) as error:
        raise _undecodable(path, error) from error


def open_image(path: Path) -> Image.Image:
    """A picture, decoded.

    Raises:
        InputError: If the file is missing or cannot be decoded.
    """
    if not path.is_file():
        raise _missing(path)
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, SyntaxError) as error:
        raise _undecodable(path, error) from error


def write_image(path: Path, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Write an RGB picture."""
    Image.fromarray(image).save(_parent(path))


def read_depth_png(path: Path) -> Float32[np.ndarray, "H W"]:
    """KITTI's 16-bit depth picture: z-depth in metres (value / 256), 0 = unknown.

    Raises:
        InputError: If the file is missing, cannot be decoded or is not 16 bits deep.
    """
    image = open_image(path)
    if image.mode not in ("I;16", "I;16B", "I"):
        raise InputError(
            f"the picture has mode {image.mode}",
            where=path,
            rule="a depth picture has one channel of 16 bits",
            remedy="name a KITTI depth picture",
        )
    return np.asarray(image).astype(np.float32) / np.float32(DEPTH_STEPS_PER_METRE)


def _parent(path: Path) -> Path:
    """`path`, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _missing(path: Path) -> InputError:
    """The error for a file that is not there."""
    return InputError("no such file", where=path, remedy="check the root folder and that the download is complete")


def _undecodable(path: Path, error: Exception) -> InputError:
    """The error for a file that is no whole picture."""
    return InputError(
        "the picture cannot be decoded",
        where=path,
        rule=f"the decoder says: {error}",
        remedy="the file is damaged: fetch it again",
    )


def _read_lines(path: Path) -> list[str]:
    """The lines of a text file, or an InputError."""
    try:
        return _read_bytes(path).decode().splitlines()
    except UnicodeDecodeError as error:
        raise InputError(
            f"not text ({error})", where=path, rule="the file is UTF-8 text", remedy="fetch it again"
        ) from error


def _read_bytes(path: Path) -> bytes:
    """The file's bytes, or an InputError."""
    if not path.is_file():
        raise _missing(path)
    return path.read_bytes()


def _read_sized(path: Path, dtype: np.dtype | type, count: int, rule: str) -> np.ndarray:
    """The file's numbers, of which there must be `count`."""
    if not path.is_file():
        raise _missing(path)
    expected, found = count * np.dtype(dtype).itemsize, path.stat().st_size
    if found != expected:
        raise InputError(
            f"the file has {found} bytes, expected {expected}",
            where=path,
            rule=rule,
            remedy="the file is truncated or of another grid: fetch it again",
        )
    return np.fromfile(path, dtype=dtype)


def _numbers(text: str, count: int, path: Path, name: str) -> np.ndarray:
    """`count` float64 numbers from text."""
    try:
        values = np.array([float(word) for word in text.split()], dtype=np.float64)
    except ValueError as error:
        raise InputError(
            f"{name}: {error}", where=path, rule=f"expected {count} numbers", remedy="fetch the file again"
        ) from error
    if len(values) != count or not np.isfinite(values).all():
        what = f"{len(values)} numbers" if len(values) != count else "a number that is NaN or infinite"
        raise InputError(
            f"{name} has {what}", where=path, rule=f"expected {count} finite numbers", remedy="fetch the file again"
        )
    return values


def _with_last_row(matrix: np.ndarray) -> Float64[np.ndarray, "4 4"]:
    """A 3x4 matrix with the row 0 0 0 1 below."""
    return np.vstack([matrix, [0.0, 0.0, 0.0, 1.0]])


def _line(matrix: np.ndarray) -> str:
    """A matrix row by row, each number with the fewest digits that give it back."""
    return " ".join(repr(float(value)) for value in matrix.ravel())
